// Activation functions, with a bias before them, and as the gate of another factor. Rows of c elements.
#include "common.cuh"

constexpr float SQRT_2_OVER_PI = 0.7978846f, CUBIC = 0.044715f;

struct ValueAndDerivative {
  float value, derivative;
};

// With the hyperbolic tangent: (1 + tanh u) / 2 is the logistic function of 2 u.
struct GeluNew {
  static __device__ __forceinline__ float share(float x) {
    const float u = SQRT_2_OVER_PI * (x + CUBIC * x * x * x);
    return __fdividef(1.0f, 1.0f + __expf(-2.0f * u));
  }
  static __device__ __forceinline__ float value(float x) { return x * share(x); }
  static __device__ __forceinline__ ValueAndDerivative both(float x) {
    const float s = share(x);
    return {x * s, s + 2.0f * x * s * (1.0f - s) * (SQRT_2_OVER_PI * (1.0f + 3.0f * CUBIC * x * x))};
  }
};

struct Gelu {
  static __device__ __forceinline__ float value(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678f)); }
  static __device__ __forceinline__ ValueAndDerivative both(float x) {
    const float e = erff(x * 0.70710678f);
    return {0.5f * x * (1.0f + e), 0.5f * (1.0f + e) + x * expf(-0.5f * x * x) * 0.3989423f};
  }
};

struct Relu {
  // Unlike fmaxf, the comparison lets NaN through.
  static __device__ __forceinline__ float value(float x) { return x < 0.0f ? 0.0f : x; }
  static __device__ __forceinline__ ValueAndDerivative both(float x) { return {value(x), x > 0.0f ? 1.0f : 0.0f}; }
};

struct Silu {
  static __device__ __forceinline__ float value(float x) { return x / (1.0f + expf(-x)); }
  static __device__ __forceinline__ ValueAndDerivative both(float x) {
    const float e = 1.0f + expf(-x), s = 1.0f / e;
    return {x / e, s * (1.0f + x * (1.0f - s))};
  }
};

enum Kind { GELU_NEW = 0, GELU = 1, RELU = 2, SILU = 3 };

// Calls `f` with the function of that kind: decided once, not for every element.
template <class F>
static __device__ __forceinline__ void with_function(int kind, F f) {
  switch (kind) {
    case GELU_NEW: return f(GeluNew());
    case GELU: return f(Gelu());
    case RELU: return f(Relu());
    default: return f(Silu());
  }
}

// y = f(x + bias); x + bias goes to `pre_activation` unless that is null. No bias when null. y may be x.
template <class T>
static __device__ __forceinline__ void forward(const T* x, const float* bias, T* pre_activation, T* y, size_t rows, unsigned c, int kind) {
  constexpr int N = PACK<T>;
  with_function(kind, [=](auto f) {
    for_packs<N>(rows, c, [=](size_t row, size_t i, size_t left) {
      const size_t at = row * c + i;
      Floats<N> in = load_pack<N>(x + at, left);
      if (bias) {
        const Floats<N> b = load_pack<N>(bias + i, left);
        for (int k = 0; k < N; k++) in.x[k] += b.x[k];
      }
      if (pre_activation) store_pack(pre_activation + at, left, in);
      for (int k = 0; k < N; k++) in.x[k] = f.value(in.x[k]);
      store_pack(y + at, left, in);
    });
  });
}

// dx = dy f'(x); f(x) goes to `y` unless that is null. dx may be dy. The shares of chunks of rows in the sums of the columns of dx, as it
// is stored, go to `partial` [chunks, c] unless that is null.
template <class T>
static __device__ __forceinline__ void backward(const T* x, const T* dy, T* y, T* dx, float* partial, size_t rows, unsigned c,
                                                size_t chunk_rows, int kind) {
  constexpr int N = PACK<T>;
  const bool whole = has_whole_packs<N>(x, c) && has_whole_packs<N>(dy, c) && has_whole_packs<N>(y, c) && has_whole_packs<N>(dx, c);
  Floats<N> own[1] = {};
  with_function(kind, [&](auto f) {
    for_chunk<N>(rows, c, chunk_rows, whole, [&](size_t row, size_t i, size_t left, auto whole) {
      const size_t at = row * c + i;
      Floats<N> in = load_pack<N>(x + at, left, whole), gradient = load_pack<N>(dy + at, left, whole);
      for (int k = 0; k < N; k++) {
        const ValueAndDerivative both = f.both(in.x[k]);
        in.x[k] = both.value;
        gradient.x[k] *= both.derivative;
      }
      if (y) store_pack(y + at, left, in, whole);
      gradient = store_pack(dx + at, left, gradient, whole);
      for (int k = 0; k < N; k++) own[0].x[k] += gradient.x[k];
    });
  });
  if (partial) write_shares(own, c, partial);
}

// hidden = f(gate) up, for rows [gate | up] of 2 c elements.
template <class T>
static __device__ __forceinline__ void gated(const T* gate_up, T* hidden, size_t rows, unsigned c, int kind) {
  constexpr int N = PACK<T>;
  with_function(kind, [=](auto f) {
    for_packs<N>(rows, c, [=](size_t row, size_t i, size_t left) {
      const T* at = gate_up + row * 2 * c + i;
      Floats<N> product = load_pack<N>(at, left);
      const Floats<N> up = load_pack<N>(at + c, left);
      for (int k = 0; k < N; k++) product.x[k] = f.value(product.x[k]) * up.x[k];
      store_pack(hidden + row * c + i, left, product);
    });
  });
}

// Given the gradient dh of f(gate) up in `hidden`: dgate_up = [dh up f'(gate) | dh f(gate)], and hidden = f(gate) up in place.
template <class T>
static __device__ __forceinline__ void gated_backward(const T* gate_up, T* hidden, T* dgate_up, size_t rows, unsigned c, int kind) {
  constexpr int N = PACK<T>;
  with_function(kind, [=](auto f) {
    for_packs<N>(rows, c, [=](size_t row, size_t i, size_t left) {
      const size_t at = row * 2 * c + i;
      Floats<N> gate = load_pack<N>(gate_up + at, left), up = load_pack<N>(gate_up + at + c, left);
      Floats<N> dh = load_pack<N>(hidden + row * c + i, left);
      for (int k = 0; k < N; k++) {
        const ValueAndDerivative both = f.both(gate.x[k]);
        const float factor = up.x[k], gradient = dh.x[k];
        gate.x[k] = gradient * factor * both.derivative;
        up.x[k] = gradient * both.value;
        dh.x[k] = both.value * factor;
      }
      store_pack(dgate_up + at, left, gate);
      store_pack(dgate_up + at + c, left, up);
      store_pack(hidden + row * c + i, left, dh);
    });
  });
}

#define KERNELS(T, SUFFIX)                                                                                               \
  extern "C" __global__ void __launch_bounds__(THREADS)                                                                  \
      mixce_activation_##SUFFIX(const T* x, const float* bias, T* pre_activation, T* y, size_t rows, unsigned c,         \
                                int kind) {                                                                              \
    forward(x, bias, pre_activation, y, rows, c, kind);                                                                  \
  }                                                                                                                      \
  extern "C" __global__ void __launch_bounds__(WARP* SUM_ROWS)                                                           \
      mixce_activation_backward_##SUFFIX(const T* x, const T* dy, T* y, T* dx, float* partial, size_t rows, unsigned c,  \
                                         size_t chunk_rows, int kind) {                                                  \
    backward(x, dy, y, dx, partial, rows, c, chunk_rows, kind);                                                          \
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
