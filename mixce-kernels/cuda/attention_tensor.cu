// Causal self-attention over packed documents as in attention.cu, on tensor cores: for bf16 and heads of d <= 128 channels, a multiple
// of 8. Products have operands of bf16 (also the probabilities and their gradients) and sums of f32.
//
// Legend as there. The rows of a block are those of one head (queries, or keys in the pass for keys), the tiles those of the other side, see
// tiles.cuh. `scale` is in units of log 2, so that exp2 gives probabilities, and positive.
//
// What dropout keeps is drawn once for all passes, into a bit a query and key up to it: bit j % 32 of word j / 32 of a query's row in
// `kept` is that of key j of its document. Null without dropout.
//
// The row of the query at position 32 a + b of its document has a + 1 words, and follows those of the positions before it:
// (a + 1) (16 a + b) words. Documents of up to `longest` tokens, words = ceil(longest / 32), take at most (words + 1) / 2 words a token, so
// that the rows of a document whose first token is number i may begin at word ceil(i (words + 1) / 2) of its head.
#include "tiles.cuh"

struct Problem {
  const bf16* qkv;
  const uint32_t *spans, *kept;
  unsigned n, heads, kv, d, window, words;
  float scale, keep_scale;

  // The first key that a query sees: never before that of an earlier query.
  __device__ __forceinline__ unsigned first_key(unsigned query) const {
    const unsigned document = spans[2 * query], nearest = query >= window ? query + 1 - window : 0;
    return nearest > document ? nearest : document;
  }

  // Where the row of a query begins in `kept`.
  __device__ __forceinline__ size_t kept_row(unsigned head, unsigned query, unsigned document) const {
    const unsigned position = query - document, a = position / 32;
    const size_t of_head = ((size_t)n * (words + 1) + 1) / 2, of_document = ((size_t)document * (words + 1) + 1) / 2;
    return head * of_head + of_document + (size_t)(a + 1) * (16 * a + position % 32);
  }
};

// What dropout keeps of a query's keys; everything without dropout.
struct Kept {
  const uint32_t* row;
  unsigned document, words;  // words: of the row

  __device__ __forceinline__ Kept() {}
  __device__ __forceinline__ Kept(const Problem& p, unsigned head, unsigned query) : document(p.spans[2 * query]) {
    row = p.kept ? p.kept + p.kept_row(head, query, document) : nullptr;
    words = (query - document) / 32 + 1;
  }

  __device__ __forceinline__ uint32_t word(unsigned i) const { return i < words ? row[i] : 0; }

  // Bit i says whether key `key + i` is kept.
  __device__ __forceinline__ uint32_t bits(unsigned key) const {
    if (!row) return 0xffffffffu;
    if (key < document) return document - key < 32 ? row[0] << (document - key) : 0;
    const unsigned i = (key - document) / 32, shift = (key - document) % 32;
    return shift ? word(i) >> shift | word(i + 1) << (32 - shift) : word(i);
  }
};

// One head of queries with its keys and values, seen by one warp.
struct Head {
  const Problem& p;
  const bf16 *q, *k, *v;  // row i at [i * stride]
  size_t stride, width;   // width: channels of a row of the result
  unsigned head, lane, row0;

  __device__ __forceinline__ Head(const Problem& p, unsigned head)
      : p(p), stride((size_t)(p.heads + 2 * p.kv) * p.d), width((size_t)p.heads * p.d), head(head), lane(threadIdx.x % WARP) {
    row0 = begin() + threadIdx.x / WARP * WARP_ROWS;
    q = p.qkv + (size_t)head * p.d;
    k = p.qkv + (size_t)(p.heads + head / (p.heads / p.kv)) * p.d;
    v = k + (size_t)p.kv * p.d;
  }

  // The rows of the block.
  __device__ __forceinline__ unsigned begin() const { return blockIdx.x * BLOCK_ROWS; }
  __device__ __forceinline__ unsigned end() const { return begin() + BLOCK_ROWS < p.n ? begin() + BLOCK_ROWS : p.n; }

  // Row i of the warp, or the last row of all where there are fewer: then its results are dropped.
  __device__ __forceinline__ unsigned row(unsigned i) const { return row0 + i < p.n ? row0 + i : p.n - 1; }
  // The lane's row of a half of the warp's.
  __device__ __forceinline__ unsigned row_of_lane(int half) const { return row(8 * half + lane / 4); }
};

static __device__ __forceinline__ float quad_sum(float x) {
  x += __shfl_xor_sync(ALL_LANES, x, 1);
  return x + __shfl_xor_sync(ALL_LANES, x, 2);
}
static __device__ __forceinline__ float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 1));
  return fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 2));
}

// The softmax of a warp's queries over the keys seen so far: weights are exp2(scale score - max), `norm` is the lane's share of their
// sum, `sums` what was summed with them.
template <int D>
struct Softmax {
  float max[2], norm[2];
  unsigned first_of_last;  // the first key that the warp's last query sees
  Fragment<D> sums;

  __device__ __forceinline__ explicit Softmax(const Head& h) : first_of_last(h.p.first_key(h.row(WARP_ROWS - 1))) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      max[half] = -INFINITY;
      norm[half] = 0.0f;
    }
    sums.clear();
  }

  // Turns scores of the keys from `first` on into weights, and corrects what was summed with earlier ones.
  template <int N>
  __device__ __forceinline__ void weigh(Fragment<N>& scores, const Head& h, unsigned first) {
    const bool all_seen = first + N <= h.row(0) + 1 && first >= first_of_last;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      if (!all_seen) {
        const unsigned query = h.row_of_lane(half), first_seen = h.p.first_key(query);
#pragma unroll
        for (int i = 0; i < scores.OF_ROW; i++) {
          const unsigned key = first + scores.column(i, h.lane % 4);
          if (key < first_seen || key > query) scores.at(half, i) = -INFINITY;
        }
      }
      float top = -INFINITY;
#pragma unroll
      for (int i = 0; i < scores.OF_ROW; i++) top = fmaxf(top, scores.at(half, i));
      top = fmaxf(max[half], h.p.scale * quad_max(top));
      // Without a visible score, or with NaN alone, shifting by 0 keeps 0 and NaN what they are.
      const float shift = top == -INFINITY ? 0.0f : top, correction = fast_exp2(max[half] - shift);
      float sum = 0.0f;
#pragma unroll
      for (int i = 0; i < scores.OF_ROW; i++) {
        float& score = scores.at(half, i);
        score = fast_exp2(fmaf(h.p.scale, score, -shift));
        sum += score;
      }
      max[half] = top;
      norm[half] = norm[half] * correction + sum;
#pragma unroll
      for (int i = 0; i < sums.OF_ROW; i++) sums.at(half, i) *= correction;
    }
  }
};

// Of the lane's rows.
struct KeptRows {
  Kept of[2];

  __device__ __forceinline__ explicit KeptRows(const Head& h) {
#pragma unroll
    for (int half = 0; half < 2; half++) of[half] = Kept(h.p, h.head, h.row_of_lane(half));
  }
};

// What dropout keeps of the lane's scores of N keys: loaded before it is needed.
template <int N>
struct KeptScores {
  uint32_t bits[2][(N + 31) / 32];

  __device__ __forceinline__ KeptScores(const KeptRows& rows, unsigned first) {
#pragma unroll
    for (int half = 0; half < 2; half++)
#pragma unroll
      for (int i = 0; i < (N + 31) / 32; i++) bits[half][i] = rows.of[half].bits(first + 32 * i);
  }

  // Calls `f(half, i, keep)` for the numbers of each row.
  template <class F>
  __device__ __forceinline__ void for_each(unsigned t, F f) const {
#pragma unroll
    for (int half = 0; half < 2; half++)
#pragma unroll
      for (int i = 0; i < N / 4; i++) f(half, i, (bits[half][i / 8] >> 2 * t & 1u << (i / 2 % 4 * 8 + i % 2)) != 0);
  }
};

// out_i = sum_j drop(softmax_j(scale q_i . k_j)) v_j
template <int D, int N>
static __device__ __forceinline__ void forward(const Problem& p, bf16* shared, bf16* out) {
  const Head h(p, blockIdx.y);
  const InRegisters<D> q(h, h.q, h.stride);
  const KeptRows kept(h);
  Softmax<D> softmax(h);
  for_tiles<D, N>(shared, h.k, h.stride, h.v, h.stride, p.first_key(h.begin()), h.end(), p.d, [&](unsigned first, bf16* k, bf16* v) {
    if (first > h.row(WARP_ROWS - 1)) return;  // keys after all of the warp's queries
    const KeptScores<N> keeps(kept, first);
    Fragment<N> scores;
    multiply<D, N>(scores, q, k, h.lane);
    softmax.weigh(scores, h, first);
    if (p.kept)
      keeps.for_each(h.lane % 4, [&](int half, int i, bool keep) {
        if (!keep) scores.at(half, i) = 0.0f;
      });
    accumulate<D, N>(softmax.sums, scores, v, h.lane);
  });
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const float norm = quad_sum(softmax.norm[half]);
    const unsigned row = h.row0 + 8 * half + h.lane / 4;
    if (row < p.n)
      store_row(out + row * h.width + (size_t)h.head * p.d, softmax.sums, half, p.keep_scale / norm, p.d, h.lane % 4);
  }
}

// The sum over channels of out dout, of one row.
static __device__ __forceinline__ float row_product(const Head& h, const bf16* out, const bf16* dout, unsigned row) {
  const size_t at = row * h.width + (size_t)h.head * h.p.d;
  float sum = 0.0f;
  for (unsigned i = 2 * (h.lane % 4); i < h.p.d; i += 8)
    sum += load(out + at + i) * load(dout + at + i) + load(out + at + i + 1) * load(dout + at + i + 1);
  return quad_sum(sum);
}

// The block's share in the sums of the columns of its rows, of which the lane's are `sums` times a factor each: `share` [d]. The shares of warps
// are added up in their order; `of_warps` has room for D numbers of each.
template <int D>
static __device__ __forceinline__ void write_share(const Head& h, Fragment<D>& sums, const float (&factors)[2], float* of_warps,
                                                   float* share) {
#pragma unroll
  for (int i = 0; i < sums.OF_ROW; i++) {
    float sum = 0.0f;
#pragma unroll
    for (int half = 0; half < 2; half++)
      if (h.row0 + 8 * half + h.lane / 4 < h.p.n) sum += factors[half] * sums.at(half, i);
    for (int distance = 4; distance < WARP; distance *= 2) sum += __shfl_xor_sync(ALL_LANES, sum, distance);
    if (h.lane < 4) of_warps[threadIdx.x / WARP * D + sums.column(i, h.lane)] = sum;
  }
  __syncthreads();
  if (threadIdx.x >= h.p.d) return;
  float sum = 0.0f;
  for (int warp = 0; warp < WARPS; warp++) sum += of_warps[warp * D + threadIdx.x];
  share[threadIdx.x] = sum;
}

// With P the probabilities, M the dropout factors and g = M dO V^T: dS = P (g - rowsum(P g)), dQ = scale dS K, where rowsum(P g) is
// dO . O. That and log2 of the sum of exp2 of the scores go to `saved` [heads, n, 2] for the pass over the keys. As in the forward
// pass, the weights are not yet divided by their sum. Both passes write each block's share in the sums of the columns of dqkv, before it is
// rounded, to `shares` [blocks of a head, channels], unless that is null.
template <int D, int N>
static __device__ __forceinline__ void backward_queries(const Problem& p, bf16* shared, const bf16* out, const bf16* dout, float scale,
                                                        bf16* dqkv, float* saved, float* shares) {
  const Head h(p, blockIdx.y);
  const InRegisters<D> q(h, h.q, h.stride), gradient(h, dout + (size_t)h.head * p.d, h.width);
  float mean[2];
#pragma unroll
  for (int half = 0; half < 2; half++) mean[half] = row_product(h, out, dout, h.row_of_lane(half));
  const KeptRows kept(h);
  Softmax<D> softmax(h);
  for_tiles<D, N>(shared, h.k, h.stride, h.v, h.stride, p.first_key(h.begin()), h.end(), p.d, [&](unsigned first, bf16* k, bf16* v) {
    if (first > h.row(WARP_ROWS - 1)) return;  // keys after all of the warp's queries
    const KeptScores<N> keeps(kept, first);
    Fragment<N> scores, products;
    multiply<D, N>(scores, q, k, h.lane);
    softmax.weigh(scores, h, first);
    multiply<D, N>(products, gradient, v, h.lane);
    keeps.for_each(h.lane % 4, [&](int half, int i, bool keep) {
      scores.at(half, i) *= fmaf(keep ? p.keep_scale : 0.0f, products.at(half, i), -mean[half]);
    });
    accumulate<D, N>(softmax.sums, scores, k, h.lane);
  });
  float factors[2];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const float norm = quad_sum(softmax.norm[half]);
    const unsigned row = h.row0 + 8 * half + h.lane / 4;
    factors[half] = scale / norm;
    if (row >= p.n) continue;
    store_row(dqkv + row * h.stride + (size_t)h.head * p.d, softmax.sums, half, factors[half], p.d, h.lane % 4);
    if (h.lane % 4 > 0) continue;
    float* at = saved + 2 * ((size_t)h.head * p.n + row);
    at[0] = softmax.max[half] + log2f(norm);
    at[1] = mean[half];
  }
  if (shares)
    write_share(h, softmax.sums, factors, reinterpret_cast<float*>(shared), shares + blockIdx.x * h.stride + (size_t)h.head * p.d);
}

// What the pass over keys needs of the N queries of a tile, with what dropout keeps of the block's KEYS keys.
template <int N, int KEYS>
struct QueriesOfTile {
  float2 saved[N];  // log2 of the sum of exp2 of the scores, and dO . O
  unsigned first[N];
  uint32_t kept[N][KEYS / 32];

  // What a thread contributes: of query lane % N the saved numbers (warp 0), the first key (warp 1), or half of the kept keys (2 and 3).
  static constexpr int WORDS = KEYS / 64 > 2 ? KEYS / 64 : 2;
  struct Share {
    uint32_t word[WORDS];
  };

    static __device__ __forceinline__ Share load(const Head& h, const float* of_queries, unsigned from, unsigned end) {
    const unsigned warp = threadIdx.x / WARP, query = from + threadIdx.x % N;
    Share share;
    for (int i = 0; i < WORDS; i++) share.word[i] = warp == 1 ? 0xffffffffu : 0;  // sees no key
    if (query >= end) return share;
    if (warp == 0) {
      const uint2 saved = reinterpret_cast<const uint2*>(of_queries)[(size_t)h.head * h.p.n + query];
      share.word[0] = saved.x;
      share.word[1] = saved.y;
    } else if (warp == 1) {
      share.word[0] = h.p.first_key(query);
    } else {
      const Kept kept(h.p, h.head, query);
      for (int i = 0; i < KEYS / 64; i++) share.word[i] = kept.bits(h.begin() + 32 * ((warp - 2) * (KEYS / 64) + i));
    }
    return share;
  }

  __device__ __forceinline__ void store(const Share& share) {
    const unsigned warp = threadIdx.x / WARP, i = threadIdx.x % WARP;
    if (i >= N) return;
    if (warp == 0)
      saved[i] = make_float2(__uint_as_float(share.word[0]), __uint_as_float(share.word[1]));
    else if (warp == 1)
      first[i] = share.word[0];
    else
      for (int j = 0; j < KEYS / 64; j++) kept[i][(warp - 2) * (KEYS / 64) + j] = share.word[j];
  }

  // Whether each of these queries sees each of the keys from `first_key` to `last_key`, before the first query.
  __device__ __forceinline__ bool all_see(unsigned first_key, unsigned last_key, unsigned from) const {
    return last_key <= from && first[N - 1] <= first_key;
  }
};

// The block's rows are keys here, the tiles queries of all heads that share the keys: dV = (P M)^T dO, dK = scale dS^T Q.
template <int D, int N>
static __device__ __forceinline__ void backward_keys(const Problem& p, bf16* shared, bf16* rows,
                                                     QueriesOfTile<N, BLOCK_ROWS> (&tiles)[2], const bf16* dout, float scale,
                                                     bf16* dqkv, const float* saved, float* shares) {
  const unsigned group = p.heads / p.kv;
  const Head first_head(p, blockIdx.y * group);
  const unsigned lane = first_head.lane, begin = first_head.begin(), last = first_head.end() - 1;
  const InSharedMemory<D> k(first_head, first_head.k, first_head.stride, rows);
  const InSharedMemory<D> v(first_head, first_head.v, first_head.stride, rows + BLOCK_ROWS * D);
  Fragment<D> dk, dv;
  dk.clear();
  dv.clear();
  const unsigned document = p.spans[2 * last + 1], end = p.window < document - last ? last + p.window : document;
  for (unsigned head = blockIdx.y * group; head < (blockIdx.y + 1) * group; head++) {
    const Head h(p, head);
    using Queries = QueriesOfTile<N, BLOCK_ROWS>;
    tiles[0].store(Queries::load(h, saved, begin, end));
    for_tiles<D, N>(shared, h.q, h.stride, dout + (size_t)head * p.d, h.width, begin, end, p.d, [&](unsigned first, bf16* q, bf16* dq) {
      const unsigned number = (first - begin) / N;
      const Queries& queries = tiles[number % 2];
      Queries& next = tiles[(number + 1) % 2];
      const typename Queries::Share share = Queries::load(h, saved, first + N, end);
      if (first + N <= h.row0) {  // queries before all of the warp's keys
        next.store(share);
        return;
      }
      Fragment<N> scores, products;
      multiply<D, N>(scores, k, q, lane);
      next.store(share);
      multiply<D, N>(products, v, dq, lane);
      if (!queries.all_see(h.row0, h.row0 + WARP_ROWS - 1, first))
#pragma unroll
        for (int i = 0; i < scores.OF_ROW; i++) {
          const unsigned column = scores.column(i, lane % 4), first_seen = queries.first[column];
#pragma unroll
          for (int half = 0; half < 2; half++) {
            const unsigned key = h.row0 + 8 * half + lane / 4;
            if (key > first + column || key < first_seen) scores.at(half, i) = -INFINITY;
          }
        }
#pragma unroll
      for (int i = 0; i < scores.OF_ROW; i++) {
        const unsigned column = scores.column(i, lane % 4);
        const float2 of_query = queries.saved[column];
        const unsigned of_block = h.row0 - begin;
        const uint32_t keeps = p.kept ? queries.kept[column][of_block / 32] >> (of_block % 32 + lane / 4) : 0xffffffffu;
#pragma unroll
        for (int half = 0; half < 2; half++) {
          float &score = scores.at(half, i), &product = products.at(half, i);
          const float probability = fast_exp2(fmaf(p.scale, score, -of_query.x));
          const float factor = keeps & 1u << 8 * half ? p.keep_scale : 0.0f;
          score = probability * factor;
          product = probability * fmaf(factor, product, -of_query.y);
        }
      }
      accumulate<D, N>(dv, scores, dq, lane);
      accumulate<D, N>(dk, products, q, lane);
    });
  }
  const size_t keys = first_head.k - p.qkv, values = first_head.v - p.qkv;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const unsigned key = first_head.row0 + 8 * half + lane / 4;
    if (key >= p.n) continue;
    bf16* row = dqkv + (size_t)key * first_head.stride;
    store_row(row + keys, dk, half, scale, p.d, lane % 4);
    store_row(row + values, dv, half, 1.0f, p.d, lane % 4);
  }
  if (!shares) return;
  float *of_warps = reinterpret_cast<float*>(shared), *share = shares + blockIdx.x * first_head.stride;
  write_share(first_head, dk, {scale, scale}, of_warps, share + keys);
  write_share(first_head, dv, {1.0f, 1.0f}, of_warps + WARPS * D, share + values);
}

#define ATTENTION_PARAMETERS                                                                                        \
  const bf16 *qkv, const uint32_t *spans, const uint32_t *kept, unsigned n, unsigned heads, unsigned kv, unsigned d, \
      unsigned window, unsigned words, float scale, float keep_scale
#define PROBLEM \
  Problem { qkv, spans, kept, n, heads, kv, d, window, words, scale * 1.4426950408889634f, keep_scale }

// For heads of up to D channels: the rows of a tile in the forward pass and in the backward passes, and as many blocks as must fit a
// multiprocessor, which bounds the registers. The pass over keys has as shared memory four tiles and the keys and values of the block:
// 4 N_BACKWARD D + 128 D numbers.
#define KERNELS_FOR(D, N, N_BACKWARD, BLOCKS)                                                                                \
  extern "C" __global__ void __launch_bounds__(BLOCK_THREADS, BLOCKS)                                                        \
      mixce_attention_tensor_##D(ATTENTION_PARAMETERS, bf16* out) {                                                          \
    __shared__ __align__(128) bf16 tiles[4 * N * D];                                                                         \
    forward<D, N>(PROBLEM, tiles, out);                                                                                      \
  }                                                                                                                          \
  extern "C" __global__ void __launch_bounds__(BLOCK_THREADS, BLOCKS)                                                        \
      mixce_attention_tensor_backward_queries_##D(ATTENTION_PARAMETERS, const bf16* out, const bf16* dout, bf16* dqkv,       \
                                                  float* saved, float* shares) {                                             \
    __shared__ __align__(128) bf16 tiles[4 * N_BACKWARD * D];                                                                \
    backward_queries<D, N_BACKWARD>(PROBLEM, tiles, out, dout, scale, dqkv, saved, shares);                                  \
  }                                                                                                                          \
  extern "C" __global__ void __launch_bounds__(BLOCK_THREADS, BLOCKS)                                                        \
      mixce_attention_tensor_backward_keys_##D(ATTENTION_PARAMETERS, const bf16* dout, bf16* dqkv, const float* saved,       \
                                               float* shares) {                                                              \
    extern __shared__ __align__(128) bf16 shared[];                                                                          \
    __shared__ QueriesOfTile<N_BACKWARD, BLOCK_ROWS> queries[2];                                                             \
    bf16* const rows = shared + 4 * N_BACKWARD * D;                                                                          \
    backward_keys<D, N_BACKWARD>(PROBLEM, shared, rows, queries, dout, scale, dqkv, saved, shares);                          \
  }

KERNELS_FOR(64, 64, 32, 3)
KERNELS_FOR(128, 32, 32, 2)

// Draws `kept`: a warp takes some queries of head blockIdx.y in turn, and of each the keys that it sees, four a lane. Keys before the window
// are dropped.
constexpr unsigned QUERIES_OF_WARP = 4, DRAWN = 4 * WARP;

extern "C" __global__ void __launch_bounds__(BLOCK_THREADS)
    mixce_attention_kept(const uint32_t* spans, uint32_t* kept, unsigned n, unsigned window, unsigned words, DROPOUT_PARAMETERS) {
  const Problem p = {nullptr, spans, nullptr, n, 0, 0, 0, window, words, 0.0f, keep_scale};
  const Dropout dropout = DROPOUT.fold(blockIdx.y);
  const unsigned lane = threadIdx.x % WARP, warp = blockIdx.x * WARPS + threadIdx.x / WARP;
  for (unsigned i = 0; i < QUERIES_OF_WARP; i++) {
    const unsigned query = warp * QUERIES_OF_WARP + i;
    if (query >= n) return;
    const unsigned document = spans[2 * query], first = (p.first_key(query) - document) / 32, last = (query - document) / 32;
    uint32_t* row = kept + p.kept_row(blockIdx.y, query, document);
#pragma unroll 1
    for (unsigned word = lane; word < first; word += WARP) row[word] = 0;
    for (unsigned begin = first; begin <= last; begin += DRAWN / 32) {
      const unsigned word = begin + lane / 8;
      const Words draws = philox(((uint64_t)query << 30) + dropout.first / 4 + word * 8 + lane % 8, dropout.label, dropout.key);
      uint32_t bits = 0;
      for (int j = 0; j < 4; j++) bits |= (uint32_t)(draws.word[j] >= threshold) << (lane % 8 * 4 + j);
      for (int distance = 1; distance < 8; distance *= 2) bits |= __shfl_xor_sync(ALL_LANES, bits, distance);
      if (lane % 8 == 0 && word <= last) row[word] = bits;
    }
  }
}
