// What an affine map needs beside its matrix products.
#include "common.cuh"

// y += bias, row by row: one block a row.
extern "C" __global__ void mixce_add_bias(float* y, const float* bias, size_t rows, unsigned c) {
  for (size_t row = blockIdx.x; row < rows; row += gridDim.x)
    for (unsigned i = threadIdx.x; i < c; i += blockDim.x) y[row * c + i] += bias[i];
}

// sums += the sum of the rows of x
extern "C" __global__ void mixce_column_sums(const float* x, float* column_sums, size_t rows, unsigned c) {
  float* const sums[1] = {column_sums};
  add_column_sums<1>(rows, c, sums, [=](size_t row, unsigned i, float (&own)[1]) { own[0] += x[row * c + i]; });
}
