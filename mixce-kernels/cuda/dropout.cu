// Dropout by itself and with the residual sum; the mask is drawn, never stored: once for four elements.
#include "common.cuh"

// y = x * factor; y may be x. The shares of chunks of rows in the sums of the columns of y, as it is stored, go to `partial` [chunks, c]
// unless that is null.
template <class T>
static __device__ __forceinline__ void drop(const float* x, T* y, float* partial, size_t rows, unsigned c, size_t chunk_rows,
                                            const Dropout& dropout) {
  const bool whole = has_whole_packs<4>(x, c) && has_whole_packs<4>(y, c) && dropout.draws_whole_packs();
  Floats<4> own[1] = {};
  for_chunk<4>(rows, c, chunk_rows, whole, [&](size_t row, size_t i, size_t left, auto whole) {
    const size_t at = row * c + i;
    Floats<4> kept = load_pack<4>(x + at, left, whole);
    const Floats<4> factors = dropout.factors(at, whole);
    for (int k = 0; k < 4; k++) kept.x[k] *= factors.x[k];
    kept = store_pack(y + at, left, kept, whole);
    for (int k = 0; k < 4; k++) own[0].x[k] += kept.x[k];
  });
  if (partial) write_shares(own, c, partial);
}

#define KERNELS(T, SUFFIX)                                                                                             \
  extern "C" __global__ void __launch_bounds__(WARP* SUM_ROWS)                                                         \
      mixce_dropout_##SUFFIX(const float* x, T* y, float* partial, size_t rows, unsigned c, size_t chunk_rows,         \
                             DROPOUT_PARAMETERS) {                                                                     \
    drop(x, y, partial, rows, c, chunk_rows, DROPOUT);                                                                 \
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
