// Normalisation of rows of c elements, one warp a row: y = n gain + shift, with n = (x - mean) rstd. A layer norm is CENTRED; in an RMS
// norm the mean is 0. No shift when null.
//
// A row is read once and kept in shared memory: `kept` elements a warp, a multiple of 4; with 0 it is too long and is read again.
#include "common.cuh"

static __device__ __forceinline__ float* shared_rows() {
  extern __shared__ __align__(16) float rows[];
  return rows;
}

static __device__ __forceinline__ size_t first_row() { return (size_t)blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP; }
static __device__ __forceinline__ size_t row_step() { return (size_t)gridDim.x * (blockDim.x / WARP); }

// Packs of a thread that are on their way at once; with parts of packs registers are short.
template <bool KNOWN>
constexpr int AT_ONCE = KNOWN ? 2 : 1;

// Calls `f(i, left)` for this lane's packs of four elements.
template <bool KNOWN, class F>
static __device__ __forceinline__ void for_lane(unsigned c, Whole<KNOWN>, F f) {
#pragma unroll AT_ONCE<KNOWN>
  for (size_t i = threadIdx.x % WARP * 4; i < c; i += 4 * WARP) f(i, c - i);
}

// `first(row, i, left)` reads a pack of x, or computes it and stores it there.
template <bool CENTRED, bool KNOWN, class T, class First>
static __device__ __forceinline__ void forward(First first, const float* x, const float* gain, const float* shift, T* y, size_t rows,
                                               unsigned c, float eps, unsigned kept, Whole<KNOWN> whole) {
  float* const own = shared_rows() + threadIdx.x / WARP * kept;
  for (size_t row = first_row(); row < rows; row += row_step()) {
    const float* const in = x + row * c;
    T* const out = y + row * c;
    float sum = 0.0f, squares = 0.0f;
    for_lane(c, whole, [&](size_t i, size_t left) {
      const Floats<4> a = first(row, i, left);
      if (kept) store_pack(own + i, 4, a, Whole<true>());
      for (int k = 0; k < 4; k++) sum += a.x[k];
    });
    const auto again = [&](size_t i, size_t left) {
      return kept ? load_pack<4>(own + i, 4, Whole<true>()) : load_pack<4>(in + i, left, whole);
    };
    const float mean = CENTRED ? warp_sum(sum) / (float)c : 0.0f;
    for_lane(c, whole, [&](size_t i, size_t left) {
      const Floats<4> a = again(i, left);
      for (int k = 0; k < 4; k++) squares += KNOWN || k < left ? (a.x[k] - mean) * (a.x[k] - mean) : 0.0f;
    });
    const float rstd = 1.0f / sqrtf(warp_sum(squares) / (float)c + eps);
    for_lane(c, whole, [&](size_t i, size_t left) {
      Floats<4> a = again(i, left), b = {};
      const Floats<4> g = load_pack<4>(gain + i, left, whole);
      if (shift) b = load_pack<4>(shift + i, left, whole);
      for (int k = 0; k < 4; k++) a.x[k] = (a.x[k] - mean) * rstd * g.x[k] + b.x[k];
      store_pack(out + i, left, a, whole);
    });
  }
}

// x = residual + (branch + bias) * factor, and its norm; no bias when null. x may be branch.
template <bool CENTRED, class T>
static __device__ __forceinline__ void residual_norm(const float* residual, const float* branch, const float* bias, float* x,
                                                     const float* gain, const float* shift, T* y, size_t rows, unsigned c,
                                                     float eps, unsigned kept, const Dropout dropout) {
  const bool whole = has_whole_packs<4>(residual, c) && has_whole_packs<4>(branch, c) && has_whole_packs<4>(bias, c) &&
                     has_whole_packs<4>(x, c) && has_whole_packs<4>(gain, c) && has_whole_packs<4>(shift, c) &&
                     has_whole_packs<4>(y, c) && dropout.draws_whole_packs();
  with_whole(whole, [=](auto known) {
    const auto first = [=](size_t row, size_t i, size_t left) {
      const size_t at = row * c + i;
      const Floats<4> own = load_pack<4>(branch + at, left, known);
      Floats<4> sum = load_pack<4>(residual + at, left, known), b = {};
      if (bias) b = load_pack<4>(bias + i, left, known);
      const Floats<4> factors = dropout.factors(at, known);
      for (int k = 0; k < 4; k++) sum.x[k] += (bias ? own.x[k] + b.x[k] : own.x[k]) * factors.x[k];
      store_pack(x + at, left, sum, known);
      return sum;
    };
    forward<CENTRED>(first, x, gain, shift, y, rows, c, eps, kept, known);
  });
}

// No branch ends in x.
struct NoBranch {
  __device__ __forceinline__ unsigned sums() const { return 2; }
  template <class W>
  __device__ __forceinline__ void store(size_t, size_t, Floats<4>, W) const {}
  template <class W>
  __device__ __forceinline__ void add(Floats<4>&, size_t, size_t, W) const {}
};

// x is the residual sum of a branch, whose gradient is dx dropped, rounded to T. Null where that is dx itself. With a third sum, that of its
// rows is the gradient of the branch's bias.
template <class T>
struct Branch {
  T* gradient;
  const float* dx;
  unsigned number_of_sums;
  Dropout dropout;

  __device__ __forceinline__ unsigned sums() const { return number_of_sums; }
  template <class W>
  __device__ __forceinline__ void store(size_t at, size_t left, Floats<4> d, W whole) const {
    if (!gradient) return;
    const Floats<4> factors = dropout.factors(at, whole);
    for (int k = 0; k < 4; k++) d.x[k] *= factors.x[k];
    store_pack(gradient + at, left, d, whole);
  }
  template <class W>
  __device__ __forceinline__ void add(Floats<4>& sum, size_t at, size_t left, W whole) const {
    const Floats<4> d = gradient ? load_pack<4>(gradient + at, left, whole) : load_pack<4>(dx + at, left, whole);
    for (int k = 0; k < 4; k++) sum.x[k] += d.x[k];
  }
};

// With g = dy gain: dx += rstd (g - mean(g) - n mean(g n)), without mean(g) in an RMS norm. Rows of both x and g are kept.
//
// A block takes `chunk_rows` rows, whose moments go to `saved` [rows, 2]. Then it reads them again, from the cache, and writes its share in
// dgain = sum_rows dy n, dshift = sum_rows dy, and in that of the branch's bias: `partial` [blocks, sums, c]. Unless y is null it takes the
// normalised rows, as the forward pass has them; it may be dy.
template <bool CENTRED, bool KNOWN, class T, class B>
static __device__ __forceinline__ void backward(const float* x, const float* gain, const float* shift, const T* dy, T* y, float* dx,
                                                float* saved, float* partial, size_t rows, unsigned c, float eps, unsigned kept,
                                                size_t chunk_rows, const B& branch, Whole<KNOWN> whole) {
  float* const own_x = shared_rows() + threadIdx.x / WARP * 2 * kept;
  float* const own_g = own_x + kept;
  const size_t begin = blockIdx.x * chunk_rows, end = begin + chunk_rows < rows ? begin + chunk_rows : rows;
  for (size_t row = begin + threadIdx.x / WARP; row < end; row += blockDim.x / WARP) {
    const float* const in = x + row * c;
    const auto read_g = [&](size_t i, size_t left) {
      Floats<4> g = load_pack<4>(dy + row * c + i, left, whole);
      const Floats<4> factor = load_pack<4>(gain + i, left, whole);
      for (int k = 0; k < 4; k++) g.x[k] *= factor.x[k];
      return g;
    };
    float sum = 0.0f, sum_g = 0.0f, squares = 0.0f, sum_gx = 0.0f;
    for_lane(c, whole, [&](size_t i, size_t left) {
      const Floats<4> a = load_pack<4>(in + i, left, whole), g = read_g(i, left);
      if (kept) {
        store_pack(own_x + i, 4, a, Whole<true>());
        store_pack(own_g + i, 4, g, Whole<true>());
      }
      for (int k = 0; k < 4; k++) sum += a.x[k], sum_g += g.x[k];
    });
    const auto x_again = [&](size_t i, size_t left) {
      return kept ? load_pack<4>(own_x + i, 4, Whole<true>()) : load_pack<4>(in + i, left, whole);
    };
    const auto g_again = [&](size_t i, size_t left) {
      return kept ? load_pack<4>(own_g + i, 4, Whole<true>()) : read_g(i, left);
    };
    const float mean = CENTRED ? warp_sum(sum) / (float)c : 0.0f, mean_g = CENTRED ? warp_sum(sum_g) / (float)c : 0.0f;
    for_lane(c, whole, [&](size_t i, size_t left) {
      const Floats<4> a = x_again(i, left), g = g_again(i, left);
      for (int k = 0; k < 4; k++) {
        const float centred = KNOWN || k < left ? a.x[k] - mean : 0.0f;
        squares += centred * centred;
        sum_gx += g.x[k] * centred;
      }
    });
    const float rstd = 1.0f / sqrtf(warp_sum(squares) / (float)c + eps), mean_gn = warp_sum(sum_gx) * rstd / (float)c;
    for_lane(c, whole, [&](size_t i, size_t left) {
      const Floats<4> a = x_again(i, left), g = g_again(i, left);
      Floats<4> d = load_pack<4>(dx + row * c + i, left, whole);
      for (int k = 0; k < 4; k++) d.x[k] += rstd * (g.x[k] - mean_g - (a.x[k] - mean) * rstd * mean_gn);
      store_pack(dx + row * c + i, left, d, whole);
      branch.store(row * c + i, left, d, whole);
    });
    if (threadIdx.x % WARP == 0) {
      saved[2 * row] = mean;
      saved[2 * row + 1] = rstd;
    }
  }
  __syncthreads();
  for (size_t i = 4 * threadIdx.x; i < c; i += 4 * blockDim.x) {
    Floats<4> dgain = {}, dshift = {}, dbias = {}, b = {};
    const Floats<4> g = load_pack<4>(gain + i, c - i, whole);
    if (shift) b = load_pack<4>(shift + i, c - i, whole);
#pragma unroll AT_ONCE<KNOWN>
    for (size_t row = begin; row < end; row++) {
      const size_t at = row * c + i;
      Floats<4> a = load_pack<4>(x + at, c - i, whole);
      const Floats<4> gradient = load_pack<4>(dy + at, c - i, whole);
      const float mean = saved[2 * row], rstd = saved[2 * row + 1];
      for (int k = 0; k < 4; k++) {
        const float n = (a.x[k] - mean) * rstd;
        dgain.x[k] += gradient.x[k] * n;
        dshift.x[k] += gradient.x[k];
        a.x[k] = n * g.x[k] + b.x[k];
      }
      if (branch.sums() > 2) branch.add(dbias, at, c - i, whole);
      if (y) store_pack(y + at, c - i, a, whole);
    }
    float* const share = partial + (size_t)blockIdx.x * branch.sums() * c + i;
    store_pack(share, c - i, dgain, whole);
    store_pack(share + c, c - i, dshift, whole);
    if (branch.sums() > 2) store_pack(share + 2 * c, c - i, dbias, whole);
  }
}

#define KERNELS_OF(NORM, CENTRED, T, SUFFIX)                                                                               \
  extern "C" __global__ void __launch_bounds__(THREADS)                                                                    \
      mixce_##NORM##_norm_##SUFFIX(const float* x, const float* gain, const float* shift, T* y, size_t rows, unsigned c,   \
                                   float eps, unsigned kept) {                                                             \
    const bool whole = has_whole_packs<4>(x, c) && has_whole_packs<4>(gain, c) && has_whole_packs<4>(shift, c) &&          \
                       has_whole_packs<4>(y, c);                                                                           \
    with_whole(whole, [=](auto known) {                                                                                    \
      const auto first = [=](size_t row, size_t i, size_t left) { return load_pack<4>(x + row * c + i, left, known); };    \
      forward<CENTRED>(first, x, gain, shift, y, rows, c, eps, kept, known);                                               \
    });                                                                                                                    \
  }                                                                                                                        \
  extern "C" __global__ void __launch_bounds__(THREADS)                                                                    \
      mixce_residual_##NORM##_norm_##SUFFIX(const float* residual, const float* branch, const float* bias, float* x,       \
                                            const float* gain, const float* shift, T* y, size_t rows, unsigned c,          \
                                            float eps, unsigned kept, DROPOUT_PARAMETERS) {                                \
    residual_norm<CENTRED>(residual, branch, bias, x, gain, shift, y, rows, c, eps, kept, DROPOUT);                        \
  }                                                                                                                        \
  extern "C" __global__ void __launch_bounds__(THREADS)                                                                    \
      mixce_##NORM##_norm_backward_##SUFFIX(const float* x, const float* gain, const float* shift, const T* dy, T* y,      \
                                            float* dx, float* saved, float* partial, size_t rows, unsigned c, float eps,   \
                                            unsigned kept, size_t chunk_rows) {                                            \
    const bool whole = has_whole_packs<4>(x, c) && has_whole_packs<4>(gain, c) && has_whole_packs<4>(shift, c) &&          \
                       has_whole_packs<4>(dy, c) && has_whole_packs<4>(y, c) && has_whole_packs<4>(dx, c) &&               \
                       has_whole_packs<4>(partial, c);                                                                     \
    with_whole(whole, [=](auto known) {                                                                                    \
      backward<CENTRED>(x, gain, shift, dy, y, dx, saved, partial, rows, c, eps, kept, chunk_rows, NoBranch(), known);     \
    });                                                                                                                    \
  }                                                                                                                        \
  extern "C" __global__ void __launch_bounds__(THREADS)                                                                    \
      mixce_##NORM##_norm_branch_backward_##SUFFIX(const float* x, const float* gain, const float* shift, const T* dy,     \
                                                   T* y, float* dx, float* saved, float* partial, size_t rows, unsigned c, \
                                                   float eps, unsigned kept, size_t chunk_rows, T* gradient,               \
                                                   unsigned sums, DROPOUT_PARAMETERS) {                                    \
    const Branch<T> branch = {gradient, dx, sums, DROPOUT};                                                                \
    const bool whole = has_whole_packs<4>(x, c) && has_whole_packs<4>(gain, c) && has_whole_packs<4>(shift, c) &&          \
                       has_whole_packs<4>(dy, c) && has_whole_packs<4>(y, c) && has_whole_packs<4>(dx, c) &&               \
                       has_whole_packs<4>(partial, c) && has_whole_packs<4>(gradient, c) &&                                \
                       branch.dropout.draws_whole_packs();                                                                 \
    with_whole(whole, [=](auto known) {                                                                                    \
      backward<CENTRED>(x, gain, shift, dy, y, dx, saved, partial, rows, c, eps, kept, chunk_rows, branch, known);         \
    });                                                                                                                    \
  }

#define KERNELS(T, SUFFIX)                                                                                                 \
  KERNELS_OF(layer, true, T, SUFFIX)                                                                                       \
  KERNELS_OF(rms, false, T, SUFFIX)

FOR_BOTH_TYPES(KERNELS)
