// Dropout by itself and with the residual sum; the mask is drawn, never stored: once for four elements.
#include "common.cuh"

// y = x * factor; y may be x.
template <class T>
static __device__ __forceinline__ void drop(const float* x, T* y, size_t n, const Dropout& dropout) {
  const size_t step = (size_t)gridDim.x * blockDim.x * 4;
  for (size_t i = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * 4; i < n; i += step) {
    Floats<4> kept = load_pack<4>(x + i, n - i);
    const Floats<4> factors = dropout.factors(i);
    for (int k = 0; k < 4; k++) kept.x[k] *= factors.x[k];
    store_pack(y + i, n - i, kept);
  }
}

#define KERNELS(T, SUFFIX)                                                        \
  extern "C" __global__ void __launch_bounds__(THREADS)                           \
      mixce_dropout_##SUFFIX(const float* x, T* y, size_t n, DROPOUT_PARAMETERS) { \
    drop(x, y, n, DROPOUT);                                                       \
  }

FOR_BOTH_TYPES(KERNELS)

// y = residual + (branch + bias) * factor; no bias when null. y may be branch.
extern "C" __global__ void __launch_bounds__(THREADS)
    mixce_residual(const float* residual, const float* branch, const float* bias, float* y, size_t rows, unsigned c,
                   DROPOUT_PARAMETERS) {
  const Dropout dropout = DROPOUT;
  for_packs<4>(rows, c, [=](size_t row, size_t column, size_t left) {
    const size_t i = row * c + column;
    const Floats<4> own = load_pack<4>(branch + i, left);
    Floats<4> sum = load_pack<4>(residual + i, left), b = {};
    if (bias) b = load_pack<4>(bias + column, left);
    const Floats<4> factors = dropout.factors(i);
    for (int k = 0; k < 4; k++) sum.x[k] += (bias ? own.x[k] + b.x[k] : own.x[k]) * factors.x[k];
    store_pack(y + i, left, sum);
  });
}
