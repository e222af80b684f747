// Attention of one new token a sequence over cached keys and values, and the cache of prompts. The token at position p of a sequence has
// column p.
//
// A block takes up to R heads of queries that share keys and values, and SPAN columns of a sequence. A row of keys or values is spread
// over neighbouring lanes, which load 16 bytes at a time where rows are aligned to that; several rows go through a warp side by side. Each
// group of lanes keeps the largest of its scores and sums relative to it (an online softmax); groups, warps and spans are then joined
// in a fixed order. Which rows a group takes depends on their columns alone, so a sequence does not depend on the others.
#include "common.cuh"

constexpr int DECODE_THREADS = 128;
constexpr int DECODE_WARPS = DECODE_THREADS / WARP;
constexpr unsigned SPAN = 1024;
// Channels of a head.
constexpr int MAX_HEAD_SIZE = 256;
// Elements of a row that a lane has.
constexpr int OWN = 8;

struct alignas(16) Quad {
  uint32_t word[4];
};

// What a lane loads at once: N elements of a row of type T.
template <class T, int N>
struct Piece {
  Quad quad;
  __device__ __forceinline__ Piece() : quad{} {}
  __device__ __forceinline__ explicit Piece(const T* x) : quad(*(const Quad*)x) {}
  __device__ __forceinline__ float at(int i) const {
    if (N == 4) return __uint_as_float(quad.word[i]);
    return __uint_as_float(i % 2 ? quad.word[i / 2] & 0xffff0000u : quad.word[i / 2] << 16);
  }
};

template <class T>
struct Piece<T, 1> {
  float x;
  __device__ __forceinline__ Piece() : x(0.0f) {}
  __device__ __forceinline__ explicit Piece(const T* at) : x(load(at)) {}
  __device__ __forceinline__ float at(int) const { return x; }
};

// The elements of a row that a lane has: pieces of N, `lanes` pieces apart.
template <class T, int N>
struct Share {
  Piece<T, N> piece[OWN / N];

  __device__ __forceinline__ Share() {}
  __device__ __forceinline__ Share(const T* row, unsigned lane, unsigned lanes, unsigned d) {
#pragma unroll
    for (int i = 0; i < OWN / N; i++) {
      const unsigned at = (i * lanes + lane) * N;
      if (at < d) piece[i] = Piece<T, N>(row + at);
    }
  }
  __device__ __forceinline__ float at(int i) const { return piece[i / N].at(i % N); }
};

// The part of a head's attention that some columns make: the largest score m, the sum of exp(score - m), and the sum of these times
// the values.
struct Part {
  float largest, sum, values[OWN];

  // The factor of sums relative to `from`, so that they are relative to `to`, which is not less.
  static __device__ __forceinline__ float factor(float from, float to) { return from == -INFINITY ? 0.0f : expf(from - to); }

  // With the part of the lane `distance` away; both end with the same bits.
  __device__ __forceinline__ void join_lane(int distance) {
    const float other = __shfl_xor_sync(ALL_LANES, largest, distance), most = fmaxf(largest, other);
    const float mine = factor(largest, most), theirs = factor(other, most);
    largest = most;
    sum = sum * mine + __shfl_xor_sync(ALL_LANES, sum, distance) * theirs;
#pragma unroll
    for (int i = 0; i < OWN; i++) values[i] = values[i] * mine + __shfl_xor_sync(ALL_LANES, values[i], distance) * theirs;
  }
};

// One sequence's keys, values and queries for the heads of a block.
template <class T>
struct Problem {
  // Heads of queries, one after another, which share keys and values.
  unsigned count, d;
  // The column of the new token, whose key and value are not read from the cache.
  unsigned last;
  const T *queries, *new_key, *new_value, *keys, *values;
  float scale;
};

// The part of the columns first..end for each head; in the end of all threads of the block, for its lanes' channels.
template <int N, int R, class T>
static __device__ __forceinline__ void attend(const Problem<T>& problem, unsigned first, unsigned end, unsigned lanes,
                                              Part (&parts)[R]) {
  constexpr int ROWS = R > 2 ? 2 : 4;
  const unsigned d = problem.d, warp = threadIdx.x / WARP, lane = threadIdx.x % lanes;
  const unsigned groups = WARP / lanes, group = threadIdx.x % WARP / lanes, step = DECODE_WARPS * groups;
  float queries[R][OWN];
  for (int r = 0; r < R; r++) {
    Share<T, N> query;
    if (r < problem.count) query = Share<T, N>(problem.queries + (size_t)r * d, lane, lanes, d);
    parts[r].largest = -INFINITY;
    parts[r].sum = 0.0f;
    for (int i = 0; i < OWN; i++) {
      queries[r][i] = problem.scale * query.at(i);
      parts[r].values[i] = 0.0f;
    }
  }
  for (unsigned base = first + warp * groups; base < end; base += ROWS * step) {
    Share<T, N> keys[ROWS], values[ROWS];
#pragma unroll
    for (int row = 0; row < ROWS; row++) {
      const unsigned column = base + row * step + group;
      if (column >= end) continue;
      const bool is_new = column == problem.last;
      keys[row] = Share<T, N>(is_new ? problem.new_key : problem.keys + (size_t)column * d, lane, lanes, d);
      values[row] = Share<T, N>(is_new ? problem.new_value : problem.values + (size_t)column * d, lane, lanes, d);
    }
#pragma unroll
    for (int r = 0; r < R; r++) {
      Part& part = parts[r];
      float scores[ROWS], most = part.largest;
#pragma unroll
      for (int row = 0; row < ROWS; row++) {
        float score = 0.0f;
#pragma unroll
        for (int i = 0; i < OWN; i++) score += queries[r][i] * keys[row].at(i);
        for (int distance = lanes / 2; distance > 0; distance /= 2) score += __shfl_xor_sync(ALL_LANES, score, distance);
        scores[row] = base + row * step + group < end ? score : -INFINITY;
        most = fmaxf(most, scores[row]);
      }
      const float kept = Part::factor(part.largest, most);
      part.largest = most;
      part.sum *= kept;
#pragma unroll
      for (int i = 0; i < OWN; i++) part.values[i] *= kept;
#pragma unroll
      for (int row = 0; row < ROWS; row++) {
        const float weight = Part::factor(scores[row], most);
        part.sum += weight;
#pragma unroll
        for (int i = 0; i < OWN; i++) part.values[i] += weight * values[row].at(i);
      }
    }
  }
  for (int r = 0; r < R; r++)
    for (int distance = lanes; distance < WARP; distance *= 2) parts[r].join_lane(distance);
}

// The attended values of a head from parts of it, each of d values, the largest score and the sum: out, or a part again.
template <class T>
static __device__ __forceinline__ void join_parts(const float* parts, unsigned count, unsigned stride, unsigned d, unsigned channel,
                                                  T* out, float* part) {
  float most = -INFINITY, sum = 0.0f, value = 0.0f;
  for (unsigned i = 0; i < count; i++) most = fmaxf(most, parts[i * stride + d]);
  for (unsigned i = 0; i < count; i++) {
    const float factor = Part::factor(parts[i * stride + d], most);
    sum += parts[i * stride + d + 1] * factor;
    value += parts[i * stride + channel] * factor;
  }
  if (!part) {
    store(out + channel, value / sum);
    return;
  }
  part[channel] = value;
  if (channel > 0) return;
  part[d] = most;
  part[d + 1] = sum;
}

// qkv [sequences, (heads + 2 kv) d]; keys and values [sequences, kv, capacity, d] take the new token in the column of its position;
// attention over the last `window` columns up to it. With one span the result is out [sequences, heads, d], with more it is the part
// [d + 2] of each span in parts [sequences, heads, spans, d + 2].
template <int N, int R, class T>
static __device__ __forceinline__ void decode(const T* qkv, T* keys, T* values, const uint32_t* positions, T* out, float* parts,
                                              unsigned heads, unsigned kv, unsigned capacity, unsigned d, unsigned window,
                                              unsigned lanes, float scale) {
  __shared__ float of_warps[DECODE_WARPS][R][MAX_HEAD_SIZE + 2];
  const unsigned group = heads / kv, blocks_of_group = (group + R - 1) / R;
  const unsigned taken = blockIdx.x % blocks_of_group * R, kv_head = blockIdx.x / blocks_of_group % kv;
  const unsigned sequence = blockIdx.x / blocks_of_group / kv, span = blockIdx.y;
  const unsigned last = positions[sequence], begin = last + 1 > window ? last + 1 - window : 0;
  const unsigned first = begin > span * SPAN ? begin : span * SPAN, end = last + 1 < (span + 1) * SPAN ? last + 1 : (span + 1) * SPAN;
  if (first >= end) return;
  const T *row = qkv + (size_t)sequence * (heads + 2 * kv) * d, *new_key = row + (size_t)(heads + kv_head) * d;
  const T* new_value = new_key + (size_t)kv * d;
  const size_t cached = ((size_t)sequence * kv + kv_head) * capacity * d;
  if (taken == 0 && end == last + 1)
    for (unsigned i = threadIdx.x; i < d; i += DECODE_THREADS) {
      keys[cached + (size_t)last * d + i] = new_key[i];
      values[cached + (size_t)last * d + i] = new_value[i];
    }
  const unsigned first_head = kv_head * group + taken, count = group - taken < R ? group - taken : R;
  const T* queries = row + (size_t)first_head * d;
  const Problem<T> problem = {count, d, last, queries, new_key, new_value, keys + cached, values + cached, scale};
  Part own[R];
  attend<N, R>(problem, first, end, lanes, own);
  if (threadIdx.x % WARP < lanes) {
    const unsigned warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
#pragma unroll
    for (int r = 0; r < R; r++) {
#pragma unroll
      for (int i = 0; i < OWN; i++) {
        const unsigned channel = (i / N * lanes + lane) * N + i % N;
        if (channel < d) of_warps[warp][r][channel] = own[r].values[i];
      }
      if (lane == 0) {
        of_warps[warp][r][d] = own[r].largest;
        of_warps[warp][r][d + 1] = own[r].sum;
      }
    }
  }
  __syncthreads();
  for (unsigned i = threadIdx.x; i < count * d; i += DECODE_THREADS) {
    const size_t head = (size_t)sequence * heads + first_head + i / d;
    float* part = gridDim.y > 1 ? parts + (head * gridDim.y + span) * (d + 2) : nullptr;
    join_parts(&of_warps[0][i / d][0], DECODE_WARPS, R * (MAX_HEAD_SIZE + 2), d, i % d, out + head * d, part);
  }
}

// out [sequences, heads, d] from the parts of the spans that have columns: one block a sequence and head.
template <class T>
static __device__ __forceinline__ void join_spans(const float* parts, const uint32_t* positions, T* out, unsigned heads, unsigned d,
                                                  unsigned window, unsigned spans) {
  const unsigned last = positions[blockIdx.x / heads], begin = last + 1 > window ? last + 1 - window : 0;
  const unsigned first = begin / SPAN, count = last / SPAN + 1 - first;
  const float* of_head = parts + ((size_t)blockIdx.x * spans + first) * (d + 2);
  for (unsigned channel = threadIdx.x; channel < d; channel += DECODE_THREADS)
    join_parts(of_head, count, d + 2, d, channel, out + (size_t)blockIdx.x * d, (float*)nullptr);
}

// The keys and values of packed prompts: those of the tokens offsets[i]..offsets[i + 1] in qkv go to the first columns of sequence i. One
// block a sequence and head of keys and values.
template <class T>
static __device__ __forceinline__ void fill(const T* qkv, const uint32_t* offsets, T* keys, T* values, unsigned heads, unsigned kv,
                                            unsigned capacity, unsigned d) {
  const unsigned sequence = blockIdx.x / kv, kv_head = blockIdx.x % kv, channels = (heads + 2 * kv) * d;
  const size_t begin = offsets[sequence], count = (offsets[sequence + 1] - begin) * d, cached = (size_t)blockIdx.x * capacity * d;
  for (size_t i = threadIdx.x; i < count; i += THREADS) {
    const T* key = qkv + (begin + i / d) * channels + (size_t)(heads + kv_head) * d + i % d;
    keys[cached + i] = *key;
    values[cached + i] = key[(size_t)kv * d];
  }
}

#define DECODE_KERNEL(NAME, N, R, T, SUFFIX)                                                                                  \
  extern "C" __global__ void __launch_bounds__(DECODE_THREADS) mixce_decode_##NAME##_##SUFFIX(                                \
      const T* qkv, T* keys, T* values, const uint32_t* positions, T* out, float* parts, unsigned heads, unsigned kv,         \
      unsigned capacity, unsigned d, unsigned window, unsigned lanes, float scale) {                                          \
    decode<N, R>(qkv, keys, values, positions, out, parts, heads, kv, capacity, d, window, lanes, scale);                     \
  }

#define KERNELS(T, SUFFIX)                                                                                                    \
  DECODE_KERNEL(1, 16 / sizeof(T), 1, T, SUFFIX)                                                                              \
  DECODE_KERNEL(2, 16 / sizeof(T), 2, T, SUFFIX)                                                                              \
  DECODE_KERNEL(4, 16 / sizeof(T), 4, T, SUFFIX)                                                                              \
  DECODE_KERNEL(unaligned, 1, 1, T, SUFFIX)                                                                                   \
  extern "C" __global__ void __launch_bounds__(DECODE_THREADS)                                                                \
      mixce_decode_join_##SUFFIX(const float* parts, const uint32_t* positions, T* out, unsigned heads, unsigned d,           \
                                 unsigned window, unsigned spans) {                                                           \
    join_spans(parts, positions, out, heads, d, window, spans);                                                               \
  }                                                                                                                           \
  extern "C" __global__ void __launch_bounds__(THREADS)                                                                       \
      mixce_fill_cache_##SUFFIX(const T* qkv, const uint32_t* offsets, T* keys, T* values, unsigned heads, unsigned kv,       \
                                unsigned capacity, unsigned d) {                                                              \
    fill(qkv, offsets, keys, values, heads, kv, capacity, d);                                                                 \
  }

FOR_BOTH_TYPES(KERNELS)
