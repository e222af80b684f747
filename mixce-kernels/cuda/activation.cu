// Activation functions, with a bias before them. Rows of c elements, one block a row.
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

// y = f(x + bias); x + bias goes to `before` unless that is null. No bias when null. y may be x.
extern "C" __global__ void mixce_activation(const float* x, const float* bias, float* before, float* y, size_t rows,
                                            unsigned c, int kind) {
  for (size_t row = blockIdx.x; row < rows; row += gridDim.x)
    for (unsigned i = threadIdx.x; i < c; i += blockDim.x) {
      const float in = bias ? x[row * c + i] + bias[i] : x[row * c + i];
      if (before) before[row * c + i] = in;
      y[row * c + i] = value(kind, in);
    }
}

// dx = dy f'(x); f(x) goes to `y` unless that is null. dx may be dy.
extern "C" __global__ void mixce_activation_backward(const float* x, const float* dy, float* y, float* dx, size_t rows,
                                                     unsigned c, int kind) {
  for (size_t row = blockIdx.x; row < rows; row += gridDim.x)
    for (unsigned i = threadIdx.x; i < c; i += blockDim.x) {
      const float in = x[row * c + i];
      if (y) y[row * c + i] = value(kind, in);
      dx[row * c + i] = dy[row * c + i] * derivative(kind, in);
    }
}
