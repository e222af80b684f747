// Activation functions, with a bias before them, and as the gate of another factor. Rows of c elements, one block a row.
#include "common.cuh"

enum Kind { GELU_NEW = 0, GELU = 1, RELU = 2, SILU = 3 };

constexpr float SQRT_2_OVER_PI = 0.7978846f, CUBIC = 0.044715f;

static __device__ __forceinline__ float value(int kind, float x) {
  switch (kind) {
    case GELU_NEW: return 0.5f * x * (1.0f + tanhf(SQRT_2_OVER_PI * (x + CUBIC * x * x * x)));
    case GELU: return 0.5f * x * (1.0f + erff(x * 0.70710678f));
    case RELU: return x < 0.0f ? 0.0f : x;  // unlike fmaxf, the comparison lets NaN through
    default: return x / (1.0f + expf(-x));
  }
}

static __device__ __forceinline__ float derivative(int kind, float x) {
  switch (kind) {
    case GELU_NEW: {
      const float t = tanhf(SQRT_2_OVER_PI * (x + CUBIC * x * x * x));
      return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * (SQRT_2_OVER_PI * (1.0f + 3.0f * CUBIC * x * x));
    }
    case GELU: return 0.5f * (1.0f + erff(x * 0.70710678f)) + x * expf(-0.5f * x * x) * 0.3989423f;
    case RELU: return x > 0.0f ? 1.0f : 0.0f;
    default: {
      const float s = 1.0f / (1.0f + expf(-x));
      return s * (1.0f + x * (1.0f - s));
    }
  }
}

// y = f(x + bias); x + bias goes to `pre_activation` unless that is null. No bias when null. y may be x.
template <class T>
static __device__ __forceinline__ void forward(const T* x, const float* bias, T* pre_activation, T* y, size_t rows, unsigned c, int kind) {
  for (size_t row = blockIdx.x; row < rows; row += gridDim.x)
    for (unsigned i = threadIdx.x; i < c; i += blockDim.x) {
      const size_t at = row * c + i;
      const float in = bias ? load(x + at) + bias[i] : load(x + at);
      if (pre_activation) store(pre_activation + at, in);
      store(y + at, value(kind, in));
    }
}

// dx = dy f'(x); f(x) goes to `y` unless that is null. dx may be dy.
template <class T>
static __device__ __forceinline__ void backward(const T* x, const T* dy, T* y, T* dx, size_t rows, unsigned c, int kind) {
  for (size_t row = blockIdx.x; row < rows; row += gridDim.x)
    for (unsigned i = threadIdx.x; i < c; i += blockDim.x) {
      const size_t at = row * c + i;
      const float in = load(x + at);
      if (y) store(y + at, value(kind, in));
      store(dx + at, load(dy + at) * derivative(kind, in));
    }
}

// hidden = f(gate) up, for rows [gate | up] of 2 c elements.
template <class T>
static __device__ __forceinline__ void gated(const T* gate_up, T* hidden, size_t rows, unsigned c, int kind) {
  for (size_t row = blockIdx.x; row < rows; row += gridDim.x)
    for (unsigned i = threadIdx.x; i < c; i += blockDim.x) {
      const T* gate = gate_up + row * 2 * c + i;
      store(hidden + row * c + i, value(kind, load(gate)) * load(gate + c));
    }
}

// Given the gradient dh of f(gate) up in `hidden`: dgate_up = [dh up f'(gate) | dh f(gate)], and hidden = f(gate) up in place.
template <class T>
static __device__ __forceinline__ void gated_backward(const T* gate_up, T* hidden, T* dgate_up, size_t rows, unsigned c, int kind) {
  for (size_t row = blockIdx.x; row < rows; row += gridDim.x)
    for (unsigned i = threadIdx.x; i < c; i += blockDim.x) {
      const size_t at = row * 2 * c + i;
      const float gate = load(gate_up + at), up = load(gate_up + at + c), dh = load(hidden + row * c + i);
      const float active = value(kind, gate);
      store(dgate_up + at, dh * up * derivative(kind, gate));
      store(dgate_up + at + c, dh * active);
      store(hidden + row * c + i, active * up);
    }
}

#define KERNELS(T, SUFFIX)                                                                                               \
  extern "C" __global__ void __launch_bounds__(THREADS)                                                                  \
      mixce_activation_##SUFFIX(const T* x, const float* bias, T* pre_activation, T* y, size_t rows, unsigned c,         \
                                int kind) {                                                                              \
    forward(x, bias, pre_activation, y, rows, c, kind);                                                                  \
  }                                                                                                                      \
  extern "C" __global__ void __launch_bounds__(THREADS)                                                                  \
      mixce_activation_backward_##SUFFIX(const T* x, const T* dy, T* y, T* dx, size_t rows, unsigned c, int kind) {      \
    backward(x, dy, y, dx, rows, c, kind);                                                                               \
  }                                                                                                                      \
  extern "C" __global__ void __launch_bounds__(THREADS)                                                                  \
      mixce_gated_##SUFFIX(const T* gate_up, T* hidden, size_t rows, unsigned c, int kind) {                             \
    gated(gate_up, hidden, rows, c, kind);                                                                               \
  }                                                                                                                      \
  extern "C" __global__ void __launch_bounds__(THREADS)                                                                  \
      mixce_gated_backward_##SUFFIX(const T* gate_up, T* hidden, T* dgate_up, size_t rows, unsigned c, int kind) {       \
    gated_backward(gate_up, hidden, dgate_up, rows, c, kind);                                                            \
  }

FOR_BOTH_TYPES(KERNELS)
