// Causal self-attention over packed documents, blockwise: nothing of size T x T is stored, keys of the future and of other
// documents are skipped or masked, and the backward pass computes the probabilities again.
//
// Legend: n packed tokens, `heads` heads of queries, `kv` heads of keys and values, d channels a head; qkv and its gradient are
// [n, (heads + 2 kv) d], the result is [n, heads d]. `heads / kv` heads of queries in a row share their keys and values. A block takes
// BLOCK_ROWS rows of one head (queries, or keys in the pass for keys) and walks over tiles of the other side, which lie in shared
// memory. A warp takes WARP_ROWS rows. Its lanes first stand for the rows of the tile (scores), then for channels (sums over the tile).
//
// qkv, its gradient, the result and its gradient are of type T; in shared memory and in registers everything is f32.
//
// `spans` [n, 2] holds where the document of each token begins and ends; a query sees the last `window` keys up to its own, n of them
// where there is no window. CHANNELS is how many channels a lane keeps: d <= 32 of them.
#include "common.cuh"

constexpr int WARPS = 4, WARP_ROWS = 4, BLOCK_ROWS = WARPS * WARP_ROWS;

// The problem as a kernel gets it.
template <class T>
struct Problem {
  const T* qkv;
  const uint32_t* spans;
  unsigned n, heads, kv, d, tile, window;
  float scale;
  Dropout dropout;
};

// One head of queries with its keys and values, seen by one warp.
template <class T>
struct Head {
  const T *q, *k, *v;  // row i at [i * stride]
  size_t stride;
  const uint32_t* spans;
  unsigned n, c, d, tile, window, head;  // c: channels of a row of the result
  float scale;
  Dropout dropout;
  unsigned lane, row0;  // row0: the first of the warp's rows

  // Row i of the warp, or the last row of all where there are fewer: then its results are dropped.
  __device__ __forceinline__ unsigned row(int i) const { return row0 + i < n ? row0 + i : n - 1; }

  // The dropout factor of a query and a key of the same document.
  __device__ __forceinline__ float factor(unsigned query, unsigned key) const {
    return dropout.factor(((uint64_t)query << 32) + (key - spans[2 * key]));
  }

  // The first key that a query sees: never before that of an earlier query.
  __device__ __forceinline__ unsigned first_key(unsigned query) const {
    const unsigned document = spans[2 * query], nearest = query >= window ? query + 1 - window : 0;
    return nearest > document ? nearest : document;
  }

  __device__ __forceinline__ bool sees(unsigned query, unsigned key) const { return key <= query && key >= first_key(query); }
};

template <class T>
static __device__ __forceinline__ Head<T> head_of(const Problem<T>& p, unsigned head) {
  const unsigned shared = head / (p.heads / p.kv);
  const T *k = p.qkv + (size_t)(p.heads + shared) * p.d, *v = k + (size_t)p.kv * p.d;
  const unsigned row0 = blockIdx.x * BLOCK_ROWS + threadIdx.x / WARP * WARP_ROWS;
  return {p.qkv + (size_t)head * p.d, k, v, (size_t)(p.heads + 2 * p.kv) * p.d, p.spans, p.n, p.heads * p.d, p.d, p.tile,
          p.window, head, p.scale, p.dropout.fold(head), threadIdx.x % WARP, row0};
}

// Copies rows first..first + rows of d channels, `stride` apart, into shared memory with row stride d + 1.
template <class T>
static __device__ __forceinline__ void load_tile(float* tile, const T* from, size_t stride, unsigned first, unsigned rows,
                                                 unsigned d) {
  for (unsigned i = threadIdx.x; i < rows * d; i += WARPS * WARP)
    tile[i / d * (d + 1) + i % d] = load(from + (first + i / d) * stride + i % d);
}

// products[i] = row i of the warp (of `from`, `stride` apart) times the lane's row of the tile; lanes past its `rows` repeat the first.
template <class T>
static __device__ __forceinline__ void multiply(const Head<T>& h, const T* from, size_t stride, const float* tile,
                                                unsigned rows_of_tile, float (&products)[WARP_ROWS]) {
  const T* rows[WARP_ROWS];
  for (int i = 0; i < WARP_ROWS; i++) {
    rows[i] = from + h.row(i) * stride;
    products[i] = 0.0f;
  }
  const float* other = tile + (h.lane < rows_of_tile ? h.lane : 0) * (h.d + 1);
  for (unsigned j = 0; j < h.d; j++)
    for (int i = 0; i < WARP_ROWS; i++) products[i] += load(rows[i] + j) * other[j];
}

// sums[i] += sum_j weights[i][j] tile[j], the lane's channels of it.
template <class T, int CHANNELS>
static __device__ __forceinline__ void accumulate(const Head<T>& h, const float* weights, const float* tile, unsigned rows,
                                                  float (&sums)[WARP_ROWS][CHANNELS]) {
  for (unsigned j = 0; j < rows; j++)
    for (int channel = 0; channel < CHANNELS; channel++) {
      const unsigned at = h.lane + WARP * channel;
      const float x = at < h.d ? tile[j * (h.d + 1) + at] : 0.0f;
      for (int i = 0; i < WARP_ROWS; i++) sums[i][channel] += weights[i * WARP + j] * x;
    }
}

// The results of a warp's rows over all keys: sums of values weighted by exp(score - max), and the sums of those weights.
template <int CHANNELS>
struct Attended {
  float sums[WARP_ROWS][CHANNELS];
  float max[WARP_ROWS], norm[WARP_ROWS];
};

// The keys that the block's queries see: from the first one's first key to the last query.
template <class T>
static __device__ __forceinline__ unsigned keys_begin(const Head<T>& h) { return h.first_key(blockIdx.x * BLOCK_ROWS); }
template <class T>
static __device__ __forceinline__ unsigned keys_end(const Head<T>& h) {
  const unsigned end = (blockIdx.x + 1) * BLOCK_ROWS;
  return end < h.n ? end : h.n;
}

template <class T, int CHANNELS>
static __device__ __forceinline__ void attend(const Head<T>& h, float* keys, float* values, float* weights, Attended<CHANNELS>& a) {
  for (int i = 0; i < WARP_ROWS; i++) {
    a.max[i] = -INFINITY;
    a.norm[i] = 0.0f;
    for (int channel = 0; channel < CHANNELS; channel++) a.sums[i][channel] = 0.0f;
  }
  const unsigned end = keys_end(h);
  for (unsigned first = keys_begin(h); first < end; first += h.tile) {
    const unsigned rows = end - first < h.tile ? end - first : h.tile;
    __syncthreads();
    load_tile(keys, h.k, h.stride, first, rows, h.d);
    load_tile(values, h.v, h.stride, first, rows, h.d);
    __syncthreads();
    float scores[WARP_ROWS];
    multiply(h, h.q, h.stride, keys, rows, scores);
    for (int i = 0; i < WARP_ROWS; i++) {
      const unsigned key = first + h.lane, query = h.row(i);
      const bool visible = h.lane < rows && h.sees(query, key);
      const float score = visible ? h.scale * scores[i] : -INFINITY;
      const float max = fmaxf(a.max[i], warp_max(score));
      // Without a visible score, or with NaN alone, shifting by 0 keeps 0 and NaN what they are.
      const float shift = max == -INFINITY ? 0.0f : max;
      const float weight = visible ? expf(score - shift) : 0.0f;
      const float correction = a.max[i] == max || a.max[i] == -INFINITY ? 1.0f : expf(a.max[i] - max);
      a.norm[i] = a.norm[i] * correction + warp_sum(weight);
      a.max[i] = max;
      weights[i * WARP + h.lane] = visible ? weight * h.factor(query, key) : 0.0f;
      for (int channel = 0; channel < CHANNELS; channel++) a.sums[i][channel] *= correction;
    }
    __syncwarp();
    accumulate(h, weights, values, rows, a.sums);
    __syncwarp();
  }
}

// out_i = sum_j drop(softmax_j(scale q_i . k_j)) v_j
template <int CHANNELS, class T>
static __device__ __forceinline__ void forward(const Head<T>& h, float* shared, T* out) {
  float *keys = shared, *values = keys + h.tile * (h.d + 1);
  float* weights = values + h.tile * (h.d + 1) + threadIdx.x / WARP * WARP_ROWS * WARP;
  Attended<CHANNELS> a;
  attend(h, keys, values, weights, a);
  for (int i = 0; i < WARP_ROWS && h.row0 + i < h.n; i++)
    for (int channel = 0; channel < CHANNELS; channel++) {
      const unsigned at = h.lane + WARP * channel;
      if (at < h.d) store(out + (size_t)(h.row0 + i) * h.c + h.head * h.d + at, a.sums[i][channel] / a.norm[i]);
    }
}

// With P the probabilities, M the dropout factors and g = M dO V^T: dS = P (g - rowsum(P g)), dQ = scale dS K, where rowsum(P g) is
// dO . O. That and log sum exp of the scores go to `saved` [heads, n, 2] for the pass over the keys.
template <int CHANNELS, class T>
static __device__ __forceinline__ void backward_queries(const Head<T>& h, float* shared, const T* dout, T* dqkv, float* saved) {
  float *keys = shared, *values = keys + h.tile * (h.d + 1);
  float* weights = values + h.tile * (h.d + 1) + threadIdx.x / WARP * WARP_ROWS * WARP;
  const T* gradient = dout + h.head * h.d;
  Attended<CHANNELS> a;
  attend(h, keys, values, weights, a);
  float log_norm[WARP_ROWS], mean[WARP_ROWS], dq[WARP_ROWS][CHANNELS];
  for (int i = 0; i < WARP_ROWS; i++) {
    float product = 0.0f;
    for (int channel = 0; channel < CHANNELS; channel++) {
      const unsigned at = h.lane + WARP * channel;
      if (at < h.d) product += a.sums[i][channel] / a.norm[i] * load(gradient + (size_t)h.row(i) * h.c + at);
      dq[i][channel] = 0.0f;
    }
    mean[i] = warp_sum(product);
    log_norm[i] = a.max[i] + logf(a.norm[i]);
    if (h.lane == 0 && h.row0 + i < h.n) {
      float* at = saved + 2 * ((size_t)h.head * h.n + h.row0 + i);
      at[0] = log_norm[i];
      at[1] = mean[i];
    }
  }
  const unsigned end = keys_end(h);
  for (unsigned first = keys_begin(h); first < end; first += h.tile) {
    const unsigned rows = end - first < h.tile ? end - first : h.tile;
    __syncthreads();
    load_tile(keys, h.k, h.stride, first, rows, h.d);
    load_tile(values, h.v, h.stride, first, rows, h.d);
    __syncthreads();
    float scores[WARP_ROWS], dprobabilities[WARP_ROWS];
    multiply(h, h.q, h.stride, keys, rows, scores);
    multiply(h, gradient, h.c, values, rows, dprobabilities);
    for (int i = 0; i < WARP_ROWS; i++) {
      const unsigned key = first + h.lane, query = h.row(i);
      float dscore = 0.0f;
      if (h.lane < rows && h.sees(query, key))
        dscore = expf(h.scale * scores[i] - log_norm[i]) * (h.factor(query, key) * dprobabilities[i] - mean[i]);
      weights[i * WARP + h.lane] = dscore;
    }
    __syncwarp();
    accumulate(h, weights, keys, rows, dq);
    __syncwarp();
  }
  for (int i = 0; i < WARP_ROWS && h.row0 + i < h.n; i++)
    for (int channel = 0; channel < CHANNELS; channel++) {
      const unsigned at = h.lane + WARP * channel;
      if (at < h.d) store(dqkv + (h.row0 + i) * h.stride + h.head * h.d + at, h.scale * dq[i][channel]);
    }
}

// The block's rows are keys here, the tiles queries of all heads that share the keys: dV = (P M)^T dO, dK = scale dS^T Q.
template <int CHANNELS, class T>
static __device__ __forceinline__ void backward_keys(const Problem<T>& p, float* shared, const T* dout, T* dqkv, const float* saved) {
  float *queries = shared, *gradients = queries + p.tile * (p.d + 1);
  float* dropped = gradients + p.tile * (p.d + 1) + threadIdx.x / WARP * 2 * WARP_ROWS * WARP;
  float* dscores = dropped + WARP_ROWS * WARP;
  float dk[WARP_ROWS][CHANNELS], dv[WARP_ROWS][CHANNELS];
  for (int i = 0; i < WARP_ROWS; i++)
    for (int channel = 0; channel < CHANNELS; channel++) dk[i][channel] = dv[i][channel] = 0.0f;
  const unsigned group = p.heads / p.kv;
  for (unsigned head = blockIdx.y * group; head < (blockIdx.y + 1) * group; head++) {
    const Head<T> h = head_of(p, head);
    const unsigned last = keys_end(h) - 1, document = h.spans[2 * last + 1];
    const unsigned end = last + h.window < document ? last + h.window : document;
    for (unsigned first = blockIdx.x * BLOCK_ROWS; first < end; first += h.tile) {
      const unsigned rows = end - first < h.tile ? end - first : h.tile;
      __syncthreads();
      load_tile(queries, h.q, h.stride, first, rows, h.d);
      load_tile(gradients, dout + h.head * h.d, h.c, first, rows, h.d);
      __syncthreads();
      float scores[WARP_ROWS], dprobabilities[WARP_ROWS];
      multiply(h, h.k, h.stride, queries, rows, scores);
      multiply(h, h.v, h.stride, gradients, rows, dprobabilities);
      for (int i = 0; i < WARP_ROWS; i++) {
        const unsigned query = first + h.lane, key = h.row(i);
        float weight = 0.0f, dscore = 0.0f;
        if (h.lane < rows && h.sees(query, key)) {
          const float* of_query = saved + 2 * ((size_t)h.head * h.n + query);
          const float probability = expf(h.scale * scores[i] - of_query[0]), factor = h.factor(query, key);
          weight = probability * factor;
          dscore = probability * (factor * dprobabilities[i] - of_query[1]);
        }
        dropped[i * WARP + h.lane] = weight;
        dscores[i * WARP + h.lane] = dscore;
      }
      __syncwarp();
      accumulate(h, dropped, gradients, rows, dv);
      accumulate(h, dscores, queries, rows, dk);
      __syncwarp();
    }
  }
  const Head<T> h = head_of(p, blockIdx.y * group);
  const size_t keys = h.k - h.q, values = h.v - h.q;
  for (int i = 0; i < WARP_ROWS && h.row0 + i < h.n; i++)
    for (int channel = 0; channel < CHANNELS; channel++) {
      const unsigned at = h.lane + WARP * channel;
      if (at >= h.d) continue;
      T* row = dqkv + (h.row0 + i) * h.stride + h.head * h.d + at;
      store(row + keys, h.scale * dk[i][channel]);
      store(row + values, dv[i][channel]);
    }
}

#define ATTENTION_PARAMETERS(T)                                                                                             \
  const T *qkv, const uint32_t *spans, unsigned n, unsigned heads, unsigned kv, unsigned d, unsigned tile, unsigned window, \
      float scale, DROPOUT_PARAMETERS
#define PROBLEM(T) Problem<T>{qkv, spans, n, heads, kv, d, tile, window, scale, DROPOUT}

// BLOCKS: as many of them must fit a multiprocessor, which bounds the registers.
#define KERNELS_FOR(CHANNELS, BLOCKS, T, SUFFIX)                                                                                 \
  extern "C" __global__ void __launch_bounds__(WARPS* WARP, BLOCKS)                                                              \
      mixce_attention_##CHANNELS##_##SUFFIX(ATTENTION_PARAMETERS(T), T* out) {                                                   \
    extern __shared__ float shared[];                                                                                            \
    forward<CHANNELS>(head_of(PROBLEM(T), blockIdx.y), shared, out);                                                             \
  }                                                                                                                              \
  extern "C" __global__ void __launch_bounds__(WARPS* WARP, BLOCKS)                                                              \
      mixce_attention_backward_queries_##CHANNELS##_##SUFFIX(ATTENTION_PARAMETERS(T), const T* dout, T* dqkv, float* saved) {    \
    extern __shared__ float shared[];                                                                                            \
    backward_queries<CHANNELS>(head_of(PROBLEM(T), blockIdx.y), shared, dout, dqkv, saved);                                      \
  }                                                                                                                              \
  extern "C" __global__ void __launch_bounds__(WARPS* WARP, BLOCKS)                                                              \
      mixce_attention_backward_keys_##CHANNELS##_##SUFFIX(ATTENTION_PARAMETERS(T), const T* dout, T* dqkv, const float* saved) { \
    extern __shared__ float shared[];                                                                                            \
    backward_keys<CHANNELS>(PROBLEM(T), shared, dout, dqkv, saved);                                                              \
  }
#define KERNELS(T, SUFFIX) KERNELS_FOR(2, 5, T, SUFFIX) KERNELS_FOR(4, 4, T, SUFFIX) KERNELS_FOR(8, 3, T, SUFFIX)

FOR_BOTH_TYPES(KERNELS)
