// What an affine map needs beside its matrix products.
#include "common.cuh"

// y += bias, row by row: one block a row.
template <class T>
static __device__ __forceinline__ void add_bias(T* y, const float* bias, size_t rows, unsigned c) {
  for (size_t row = blockIdx.x; row < rows; row += gridDim.x)
    for (unsigned i = threadIdx.x; i < c; i += blockDim.x) store(y + row * c + i, load(y + row * c + i) + bias[i]);
}

// sums += the sum of the rows of x
template <class T>
static __device__ __forceinline__ void add_rows(const T* x, float* column_sums, size_t rows, unsigned c) {
  float* const sums[1] = {column_sums};
  add_column_sums<1>(rows, c, sums, [=](size_t row, unsigned i, float (&own)[1]) { own[0] += load(x + row * c + i); });
}

#define KERNELS(T, SUFFIX)                                                                                              \
  extern "C" __global__ void mixce_add_bias_##SUFFIX(T* y, const float* bias, size_t rows, unsigned c) {                \
    add_bias(y, bias, rows, c);                                                                                         \
  }                                                                                                                     \
  extern "C" __global__ void mixce_column_sums_##SUFFIX(const T* x, float* column_sums, size_t rows, unsigned c) {      \
    add_rows(x, column_sums, rows, c);                                                                                  \
  }

FOR_BOTH_TYPES(KERNELS)
