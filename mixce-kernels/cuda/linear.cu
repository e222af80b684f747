// What an affine map needs beside its matrix products.
#include "common.cuh"

// y += bias, row by row: one block a row. Rows of c elements begin `stride` elements apart.
template <class T>
static __device__ __forceinline__ void add_bias(T* y, size_t stride, const float* bias, size_t rows, unsigned c) {
  for (size_t row = blockIdx.x; row < rows; row += gridDim.x)
    for (unsigned i = threadIdx.x; i < c; i += blockDim.x) store(y + row * stride + i, load(y + row * stride + i) + bias[i]);
}

// sums += the sum of the rows of x, which begin `stride` elements apart
template <class T>
static __device__ __forceinline__ void add_rows(const T* x, size_t stride, float* column_sums, size_t rows, unsigned c) {
  float* const sums[1] = {column_sums};
  add_column_sums<1>(rows, c, sums, [=](size_t row, unsigned i, float (&own)[1]) { own[0] += load(x + row * stride + i); });
}

#define KERNELS(T, SUFFIX)                                                                                    \
  extern "C" __global__ void __launch_bounds__(THREADS)                                                       \
      mixce_add_bias_##SUFFIX(T* y, size_t stride, const float* bias, size_t rows, unsigned c) {              \
    add_bias(y, stride, bias, rows, c);                                                                       \
  }                                                                                                           \
  extern "C" __global__ void __launch_bounds__(WARP* SUM_ROWS)                                                \
      mixce_column_sums_##SUFFIX(const T* x, size_t stride, float* column_sums, size_t rows, unsigned c) {    \
    add_rows(x, stride, column_sums, rows, c);                                                                \
  }

FOR_BOTH_TYPES(KERNELS)
