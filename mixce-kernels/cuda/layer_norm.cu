// Layer normalisation over rows of c elements: one warp a row.
#include "common.cuh"

struct Moments {
  float mean, rstd;
};

static __device__ __forceinline__ Moments moments(const float* row, unsigned c, float eps, unsigned lane) {
  float sum = 0.0f;
  for (unsigned i = lane; i < c; i += WARP) sum += row[i];
  const float mean = warp_sum(sum) / (float)c;
  float squares = 0.0f;
  for (unsigned i = lane; i < c; i += WARP) squares += (row[i] - mean) * (row[i] - mean);
  return {mean, 1.0f / sqrtf(warp_sum(squares) / (float)c + eps)};
}

static __device__ __forceinline__ size_t first_row() { return (size_t)blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP; }
static __device__ __forceinline__ size_t row_step() { return (size_t)gridDim.x * (blockDim.x / WARP); }

// y = (x - mean) rstd gain + shift
template <class T>
static __device__ __forceinline__ void forward(const float* x, const float* gain, const float* shift, T* y, size_t rows,
                                               unsigned c, float eps) {
  const unsigned lane = threadIdx.x % WARP;
  for (size_t row = first_row(); row < rows; row += row_step()) {
    const float* in = x + row * c;
    T* out = y + row * c;
    const Moments m = moments(in, c, eps, lane);
    for (unsigned i = lane; i < c; i += WARP) store(out + i, (in[i] - m.mean) * m.rstd * gain[i] + shift[i]);
  }
}

// With n = (x - mean) rstd and g = dy gain: dx += rstd (g - mean(g) - n mean(g n)). The moments go to `saved` [rows, 2].
template <class T>
static __device__ __forceinline__ void backward(const float* x, const float* gain, const T* dy, float* dx, float* saved,
                                                size_t rows, unsigned c, float eps) {
  const unsigned lane = threadIdx.x % WARP;
  for (size_t row = first_row(); row < rows; row += row_step()) {
    const float* in = x + row * c;
    const T* gradient = dy + row * c;
    const Moments m = moments(in, c, eps, lane);
    float sum_g = 0.0f, sum_gn = 0.0f;
    for (unsigned i = lane; i < c; i += WARP) {
      const float g = load(gradient + i) * gain[i];
      sum_g += g;
      sum_gn += g * ((in[i] - m.mean) * m.rstd);
    }
    const float mean_g = warp_sum(sum_g) / (float)c, mean_gn = warp_sum(sum_gn) / (float)c;
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

#define KERNELS(T, SUFFIX)                                                                                               \
  extern "C" __global__ void mixce_layer_norm_##SUFFIX(const float* x, const float* gain, const float* shift, T* y,      \
                                                       size_t rows, unsigned c, float eps) {                             \
    forward(x, gain, shift, y, rows, c, eps);                                                                            \
  }                                                                                                                      \
  extern "C" __global__ void mixce_layer_norm_backward_##SUFFIX(const float* x, const float* gain, const T* dy,          \
                                                                float* dx, float* saved, size_t rows, unsigned c,        \
                                                                float eps) {                                             \
    backward(x, gain, dy, dx, saved, rows, c, eps);                                                                      \
  }                                                                                                                      \
  extern "C" __global__ void mixce_layer_norm_backward_parameters_##SUFFIX(const float* x, const float* saved,           \
                                                                           const T* dy, float* dgain, float* dshift,     \
                                                                           size_t rows, unsigned c) {                    \
    backward_parameters(x, saved, dy, dgain, dshift, rows, c);                                                           \
  }

FOR_BOTH_TYPES(KERNELS)
