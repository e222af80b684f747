// Dropout by itself and with the residual sum; the mask is drawn, never stored. One block a row.
#include "common.cuh"

// y = x * factor; y may be x.
template <class T>
static __device__ __forceinline__ void drop(const float* x, T* y, size_t n, const Dropout& dropout) {
  const size_t step = (size_t)gridDim.x * blockDim.x;
  for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step) store(y + i, x[i] * dropout.factor(i));
}

#define KERNELS(T, SUFFIX)                                                                                 \
  extern "C" __global__ void mixce_dropout_##SUFFIX(const float* x, T* y, size_t n, DROPOUT_PARAMETERS) {  \
    drop(x, y, n, DROPOUT);                                                                                \
  }

FOR_BOTH_TYPES(KERNELS)

// y = residual + (branch + bias) * factor; no bias when null. y may be branch.
extern "C" __global__ void mixce_residual(const float* residual, const float* branch, const float* bias, float* y,
                                          size_t rows, unsigned c, DROPOUT_PARAMETERS) {
  const Dropout dropout = DROPOUT;
  for (size_t row = blockIdx.x; row < rows; row += gridDim.x)
    for (unsigned column = threadIdx.x; column < c; column += blockDim.x) {
      const size_t i = row * c + column;
      const float in = bias ? branch[i] + bias[column] : branch[i];
      y[i] = residual[i] + in * dropout.factor(i);
    }
}
