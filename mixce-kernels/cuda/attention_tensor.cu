// Causal self-attention over packed documents as in attention.cu, on tensor cores: for bf16 and heads of d <= 128 channels, a multiple
// of 8. Products have operands of bf16 (also the probabilities and their gradients) and sums of f32.
//
// Legend as there. A block takes BLOCK_ROWS rows of one head (queries, or keys in the pass for keys), a warp WARP_ROWS of them, and walks
// over tiles of N rows of the other side, of which the next is copied to shared memory while one is used. D is d rounded up to what the
// kernels are compiled for: channels from d on are zeros.
//
// A lane holds scores [WARP_ROWS, N] as the sums of tensor.cuh: of the rows g and g + 8 the columns 2t, 2t + 1 of every eight. Scores
// are in units of log 2, so that exp2 gives probabilities.
//
// What dropout keeps is drawn before, into a bit a query and visible key: `kept` [heads, n, words], where bit j % 32 of word j / 32 is
// that of key j of the query's document. Null without dropout.
#include "tensor.cuh"

constexpr int WARPS = 4, WARP_ROWS = 16, BLOCK_ROWS = WARPS * WARP_ROWS, BLOCK_THREADS = WARPS * WARP;
// Keys of a row of bits that are drawn together, four a lane.
constexpr unsigned DRAWN = 4 * WARP;

struct Problem {
  const bf16* qkv;
  const uint32_t *spans, *kept;
  unsigned n, heads, kv, d, window, words;
  float scale, keep_scale;
};

static __device__ __forceinline__ unsigned first_key(const uint32_t* spans, unsigned window, unsigned query) {
  const unsigned document = spans[2 * query], nearest = query >= window ? query + 1 - window : 0;
  return nearest > document ? nearest : document;
}

// One head of queries with its keys and values, seen by one warp of a block.
struct Head {
  const Problem& p;
  const bf16 *q, *k, *v;  // row i at [i * stride]
  size_t stride, width;   // width: channels of a row of the result
  unsigned head, lane, row0;

  __device__ __forceinline__ Head(const Problem& p, unsigned head)
      : p(p), stride((size_t)(p.heads + 2 * p.kv) * p.d), width((size_t)p.heads * p.d), head(head), lane(threadIdx.x % WARP) {
    row0 = blockIdx.x * BLOCK_ROWS + threadIdx.x / WARP * WARP_ROWS;
    q = p.qkv + (size_t)head * p.d;
    k = p.qkv + (size_t)(p.heads + head / (p.heads / p.kv)) * p.d;
    v = k + (size_t)p.kv * p.d;
  }

  // Row i of the warp, or the last row of all where there are fewer: then its results are dropped.
  __device__ __forceinline__ unsigned row(unsigned i) const { return row0 + i < p.n ? row0 + i : p.n - 1; }
  __device__ __forceinline__ unsigned end_of_block() const {
    const unsigned end = (blockIdx.x + 1) * BLOCK_ROWS;
    return end < p.n ? end : p.n;
  }
};

// A query, and which keys it sees: first <= key <= query.
struct Query {
  unsigned query, first, document;
  const uint32_t* kept;

  __device__ __forceinline__ Query(const Head& h, unsigned query)
      : query(query), first(first_key(h.p.spans, h.p.window, query)), document(h.p.spans[2 * query]),
        kept(h.p.kept ? h.p.kept + ((size_t)h.head * h.p.n + query) * h.p.words : nullptr) {}

  __device__ __forceinline__ bool sees(unsigned key) const { return key >= first && key <= query; }

  __device__ __forceinline__ uint32_t word(unsigned i) const {
    return i >= (first - document) / DRAWN * (DRAWN / 32) && i <= (query - document) / 32 ? kept[i] : 0;
  }

  // Bit i says whether key `key + i` is kept.
  __device__ __forceinline__ uint64_t keeps(unsigned key) const {
    if (key < document) {
      const unsigned before = document - key;
      return before < 64 ? ((uint64_t)word(1) << 32 | word(0)) << before : 0;
    }
    const unsigned i = (key - document) / 32, shift = (key - document) % 32;
    const uint64_t low = (uint64_t)word(i + 1) << 32 | word(i), high = shift ? (uint64_t)word(i + 2) << (64 - shift) : 0;
    return low >> shift | high;
  }
};

// Tiles in shared memory are rows of D numbers in chunks of eight. The order of a row's chunks depends on the row, so that eight rows
// of one chunk lie in different banks.
template <int D>
static __device__ __forceinline__ bf16* chunk_of(bf16* tile, unsigned row, unsigned chunk) {
  return tile + row * D + (chunk ^ row % 8) * 8;
}

// Begins to copy the rows first..first + N, `stride` apart; zeros stand for rows from `end` and channels from d on.
template <int D, int N>
static __device__ __forceinline__ void copy_rows(bf16* tile, const bf16* from, size_t stride, unsigned first, unsigned end, unsigned d) {
  constexpr unsigned CHUNKS = D / 8;
  for (unsigned i = threadIdx.x; i < N * CHUNKS; i += BLOCK_THREADS) {
    const unsigned row = i / CHUNKS, chunk = i % CHUNKS;
    const bool inside = first + row < end && chunk * 8 < d;
    copy_async(chunk_of<D>(tile, row, chunk), inside ? from + (first + row) * stride + chunk * 8 : from, inside ? 16 : 0);
  }
}

// Left operands in registers: those of channels 16 i..16 i + 16.
template <int D>
struct InRegisters {
  uint32_t a[D / 16][4];

  __device__ __forceinline__ void get(uint32_t (&of)[4], int i, unsigned) const {
    for (int j = 0; j < 4; j++) of[j] = a[i][j];
  }
};

// Left operands in shared memory, from where each use loads them: a warp's rows of a tile.
template <int D>
struct InSharedMemory {
  bf16* tile;

  __device__ __forceinline__ void get(uint32_t (&of)[4], int i, unsigned lane) const {
    load_matrices<false>(of, chunk_of<D>(tile, threadIdx.x / WARP * WARP_ROWS + lane % 16, 2 * i + lane / 16));
  }
};

// The rows of a warp as the left operands of products over channels.
template <int D>
static __device__ __forceinline__ InRegisters<D> load_rows(const Head& h, const bf16* from, size_t stride) {
  const unsigned g = h.lane / 4, t = h.lane % 4;
  InRegisters<D> rows;
  for (int i = 0; i < D / 8; i++)
    for (int half = 0; half < 2; half++) {
      const bf16* at = from + h.row(g + 8 * half) * stride + 8 * i + 2 * t;
      rows.a[i / 2][i % 2 * 2 + half] = 8 * i < h.p.d ? *reinterpret_cast<const uint32_t*>(at) : 0;
    }
  return rows;
}

// scores = the left rows times the transpose of a tile of N rows
template <int D, int N, class Left>
static __device__ __forceinline__ void multiply(float (&scores)[N / 8][4], const Left& left, bf16* tile, unsigned lane) {
#pragma unroll
  for (int j = 0; j < N / 8; j++)
    for (int i = 0; i < 4; i++) scores[j][i] = 0.0f;
#pragma unroll
  for (int i = 0; i < D / 16; i++) {
    uint32_t a[4];
    left.get(a, i, lane);
#pragma unroll
    for (int j = 0; j < N / 16; j++) {
      uint32_t b[4];
      load_matrices<false>(b, chunk_of<D>(tile, 16 * j + lane / 16 * 8 + lane % 8, 2 * i + lane / 8 % 2));
      multiply_add(scores[2 * j], a, {b[0], b[1]});
      multiply_add(scores[2 * j + 1], a, {b[2], b[3]});
    }
  }
}

// sums += weights times a tile of N rows
template <int D, int N>
static __device__ __forceinline__ void accumulate(float (&sums)[D / 8][4], const float (&weights)[N / 8][4], bf16* tile, unsigned lane) {
#pragma unroll
  for (int j = 0; j < N / 16; j++) {
    const float(&left)[4] = weights[2 * j], (&right)[4] = weights[2 * j + 1];
    const uint32_t a[4] = {pack(left[0], left[1]), pack(left[2], left[3]), pack(right[0], right[1]), pack(right[2], right[3])};
#pragma unroll
    for (int i = 0; i < D / 16; i++) {
      uint32_t b[4];
      load_matrices<true>(b, chunk_of<D>(tile, 16 * j + lane % 16, 2 * i + lane / 16));
      multiply_add(sums[2 * i], a, {b[0], b[1]});
      multiply_add(sums[2 * i + 1], a, {b[2], b[3]});
    }
  }
}

static __device__ __forceinline__ float quad_sum(float x) {
  x += __shfl_xor_sync(ALL_LANES, x, 1);
  return x + __shfl_xor_sync(ALL_LANES, x, 2);
}
static __device__ __forceinline__ float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 1));
  return fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 2));
}

// The softmax of a lane's two rows over the keys seen so far: weights are exp2(score - max), `norm` is the lane's share of their sum.
template <int D, int N>
struct Softmax {
  float max[2] = {-INFINITY, -INFINITY}, norm[2] = {0.0f, 0.0f};

  // Turns scores of the keys from `first` on into weights, and corrects what was summed with earlier ones.
  __device__ __forceinline__ void weigh(float (&scores)[N / 8][4], const Query (&rows)[2], unsigned first, bool all_seen, float scale,
                                        unsigned t, float (&sums)[D / 8][4]) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float top = max[half];
#pragma unroll
      for (int i = 0; i < N / 4; i++) {
        float& score = scores[i / 2][2 * half + i % 2];
        const bool seen = all_seen || rows[half].sees(first + i / 2 * 8 + 2 * t + i % 2);
        score = seen ? scale * score : -INFINITY;
        top = fmaxf(top, score);
      }
      top = quad_max(top);
      // Without a visible score, or with NaN alone, shifting by 0 keeps 0 and NaN what they are.
      const float shift = top == -INFINITY ? 0.0f : top, correction = exp2f(max[half] - shift);
      float sum = 0.0f;
#pragma unroll
      for (int i = 0; i < N / 4; i++) {
        float& score = scores[i / 2][2 * half + i % 2];
        score = exp2f(score - shift);
        sum += score;
      }
      max[half] = top;
      norm[half] = norm[half] * correction + sum;
#pragma unroll
      for (int i = 0; i < D / 4; i++) sums[i / 2][2 * half + i % 2] *= correction;
    }
  }
};

// Whether every query of the warp sees every key of first..first + n.
static __device__ __forceinline__ bool all_seen(const Head& h, unsigned first, unsigned n) {
  return first + n <= h.row(0) + 1 && first >= first_key(h.p.spans, h.p.window, h.row(WARP_ROWS - 1));
}

// The first key that the block's queries see: never before that of an earlier query.
static __device__ __forceinline__ unsigned keys_begin(const Head& h) { return first_key(h.p.spans, h.p.window, blockIdx.x * BLOCK_ROWS); }

// Walks over the keys of the block's queries: `f(first, keys, values)` for tiles of N in shared memory.
template <int D, int N, class F>
static __device__ __forceinline__ void for_tiles(bf16* shared, const bf16* left, size_t left_stride, const bf16* right,
                                                 size_t right_stride, unsigned begin, unsigned end, unsigned d, F f) {
  constexpr int TILE = N * D;
  const auto copy = [&](unsigned first, bf16* to) {
    copy_rows<D, N>(to, left, left_stride, first, end, d);
    copy_rows<D, N>(to + TILE, right, right_stride, first, end, d);
  };
  bf16 *now = shared, *next = shared + 2 * TILE;
  if (begin < end) copy(begin, now);
  end_copies();
  for (unsigned first = begin; first < end; first += N) {
    if (first + N < end) copy(first + N, next);
    end_copies();
    wait_for_copies<1>();
    __syncthreads();
    f(first, now, now + TILE);
    __syncthreads();
    bf16* used = now;
    now = next;
    next = used;
  }
}

// Stores a row's channels, which a lane has in pairs.
template <int D>
static __device__ __forceinline__ void store_row(bf16* row, const float (&sums)[D / 8][4], int half, float factor, unsigned d, unsigned t) {
#pragma unroll
  for (int i = 0; i < D / 8; i++)
    if (8 * i < d)
      *reinterpret_cast<uint32_t*>(row + 8 * i + 2 * t) = pack(factor * sums[i][2 * half], factor * sums[i][2 * half + 1]);
}

// out_i = sum_j drop(softmax_j(scale q_i . k_j)) v_j
template <int D, int N>
static __device__ __forceinline__ void forward(const Problem& p, bf16* shared, bf16* out) {
  const Head h(p, blockIdx.y);
  const unsigned g = h.lane / 4, t = h.lane % 4;
  const Query rows[2] = {Query(h, h.row(g)), Query(h, h.row(g + 8))};
  const InRegisters<D> q = load_rows<D>(h, h.q, h.stride);
  float sums[D / 8][4] = {};
  Softmax<D, N> softmax;
  for_tiles<D, N>(shared, h.k, h.stride, h.v, h.stride, keys_begin(h), h.end_of_block(), p.d, [&](unsigned first, bf16* k, bf16* v) {
    float scores[N / 8][4];
    multiply<D, N>(scores, q, k, h.lane);
    softmax.weigh(scores, rows, first, all_seen(h, first, N), p.scale, t, sums);
    if (p.kept)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const uint64_t keeps = rows[half].keeps(first) >> 2 * t;
#pragma unroll
        for (int i = 0; i < N / 4; i++)
          if (!(keeps >> (i / 2 * 8 + i % 2) & 1)) scores[i / 2][2 * half + i % 2] = 0.0f;
      }
    accumulate<D, N>(sums, scores, v, h.lane);
  });
  for (int half = 0; half < 2; half++) {
    const float norm = quad_sum(softmax.norm[half]);
    const unsigned row = h.row0 + g + 8 * half;
    if (row < p.n) store_row<D>(out + row * h.width + (size_t)h.head * p.d, sums, half, p.keep_scale / norm, p.d, t);
  }
}

// The sum over channels of out dout, for the lane's rows.
static __device__ __forceinline__ float row_product(const Head& h, const bf16* out, const bf16* dout, unsigned row, unsigned t) {
  const size_t at = row * h.width + (size_t)h.head * h.p.d;
  float sum = 0.0f;
  for (unsigned i = 2 * t; i < h.p.d; i += 8)
    sum += load(out + at + i) * load(dout + at + i) + load(out + at + i + 1) * load(dout + at + i + 1);
  return quad_sum(sum);
}

// With P the probabilities, M the dropout factors and g = M dO V^T: dS = P (g - rowsum(P g)), dQ = scale dS K, where rowsum(P g) is
// dO . O. That and log2 of the sum of exp2 of the scores go to `saved` [heads, n, 2] for the pass over the keys.
template <int D, int N>
static __device__ __forceinline__ void backward_queries(const Problem& p, bf16* shared, const bf16* out, const bf16* dout, float scale,
                                                        bf16* dqkv, float* saved) {
  const Head h(p, blockIdx.y);
  const unsigned g = h.lane / 4, t = h.lane % 4;
  const Query rows[2] = {Query(h, h.row(g)), Query(h, h.row(g + 8))};
  const float mean[2] = {row_product(h, out, dout, h.row(g), t), row_product(h, out, dout, h.row(g + 8), t)};
  const InRegisters<D> q = load_rows<D>(h, h.q, h.stride);
  const InRegisters<D> gradient = load_rows<D>(h, dout + (size_t)h.head * p.d, h.width);
  float dq[D / 8][4] = {};
  Softmax<D, N> softmax;
  for_tiles<D, N>(shared, h.k, h.stride, h.v, h.stride, keys_begin(h), h.end_of_block(), p.d, [&](unsigned first, bf16* k, bf16* v) {
    float scores[N / 8][4], products[N / 8][4];
    multiply<D, N>(scores, q, k, h.lane);
    softmax.weigh(scores, rows, first, all_seen(h, first, N), p.scale, t, dq);
    multiply<D, N>(products, gradient, v, h.lane);
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const uint64_t keeps = p.kept ? rows[half].keeps(first) >> 2 * t : ~(uint64_t)0;
#pragma unroll
      for (int i = 0; i < N / 4; i++) {
        const float factor = keeps >> (i / 2 * 8 + i % 2) & 1 ? p.keep_scale : 0.0f;
        scores[i / 2][2 * half + i % 2] *= factor * products[i / 2][2 * half + i % 2] - mean[half];
      }
    }
    accumulate<D, N>(dq, scores, k, h.lane);
  });
  for (int half = 0; half < 2; half++) {
    const float norm = quad_sum(softmax.norm[half]);
    const unsigned row = h.row0 + g + 8 * half;
    if (row >= p.n) continue;
    store_row<D>(dqkv + row * h.stride + (size_t)h.head * p.d, dq, half, scale / norm, p.d, t);
    if (t == 0) {
      float* at = saved + 2 * ((size_t)h.head * p.n + row);
      at[0] = softmax.max[half] + log2f(norm);
      at[1] = mean[half];
    }
  }
}

// What the pass over the keys needs of the N queries of a tile.
template <int N>
struct QueriesOfTile {
  float log_norm[N], mean[N];
  unsigned first[N];
  uint64_t kept[N];  // of the block's keys

  __device__ __forceinline__ void fill(const Head& h, const float* saved, unsigned from, unsigned end) {
    if (threadIdx.x >= N) return;
    const unsigned i = threadIdx.x, query = from + i;
    if (query < end) {
      const Query row(h, query);
      const float* of_query = saved + 2 * ((size_t)h.head * h.p.n + query);
      log_norm[i] = of_query[0];
      mean[i] = of_query[1];
      first[i] = row.first;
      kept[i] = h.p.kept ? row.keeps(blockIdx.x * BLOCK_ROWS) : ~(uint64_t)0;
    } else {  // sees no key
      log_norm[i] = mean[i] = 0.0f;
      first[i] = 0xffffffffu;
      kept[i] = 0;
    }
  }
};

// The block's rows are keys here, the tiles queries of all heads that share the keys: dV = (P M)^T dO, dK = scale dS^T Q.
template <int D, int N>
static __device__ __forceinline__ void backward_keys(const Problem& p, bf16* shared, bf16* keys_of_block, QueriesOfTile<N>& queries,
                                                     const bf16* dout, float scale, bf16* dqkv, const float* saved) {
  const unsigned group = p.heads / p.kv;
  const Head first_head(p, blockIdx.y * group);
  const unsigned g = first_head.lane / 4, t = first_head.lane % 4, lane = first_head.lane;
  // The first tile's wait is for these, too.
  copy_rows<D, BLOCK_ROWS>(keys_of_block, first_head.k, first_head.stride, blockIdx.x * BLOCK_ROWS, p.n, p.d);
  const InSharedMemory<D> k = {keys_of_block};
  const InRegisters<D> v = load_rows<D>(first_head, first_head.v, first_head.stride);
  float dk[D / 8][4] = {}, dv[D / 8][4] = {};
  const unsigned key = first_head.row0 + g, begin = blockIdx.x * BLOCK_ROWS, last = first_head.end_of_block() - 1;
  const unsigned document = p.spans[2 * last + 1], end = p.window < document - last ? last + p.window : document;
  for (unsigned head = blockIdx.y * group; head < (blockIdx.y + 1) * group; head++) {
    const Head h(p, head);
    for_tiles<D, N>(shared, h.q, h.stride, dout + (size_t)head * p.d, h.width, begin, end, p.d, [&](unsigned first, bf16* q, bf16* dq) {
      queries.fill(h, saved, first, end);
      float scores[N / 8][4], products[N / 8][4];
      multiply<D, N>(scores, k, q, lane);
      multiply<D, N>(products, v, dq, lane);
      __syncthreads();
#pragma unroll
      for (int i = 0; i < N / 4; i++) {
        const unsigned column = i / 2 * 8 + 2 * t + i % 2, first_seen = queries.first[column];
        const uint32_t keeps = (uint32_t)(queries.kept[column] >> (key - begin));
#pragma unroll
        for (int half = 0; half < 2; half++) {
          float &score = scores[i / 2][2 * half + i % 2], &product = products[i / 2][2 * half + i % 2];
          const bool seen = key + 8 * half <= first + column && key + 8 * half >= first_seen, keep = keeps >> 8 * half & 1;
          const float probability = seen ? exp2f(p.scale * score - queries.log_norm[column]) : 0.0f;
          score = keep ? probability : 0.0f;
          product = probability * ((keep ? p.keep_scale * product : 0.0f) - queries.mean[column]);
        }
      }
      accumulate<D, N>(dv, scores, dq, lane);
      accumulate<D, N>(dk, products, q, lane);
    });
  }
  const size_t keys = first_head.k - p.qkv, values = first_head.v - p.qkv;
  for (int half = 0; half < 2; half++) {
    if (key + 8 * half >= p.n) continue;
    bf16* row = dqkv + (size_t)(key + 8 * half) * first_head.stride;
    store_row<D>(row + keys, dk, half, scale, p.d, t);
    store_row<D>(row + values, dv, half, p.keep_scale, p.d, t);
  }
}

#define ATTENTION_PARAMETERS                                                                                                  \
  const bf16 *qkv, const uint32_t *spans, const uint32_t *kept, unsigned n, unsigned heads, unsigned kv, unsigned d,           \
      unsigned window, unsigned words, float scale, float keep_scale
#define LOG2_E 1.4426950408889634f
#define PROBLEM Problem{qkv, spans, kept, n, heads, kv, d, window, words, scale * LOG2_E, keep_scale}

// For heads of up to D channels: tiles of so many keys, or queries in the pass for keys, and as many blocks as must fit a multiprocessor,
// which bounds the registers, for each kernel.
#define KERNELS_FOR(D, KEYS, BLOCKS, KEYS_BACKWARD, BLOCKS_QUERIES, QUERIES, BLOCKS_KEYS)                                     \
  extern "C" __global__ void __launch_bounds__(BLOCK_THREADS, BLOCKS)                                                         \
      mixce_attention_tensor_##D(ATTENTION_PARAMETERS, bf16* out) {                                                           \
    __shared__ __align__(128) bf16 tiles[4 * KEYS * D];                                                                       \
    forward<D, KEYS>(PROBLEM, tiles, out);                                                                                    \
  }                                                                                                                           \
  extern "C" __global__ void __launch_bounds__(BLOCK_THREADS, BLOCKS_QUERIES)                                                 \
      mixce_attention_tensor_backward_queries_##D(ATTENTION_PARAMETERS, const bf16* out, const bf16* dout, bf16* dqkv,        \
                                                  float* saved) {                                                             \
    __shared__ __align__(128) bf16 tiles[4 * KEYS_BACKWARD * D];                                                              \
    backward_queries<D, KEYS_BACKWARD>(PROBLEM, tiles, out, dout, scale, dqkv, saved);                                        \
  }                                                                                                                           \
  extern "C" __global__ void __launch_bounds__(BLOCK_THREADS, BLOCKS_KEYS)                                                    \
      mixce_attention_tensor_backward_keys_##D(ATTENTION_PARAMETERS, const bf16* dout, bf16* dqkv, const float* saved) {      \
    __shared__ __align__(128) bf16 tiles[4 * QUERIES * D];                                                                    \
    __shared__ __align__(128) bf16 keys[BLOCK_ROWS * D];                                                                      \
    __shared__ QueriesOfTile<QUERIES> queries;                                                                                \
    backward_keys<D, QUERIES>(PROBLEM, tiles, keys, queries, dout, scale, dqkv, saved);                                       \
  }

#ifndef V64
#define V64 64, 64, 3, 32, 3, 32, 2
#define V128 128, 32, 2, 32, 2, 16, 1
#endif
#define EXPANDED(...) KERNELS_FOR(__VA_ARGS__)
EXPANDED(V64)
EXPANDED(V128)

// Draws `kept`: a warp takes some queries of head blockIdx.y in turn, and of each the keys that it sees, DRAWN at a time.
constexpr unsigned QUERIES_OF_WARP = 4;

extern "C" __global__ void __launch_bounds__(BLOCK_THREADS)
    mixce_attention_kept(const uint32_t* spans, uint32_t* kept, unsigned n, unsigned window, unsigned words, DROPOUT_PARAMETERS) {
  const Dropout dropout = DROPOUT.fold(blockIdx.y);
  const unsigned lane = threadIdx.x % WARP, warp = blockIdx.x * WARPS + threadIdx.x / WARP;
  for (unsigned i = 0; i < QUERIES_OF_WARP; i++) {
    const unsigned query = warp * QUERIES_OF_WARP + i;
    if (query >= n) return;
    const unsigned document = spans[2 * query], last = query - document;
    uint32_t* row = kept + ((size_t)blockIdx.y * n + query) * words;
    for (unsigned key = (first_key(spans, window, query) - document) / DRAWN * DRAWN; key <= last; key += DRAWN) {
      const Words draws = philox(((uint64_t)query << 30) + key / 4 + lane, dropout.label, dropout.key);
      uint32_t bits = 0;
      for (int j = 0; j < 4; j++) bits |= (uint32_t)(draws.word[j] >= threshold) << (lane % 8 * 4 + j);
      for (int distance = 1; distance < 8; distance *= 2) bits |= __shfl_xor_sync(ALL_LANES, bits, distance);
      const unsigned word = key / 32 + lane / 8;
      if (lane % 8 == 0 && word <= last / 32) row[word] = bits;
    }
  }
}
