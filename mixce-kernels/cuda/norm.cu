// Normalisation of rows of c elements, one warp a row: y = n gain + shift, with n = (x - mean) rstd. A layer norm is CENTRED; in an RMS
// norm the mean is 0. No shift when null.
#include "common.cuh"

struct Moments {
  float mean, rstd;
};

template <bool CENTRED>
static __device__ __forceinline__ Moments moments(const float* row, unsigned c, float eps, unsigned lane) {
  float mean = 0.0f;
  if (CENTRED) {
    float sum = 0.0f;
    for (unsigned i = lane; i < c; i += WARP) sum += row[i];
    mean = warp_sum(sum) / (float)c;
  }
  float squares = 0.0f;
  for (unsigned i = lane; i < c; i += WARP) squares += (row[i] - mean) * (row[i] - mean);
  return {mean, 1.0f / sqrtf(warp_sum(squares) / (float)c + eps)};
}

static __device__ __forceinline__ size_t first_row() { return (size_t)blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP; }
static __device__ __forceinline__ size_t row_step() { return (size_t)gridDim.x * (blockDim.x / WARP); }

template <bool CENTRED, class T>
static __device__ __forceinline__ void forward(const float* x, const float* gain, const float* shift, T* y, size_t rows,
                                               unsigned c, float eps) {
  const unsigned lane = threadIdx.x % WARP;
  for (size_t row = first_row(); row < rows; row += row_step()) {
    const float* in = x + row * c;
    T* out = y + row * c;
    const Moments m = moments<CENTRED>(in, c, eps, lane);
    for (unsigned i = lane; i < c; i += WARP)
      store(out + i, (in[i] - m.mean) * m.rstd * gain[i] + (shift ? shift[i] : 0.0f));
  }
}

// With g = dy gain: dx += rstd (g - mean(g) - n mean(g n)), without mean(g) in an RMS norm. The moments go to `saved` [rows, 2].
template <bool CENTRED, class T>
static __device__ __forceinline__ void backward(const float* x, const float* gain, const T* dy, float* dx, float* saved,
                                                size_t rows, unsigned c, float eps) {
  const unsigned lane = threadIdx.x % WARP;
  for (size_t row = first_row(); row < rows; row += row_step()) {
    const float* in = x + row * c;
    const T* gradient = dy + row * c;
    const Moments m = moments<CENTRED>(in, c, eps, lane);
    float sum_g = 0.0f, sum_gn = 0.0f;
    for (unsigned i = lane; i < c; i += WARP) {
      const float g = load(gradient + i) * gain[i];
      sum_g += g;
      sum_gn += g * ((in[i] - m.mean) * m.rstd);
    }
    const float mean_g = CENTRED ? warp_sum(sum_g) / (float)c : 0.0f, mean_gn = warp_sum(sum_gn) / (float)c;
    for (unsigned i = lane; i < c; i += WARP) {
      const float n = (in[i] - m.mean) * m.rstd;
      dx[row * c + i] += m.rstd * (load(gradient + i) * gain[i] - mean_g - n * mean_gn);
    }
    if (lane == 0) {
      saved[2 * row] = m.mean;
      saved[2 * row + 1] = m.rstd;
    }
  }
}

// dgain += sum_rows dy n, dshift += sum_rows dy
template <class T>
static __device__ __forceinline__ void backward_parameters(const float* x, const float* saved, const T* dy, float* dgain,
                                                           float* dshift, size_t rows, unsigned c) {
  float* const sums[2] = {dgain, dshift};
  add_column_sums<2>(rows, c, sums, [=](size_t row, unsigned i, float (&own)[2]) {
    const float gradient = load(dy + row * c + i);
    own[0] += gradient * ((x[row * c + i] - saved[2 * row]) * saved[2 * row + 1]);
    own[1] += gradient;
  });
}

#define KERNELS_OF(NORM, CENTRED, T, SUFFIX)                                                                               \
  extern "C" __global__ void __launch_bounds__(THREADS)                                                                    \
      mixce_##NORM##_norm_##SUFFIX(const float* x, const float* gain, const float* shift, T* y, size_t rows, unsigned c,   \
                                   float eps) {                                                                            \
    forward<CENTRED>(x, gain, shift, y, rows, c, eps);                                                                     \
  }                                                                                                                        \
  extern "C" __global__ void __launch_bounds__(THREADS)                                                                    \
      mixce_##NORM##_norm_backward_##SUFFIX(const float* x, const float* gain, const T* dy, float* dx, float* saved,       \
                                            size_t rows, unsigned c, float eps) {                                          \
    backward<CENTRED>(x, gain, dy, dx, saved, rows, c, eps);                                                               \
  }

#define KERNELS(T, SUFFIX)                                                                                                 \
  KERNELS_OF(layer, true, T, SUFFIX)                                                                                       \
  KERNELS_OF(rms, false, T, SUFFIX)                                                                                        \
  extern "C" __global__ void __launch_bounds__(WARP* SUM_ROWS)                                                             \
      mixce_norm_backward_parameters_##SUFFIX(const float* x, const float* saved, const T* dy, float* dgain, float* dshift, \
                                              size_t rows, unsigned c) {                                                   \
    backward_parameters(x, saved, dy, dgain, dshift, rows, c);                                                             \
  }

FOR_BOTH_TYPES(KERNELS)
