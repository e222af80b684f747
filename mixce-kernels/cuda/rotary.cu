// What queries and keys go through between their map and attention: an RMS norm of each head, where there is one, and the rotary
// embedding. One warp a row and head; a lane takes pairs of channels, i of the first half of a head with i of the second.
//
// Legend: d channels a head, `heads` of queries and then `kv` of keys; rows have (heads + 2 kv) d channels of type T. cos and sin are
// [positions, d / 2]. The weights of the norms are [d], null where there is none. Everything is computed in f32.
#include "common.cuh"

constexpr int ROTARY_WARPS = THREADS / WARP;

struct Tables {
  const float *cos, *sin;
  const uint32_t* positions;  // of the rows
};

// The norm of a head; none when the weight is null.
struct HeadNorm {
  const float* weight;
  float eps;
};

struct Pair {
  float x1, x2;
};

// One row and head, seen by one lane.
struct Place {
  size_t at;  // of the head's first channel
  unsigned head;
  const float *cos, *sin;  // at the row's position
};

static __device__ __forceinline__ Place place(size_t item, unsigned of_row, unsigned channels, unsigned d, const Tables& t) {
  const size_t row = item / of_row;
  const unsigned head = item % of_row;
  const size_t angles = (size_t)t.positions[row] * (d / 2);
  return {row * channels + head * d, head, t.cos + angles, t.sin + angles};
}

template <class T>
static __device__ __forceinline__ Pair load_pair(const T* x, unsigned i, unsigned half) {
  return {load(x + i), load(x + i + half)};
}

// The reciprocal root of the mean square of a head's channels.
template <class T>
static __device__ __forceinline__ float reciprocal_rms(const T* x, unsigned d, float eps, unsigned lane) {
  float squares = 0.0f;
  for (unsigned i = lane; i < d; i += WARP) squares += load(x + i) * load(x + i);
  return 1.0f / sqrtf(warp_sum(squares) / (float)d + eps);
}

// y = rotated(norm(x)) for queries and keys, y = x for values.
template <class T>
static __device__ __forceinline__ void rotate(const T* x, const Tables& t, HeadNorm q_norm, HeadNorm k_norm, T* y, size_t rows,
                                              unsigned heads, unsigned kv, unsigned d) {
  const unsigned lane = threadIdx.x % WARP, half = d / 2, of_row = heads + 2 * kv;
  const size_t items = rows * of_row, step = (size_t)gridDim.x * ROTARY_WARPS;
  for (size_t item = (size_t)blockIdx.x * ROTARY_WARPS + threadIdx.x / WARP; item < items; item += step) {
    const Place p = place(item, of_row, of_row * d, d, t);
    const T* in = x + p.at;
    T* out = y + p.at;
    if (p.head >= heads + kv) {
      for (unsigned i = lane; i < d; i += WARP) out[i] = in[i];
      continue;
    }
    const HeadNorm norm = p.head < heads ? q_norm : k_norm;
    const float r = norm.weight ? reciprocal_rms(in, d, norm.eps, lane) : 1.0f;
    for (unsigned i = lane; i < half; i += WARP) {
      Pair pair = load_pair(in, i, half);
      if (norm.weight) pair = {pair.x1 * r * norm.weight[i], pair.x2 * r * norm.weight[i + half]};
      store(out + i, pair.x1 * p.cos[i] - pair.x2 * p.sin[i]);
      store(out + i + half, pair.x2 * p.cos[i] + pair.x1 * p.sin[i]);
    }
  }
}

// The gradient of a pair before the rotation.
template <class T>
static __device__ __forceinline__ Pair rotated_back(const T* dy, const Place& p, unsigned i, unsigned half) {
  const Pair y = load_pair(dy, i, half);
  return {y.x1 * p.cos[i] + y.x2 * p.sin[i], y.x2 * p.cos[i] - y.x1 * p.sin[i]};
}

// Turns dy of queries and keys into dx in place. With r the reciprocal root mean square of x, y' = dy rotated back and g = y' weight:
// dx = r (g - x r^2 mean(g x)), or dx = y' without a norm. Where there is a norm, `partial` [blocks, 2, d] takes each block's sums of
// y' x r, of the queries' and of the keys' norm; shared memory: as many for each warp.
template <class T>
static __device__ __forceinline__ void rotate_backward(const T* x, const Tables& t, HeadNorm q_norm, HeadNorm k_norm, T* dy,
                                                       float* partial, size_t rows, unsigned heads, unsigned kv, unsigned d,
                                                       float* shared) {
  const unsigned lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, half = d / 2, of_row = heads + kv;
  if (partial)
    for (unsigned i = lane; i < 2 * d; i += WARP) shared[warp * 2 * d + i] = 0.0f;
  __syncwarp();
  const size_t items = rows * of_row, step = (size_t)gridDim.x * ROTARY_WARPS;
  for (size_t item = (size_t)blockIdx.x * ROTARY_WARPS + warp; item < items; item += step) {
    const Place p = place(item, of_row, (heads + 2 * kv) * d, d, t);
    T* gradient = dy + p.at;
    const HeadNorm norm = p.head < heads ? q_norm : k_norm;
    if (!norm.weight) {
      for (unsigned i = lane; i < half; i += WARP) {
        const Pair g = rotated_back(gradient, p, i, half);
        store(gradient + i, g.x1);
        store(gradient + i + half, g.x2);
      }
      continue;
    }
    const T* in = x + p.at;
    float* sums = shared + (warp * 2 + (p.head < heads ? 0 : 1)) * d;
    const float r = reciprocal_rms(in, d, norm.eps, lane);
    float products = 0.0f;
    // A lane alone adds to its channels' sums, which stand for i and i + half.
    for (unsigned i = lane; i < half; i += WARP) {
      const Pair g = rotated_back(gradient, p, i, half), of_x = load_pair(in, i, half);
      sums[i] += g.x1 * of_x.x1 * r;
      sums[i + half] += g.x2 * of_x.x2 * r;
      products += g.x1 * norm.weight[i] * of_x.x1 + g.x2 * norm.weight[i + half] * of_x.x2;
    }
    const float mean = warp_sum(products) / (float)d;
    for (unsigned i = lane; i < half; i += WARP) {
      const Pair g = rotated_back(gradient, p, i, half), of_x = load_pair(in, i, half);
      store(gradient + i, r * (g.x1 * norm.weight[i] - of_x.x1 * r * r * mean));
      store(gradient + i + half, r * (g.x2 * norm.weight[i + half] - of_x.x2 * r * r * mean));
    }
  }
  if (!partial) return;
  __syncthreads();
  for (unsigned i = threadIdx.x; i < 2 * d; i += THREADS) {
    float sum = 0.0f;
    for (unsigned other = 0; other < ROTARY_WARPS; other++) sum += shared[other * 2 * d + i];
    partial[(size_t)blockIdx.x * 2 * d + i] = sum;
  }
}

#define ROTARY_PARAMETERS                                                                                                    \
  const float *cos, const float *sin, const uint32_t *positions, const float *q_weight, float q_eps, const float *k_weight, \
      float k_eps
#define TABLES Tables{cos, sin, positions}, HeadNorm{q_weight, q_eps}, HeadNorm{k_weight, k_eps}

#define KERNELS(T, SUFFIX)                                                                                                   \
  extern "C" __global__ void __launch_bounds__(THREADS)                                                                      \
      mixce_rotary_##SUFFIX(const T* x, ROTARY_PARAMETERS, T* y, size_t rows, unsigned heads, unsigned kv, unsigned d) {     \
    rotate(x, TABLES, y, rows, heads, kv, d);                                                                                \
  }                                                                                                                          \
  extern "C" __global__ void __launch_bounds__(THREADS)                                                                      \
      mixce_rotary_backward_##SUFFIX(const T* x, ROTARY_PARAMETERS, T* dy, float* partial, size_t rows, unsigned heads,      \
                                     unsigned kv, unsigned d) {                                                              \
    extern __shared__ float shared[];                                                                                        \
    rotate_backward(x, TABLES, dy, partial, rows, heads, kv, d, shared);                                                     \
  }

FOR_BOTH_TYPES(KERNELS)
