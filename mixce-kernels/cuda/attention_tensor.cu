// Causal self-attention over packed documents as in attention.cu, on tensor cores: for bf16 and heads of d <= 128 channels, a multiple
// of 8. Products have operands of bf16 (also the probabilities and their gradients) and sums of f32.
//
// Legend as there. A block takes rows of one head (queries, or keys in the pass for keys), a warp M times 16 of them, and walks over
// tiles of N rows of the other side, of which the next is copied to shared memory while one is used. D is d rounded up to what the
// kernels are compiled for: channels from d on are zeros. Of every 16 rows a lane holds the scores as the sums of tensor.cuh: of the rows
// g and g + 8 the columns 2t, 2t + 1 of every eight. A row that a lane holds is `Row`, half 0 or 1 of its 16. `scale` is in units of
// log 2, so that exp2 gives probabilities, and positive.
//
// What dropout keeps is drawn before, into a bit a query and key: `kept` [heads, n, words], where bit j % 32 of word j / 32 is that of key
// j of the query's document. Null without dropout.
#include "tensor.cuh"

constexpr int WARPS = 4, BLOCK_THREADS = WARPS * WARP;

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

  __device__ __forceinline__ uint32_t word(const uint32_t* row, unsigned i) const { return i < words ? row[i] : 0; }

  // Bit i says whether dropout keeps key `key + i` of a query.
  __device__ __forceinline__ uint32_t keeps(unsigned head, unsigned query, unsigned key) const {
    const uint32_t* row = kept + ((size_t)head * n + query) * words;
    const unsigned document = spans[2 * query];
    if (key < document) return document - key < 32 ? row[0] << (document - key) : 0;
    const unsigned i = (key - document) / 32, shift = (key - document) % 32;
    return shift ? word(row, i) >> shift | word(row, i + 1) << (32 - shift) : word(row, i);
  }
};

// One head of queries with its keys and values, seen by one warp of a block of warps of ROWS rows.
template <int ROWS>
struct Head {
  const Problem& p;
  const bf16 *q, *k, *v;  // row i at [i * stride]
  size_t stride, width;   // width: channels of a row of the result
  unsigned head, lane, row0;

  __device__ __forceinline__ Head(const Problem& p, unsigned head)
      : p(p), stride((size_t)(p.heads + 2 * p.kv) * p.d), width((size_t)p.heads * p.d), head(head), lane(threadIdx.x % WARP) {
    row0 = begin() + threadIdx.x / WARP * ROWS;
    q = p.qkv + (size_t)head * p.d;
    k = p.qkv + (size_t)(p.heads + head / (p.heads / p.kv)) * p.d;
    v = k + (size_t)p.kv * p.d;
  }

  // The rows of the block.
  __device__ __forceinline__ unsigned begin() const { return blockIdx.x * (WARPS * ROWS); }
  __device__ __forceinline__ unsigned end() const { return begin() + WARPS * ROWS < p.n ? begin() + WARPS * ROWS : p.n; }

  // Row i of the warp, or the last row of all where there are fewer: then its results are dropped.
  __device__ __forceinline__ unsigned row(unsigned i) const { return row0 + i < p.n ? row0 + i : p.n - 1; }
  // The lane's row of a half of the m-th 16.
  __device__ __forceinline__ unsigned row(int m, int half) const { return row(16 * m + 8 * half + lane / 4); }
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
#pragma unroll
  for (unsigned i = threadIdx.x; i < N * CHUNKS; i += BLOCK_THREADS) {
    const unsigned row = i / CHUNKS, chunk = i % CHUNKS;
    const bool inside = first + row < end && chunk * 8 < d;
    copy_async(chunk_of<D>(tile, row, chunk), inside ? from + (first + row) * stride + chunk * 8 : from, inside ? 16 : 0);
  }
}

// A warp's rows as left operands of products over channels, kept in registers.
template <int M, int D>
struct InRegisters {
  uint32_t a[M][D / 16][4];

  __device__ __forceinline__ InRegisters(const Head<16 * M>& h, const bf16* from, size_t stride) {
#pragma unroll
    for (int m = 0; m < M; m++)
      for (int i = 0; i < D / 8; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
          const bf16* at = from + h.row(m, half) * stride + 8 * i + 2 * (h.lane % 4);
          a[m][i / 2][i % 2 * 2 + half] = 8 * i < h.p.d ? *reinterpret_cast<const uint32_t*>(at) : 0;
        }
  }

  // Those of channels 16 i..16 i + 16.
  __device__ __forceinline__ void get(uint32_t (&of)[4], int m, int i, unsigned) const {
    for (int j = 0; j < 4; j++) of[j] = a[m][i][j];
  }
};

// The same in shared memory, from where each use loads them: a tile of the rows of the block, complete when the copies begun next are.
template <int M, int D>
struct InSharedMemory {
  bf16* tile;

  __device__ __forceinline__ InSharedMemory(const Head<16 * M>& h, const bf16* from, size_t stride, bf16* tile) : tile(tile) {
    copy_rows<D, WARPS * 16 * M>(tile, from, stride, h.begin(), h.p.n, h.p.d);
  }

  __device__ __forceinline__ void get(uint32_t (&of)[4], int m, int i, unsigned lane) const {
    load_matrices<false>(of, chunk_of<D>(tile, (threadIdx.x / WARP * M + m) * 16 + lane % 16, 2 * i + lane / 16));
  }
};

// What a lane holds of [16 M, COLUMNS] numbers.
template <int M, int COLUMNS>
struct Fragment {
  float x[M][COLUMNS / 8][4];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
      for (int j = 0; j < COLUMNS / 8; j++)
        for (int i = 0; i < 4; i++) x[m][j][i] = 0.0f;
  }

  // Number i of a row, in column `column(i, t)`.
  static constexpr int OF_ROW = COLUMNS / 4;
  __device__ __forceinline__ float& at(int m, int half, int i) { return x[m][i / 2][2 * half + i % 2]; }
  static __device__ __forceinline__ unsigned column(int i, unsigned t) { return i / 2 * 8 + 2 * t + i % 2; }
};

// scores = the left rows times the transpose of a tile of N rows
template <int M, int D, int N, class Left>
static __device__ __forceinline__ void multiply(Fragment<M, N>& scores, const Left& left, bf16* tile, unsigned lane) {
  scores.clear();
#pragma unroll
  for (int i = 0; i < D / 16; i++) {
    uint32_t a[M][4];
#pragma unroll
    for (int m = 0; m < M; m++) left.get(a[m], m, i, lane);
#pragma unroll
    for (int j = 0; j < N / 16; j++) {
      uint32_t b[4];
      load_matrices<false>(b, chunk_of<D>(tile, 16 * j + lane / 16 * 8 + lane % 8, 2 * i + lane / 8 % 2));
#pragma unroll
      for (int m = 0; m < M; m++) {
        multiply_add(scores.x[m][2 * j], a[m], {b[0], b[1]});
        multiply_add(scores.x[m][2 * j + 1], a[m], {b[2], b[3]});
      }
    }
  }
}

// sums += weights times a tile of N rows
template <int M, int D, int N>
static __device__ __forceinline__ void accumulate(Fragment<M, D>& sums, const Fragment<M, N>& weights, bf16* tile, unsigned lane) {
#pragma unroll
  for (int j = 0; j < N / 16; j++) {
    uint32_t a[M][4];
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
      for (int i = 0; i < 4; i++) a[m][i] = pack(weights.x[m][2 * j + i / 2][i % 2 * 2], weights.x[m][2 * j + i / 2][i % 2 * 2 + 1]);
#pragma unroll
    for (int i = 0; i < D / 16; i++) {
      uint32_t b[4];
      load_matrices<true>(b, chunk_of<D>(tile, 16 * j + lane % 16, 2 * i + lane / 16));
#pragma unroll
      for (int m = 0; m < M; m++) {
        multiply_add(sums.x[m][2 * i], a[m], {b[0], b[1]});
        multiply_add(sums.x[m][2 * i + 1], a[m], {b[2], b[3]});
      }
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

// The softmax of a warp's queries over the keys seen so far: weights are exp2(scale score - max), `norm` is the lane's share of their
// sum, `sums` what was summed with them.
template <int M, int D>
struct Softmax {
  float max[M][2], norm[M][2];
  unsigned first_of_last;  // the first key that the warp's last query sees
  Fragment<M, D> sums;

  __device__ __forceinline__ explicit Softmax(const Head<16 * M>& h) : first_of_last(h.p.first_key(h.row(16 * M - 1))) {
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        max[m][half] = -INFINITY;
        norm[m][half] = 0.0f;
      }
    sums.clear();
  }

  // Turns scores of the keys from `first` on into weights, and corrects what was summed with earlier ones.
  template <int N>
  __device__ __forceinline__ void weigh(Fragment<M, N>& scores, const Head<16 * M>& h, unsigned first) {
    const bool all_seen = first + N <= h.row(0) + 1 && first >= first_of_last;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        if (!all_seen) {
          const unsigned query = h.row(m, half), first_seen = h.p.first_key(query);
#pragma unroll
          for (int i = 0; i < scores.OF_ROW; i++) {
            const unsigned key = first + scores.column(i, h.lane % 4);
            if (key < first_seen || key > query) scores.at(m, half, i) = -INFINITY;
          }
        }
        float top = -INFINITY;
#pragma unroll
        for (int i = 0; i < scores.OF_ROW; i++) top = fmaxf(top, scores.at(m, half, i));
        top = fmaxf(max[m][half], h.p.scale * quad_max(top));
        // Without a visible score, or with NaN alone, shifting by 0 keeps 0 and NaN what they are.
        const float shift = top == -INFINITY ? 0.0f : top, correction = fast_exp2(max[m][half] - shift);
        float sum = 0.0f;
#pragma unroll
        for (int i = 0; i < scores.OF_ROW; i++) {
          float& score = scores.at(m, half, i);
          score = fast_exp2(fmaf(h.p.scale, score, -shift));
          sum += score;
        }
        max[m][half] = top;
        norm[m][half] = norm[m][half] * correction + sum;
#pragma unroll
        for (int i = 0; i < sums.OF_ROW; i++) sums.at(m, half, i) *= correction;
      }
  }
};

// Calls `f(m, half, i, keep)` for the lane's numbers of a row of scores of the keys from `first` on.
template <int M, int N, class F>
static __device__ __forceinline__ void with_dropout(const Head<16 * M>& h, unsigned first, F f) {
#pragma unroll
  for (int m = 0; m < M; m++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      uint32_t keeps[(N + 31) / 32];
#pragma unroll
      for (int i = 0; i < (N + 31) / 32; i++)
        keeps[i] = h.p.kept ? h.p.keeps(h.head, h.row(m, half), first + 32 * i) >> 2 * (h.lane % 4) : 0xffffffffu;
#pragma unroll
      for (int i = 0; i < N / 4; i++) f(m, half, i, keeps[i / 8] >> (i / 2 % 4 * 8 + i % 2) & 1);
    }
}

// Walks over the rows begin..end of two matrices: `f(first, left, right)` for tiles of N in shared memory.
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
template <int M, int D>
static __device__ __forceinline__ void store_row(bf16* row, Fragment<M, D>& sums, int m, int half, float factor, unsigned d, unsigned t) {
#pragma unroll
  for (int i = 0; i < sums.OF_ROW; i += 2)
    if (4u * i < d)
      *reinterpret_cast<uint32_t*>(row + sums.column(i, t)) = pack(factor * sums.at(m, half, i), factor * sums.at(m, half, i + 1));
}

// out_i = sum_j drop(softmax_j(scale q_i . k_j)) v_j
template <int M, int D, int N>
static __device__ __forceinline__ void forward(const Problem& p, bf16* shared, bf16* out) {
  const Head<16 * M> h(p, blockIdx.y);
  const InRegisters<M, D> q(h, h.q, h.stride);
  Softmax<M, D> softmax(h);
  for_tiles<D, N>(shared, h.k, h.stride, h.v, h.stride, p.first_key(h.begin()), h.end(), p.d, [&](unsigned first, bf16* k, bf16* v) {
    Fragment<M, N> scores;
    multiply<M, D, N>(scores, q, k, h.lane);
    softmax.weigh(scores, h, first);
    if (p.kept)
      with_dropout<M, N>(h, first, [&](int m, int half, int i, bool keep) {
        if (!keep) scores.at(m, half, i) = 0.0f;
      });
    accumulate<M, D, N>(softmax.sums, scores, v, h.lane);
  });
#pragma unroll
  for (int m = 0; m < M; m++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const float norm = quad_sum(softmax.norm[m][half]);
      const unsigned row = h.row0 + 16 * m + 8 * half + h.lane / 4;
      if (row < p.n)
        store_row(out + row * h.width + (size_t)h.head * p.d, softmax.sums, m, half, p.keep_scale / norm, p.d, h.lane % 4);
    }
}

// The sum over channels of out dout, of one row.
template <int ROWS>
static __device__ __forceinline__ float row_product(const Head<ROWS>& h, const bf16* out, const bf16* dout, unsigned row) {
  const size_t at = row * h.width + (size_t)h.head * h.p.d;
  float sum = 0.0f;
  for (unsigned i = 2 * (h.lane % 4); i < h.p.d; i += 8)
    sum += load(out + at + i) * load(dout + at + i) + load(out + at + i + 1) * load(dout + at + i + 1);
  return quad_sum(sum);
}

// With P the probabilities, M the dropout factors and g = M dO V^T: dS = P (g - rowsum(P g)), dQ = scale dS K, where rowsum(P g) is
// dO . O. That and log2 of the sum of exp2 of the scores go to `saved` [heads, n, 2] for the pass over the keys. As in the forward
// pass, the weights are not yet divided by their sum.
template <int M, int D, int N>
static __device__ __forceinline__ void backward_queries(const Problem& p, bf16* shared, const bf16* out, const bf16* dout, float scale,
                                                        bf16* dqkv, float* saved) {
  const Head<16 * M> h(p, blockIdx.y);
  const InRegisters<M, D> q(h, h.q, h.stride), gradient(h, dout + (size_t)h.head * p.d, h.width);
  float mean[M][2];
#pragma unroll
  for (int m = 0; m < M; m++)
#pragma unroll
    for (int half = 0; half < 2; half++) mean[m][half] = row_product(h, out, dout, h.row(m, half));
  Softmax<M, D> softmax(h);
  for_tiles<D, N>(shared, h.k, h.stride, h.v, h.stride, p.first_key(h.begin()), h.end(), p.d, [&](unsigned first, bf16* k, bf16* v) {
    Fragment<M, N> scores, products;
    multiply<M, D, N>(scores, q, k, h.lane);
    softmax.weigh(scores, h, first);
    multiply<M, D, N>(products, gradient, v, h.lane);
    with_dropout<M, N>(h, first, [&](int m, int half, int i, bool keep) {
      scores.at(m, half, i) *= (keep ? p.keep_scale : 0.0f) * products.at(m, half, i) - mean[m][half];
    });
    accumulate<M, D, N>(softmax.sums, scores, k, h.lane);
  });
#pragma unroll
  for (int m = 0; m < M; m++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const float norm = quad_sum(softmax.norm[m][half]);
      const unsigned row = h.row0 + 16 * m + 8 * half + h.lane / 4;
      if (row >= p.n) continue;
      store_row(dqkv + row * h.stride + (size_t)h.head * p.d, softmax.sums, m, half, scale / norm, p.d, h.lane % 4);
      if (h.lane % 4 > 0) continue;
      float* at = saved + 2 * ((size_t)h.head * p.n + row);
      at[0] = softmax.max[m][half] + log2f(norm);
      at[1] = mean[m][half];
    }
}

// What the pass over keys needs of the N queries of a tile, with what dropout keeps of the block's KEYS keys.
template <int N, int KEYS>
struct QueriesOfTile {
  float log_norm[N], mean[N];
  unsigned first[N];
  uint32_t kept[N][KEYS / 32];

  template <int ROWS>
  __device__ __forceinline__ void fill(const Head<ROWS>& h, const float* saved, unsigned from, unsigned end) {
    if (threadIdx.x >= N) return;
    const unsigned i = threadIdx.x, query = from + i;
    const float* of_query = saved + 2 * ((size_t)h.head * h.p.n + query);
    const bool inside = query < end;
    log_norm[i] = inside ? of_query[0] : 0.0f;
    mean[i] = inside ? of_query[1] : 0.0f;
    first[i] = inside ? h.p.first_key(query) : 0xffffffffu;  // sees no key
    for (int j = 0; j < KEYS / 32; j++)
      kept[i][j] = !h.p.kept ? 0xffffffffu : inside ? h.p.keeps(h.head, query, h.begin() + 32 * j) : 0;
  }
};

// The block's rows are keys here, the tiles queries of all heads that share the keys: dV = (P M)^T dO, dK = scale dS^T Q.
template <int M, int D, int N>
static __device__ __forceinline__ void backward_keys(const Problem& p, bf16* shared, bf16* rows,
                                                     QueriesOfTile<N, WARPS * M * 16>& queries, const bf16* dout, float scale,
                                                     bf16* dqkv, const float* saved) {
  constexpr int ROWS = 16 * M;
  const unsigned group = p.heads / p.kv;
  const Head<ROWS> first_head(p, blockIdx.y * group);
  const unsigned lane = first_head.lane, begin = first_head.begin(), last = first_head.end() - 1;
  const InSharedMemory<M, D> k(first_head, first_head.k, first_head.stride, rows);
  const InSharedMemory<M, D> v(first_head, first_head.v, first_head.stride, rows + WARPS * ROWS * D);
  Fragment<M, D> dk, dv;
  dk.clear();
  dv.clear();
  const unsigned document = p.spans[2 * last + 1], end = p.window < document - last ? last + p.window : document;
  for (unsigned head = blockIdx.y * group; head < (blockIdx.y + 1) * group; head++) {
    const Head<ROWS> h(p, head);
    for_tiles<D, N>(shared, h.q, h.stride, dout + (size_t)head * p.d, h.width, begin, end, p.d, [&](unsigned first, bf16* q, bf16* dq) {
      queries.fill(h, saved, first, end);
      Fragment<M, N> scores, products;
      multiply<M, D, N>(scores, k, q, lane);
      multiply<M, D, N>(products, v, dq, lane);
      __syncthreads();
#pragma unroll
      for (int i = 0; i < scores.OF_ROW; i++) {
        const unsigned column = scores.column(i, lane % 4), first_seen = queries.first[column];
        const float log_norm = queries.log_norm[column], mean = queries.mean[column];
#pragma unroll
        for (int m = 0; m < M; m++) {
          const unsigned of_block = h.row0 - begin + 16 * m;
          const uint32_t keeps = queries.kept[column][of_block / 32] >> (of_block % 32 + lane / 4);
#pragma unroll
          for (int half = 0; half < 2; half++) {
            const unsigned key = begin + of_block + 8 * half + lane / 4;
            float &score = scores.at(m, half, i), &product = products.at(m, half, i);
            const bool seen = key <= first + column && key >= first_seen, keep = keeps >> 8 * half & 1;
            const float probability = seen ? fast_exp2(fmaf(p.scale, score, -log_norm)) : 0.0f;
            score = keep ? probability : 0.0f;
            product = probability * ((keep ? p.keep_scale : 0.0f) * product - mean);
          }
        }
      }
      accumulate<M, D, N>(dv, scores, dq, lane);
      accumulate<M, D, N>(dk, products, q, lane);
    });
  }
  const size_t keys = first_head.k - p.qkv, values = first_head.v - p.qkv;
#pragma unroll
  for (int m = 0; m < M; m++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const unsigned key = first_head.row0 + 16 * m + 8 * half + lane / 4;
      if (key >= p.n) continue;
      bf16* row = dqkv + (size_t)key * first_head.stride;
      store_row(row + keys, dk, m, half, scale, p.d, lane % 4);
      store_row(row + values, dv, m, half, p.keep_scale, p.d, lane % 4);
    }
}

#define ATTENTION_PARAMETERS                                                                                        \
  const bf16 *qkv, const uint32_t *spans, const uint32_t *kept, unsigned n, unsigned heads, unsigned kv, unsigned d, \
      unsigned window, unsigned words, float scale, float keep_scale
#define PROBLEM \
  Problem { qkv, spans, kept, n, heads, kv, d, window, words, scale * 1.4426950408889634f, keep_scale }

// For heads of up to D channels: for each kernel M, N, and as many blocks as must fit a multiprocessor, which bounds the registers. The
// pass over keys has as shared memory four tiles and the keys and values of the block: 4 N D + 128 M D numbers.
#define KERNELS_FOR(D, M, N, BLOCKS, M_QUERIES, N_QUERIES, BLOCKS_QUERIES, M_KEYS, N_KEYS, BLOCKS_KEYS)                      \
  extern "C" __global__ void __launch_bounds__(BLOCK_THREADS, BLOCKS)                                                        \
      mixce_attention_tensor_##D(ATTENTION_PARAMETERS, bf16* out) {                                                          \
    __shared__ __align__(128) bf16 tiles[4 * N * D];                                                                         \
    forward<M, D, N>(PROBLEM, tiles, out);                                                                                   \
  }                                                                                                                          \
  extern "C" __global__ void __launch_bounds__(BLOCK_THREADS, BLOCKS_QUERIES)                                                \
      mixce_attention_tensor_backward_queries_##D(ATTENTION_PARAMETERS, const bf16* out, const bf16* dout, bf16* dqkv,       \
                                                  float* saved) {                                                            \
    __shared__ __align__(128) bf16 tiles[4 * N_QUERIES * D];                                                                 \
    backward_queries<M_QUERIES, D, N_QUERIES>(PROBLEM, tiles, out, dout, scale, dqkv, saved);                                \
  }                                                                                                                          \
  extern "C" __global__ void __launch_bounds__(BLOCK_THREADS, BLOCKS_KEYS)                                                   \
      mixce_attention_tensor_backward_keys_##D(ATTENTION_PARAMETERS, const bf16* dout, bf16* dqkv, const float* saved) {     \
    extern __shared__ __align__(128) bf16 shared[];                                                                          \
    __shared__ QueriesOfTile<N_KEYS, WARPS * 16 * M_KEYS> queries;                                                           \
    bf16* const rows = shared + 4 * N_KEYS * D;                                                                              \
    backward_keys<M_KEYS, D, N_KEYS>(PROBLEM, shared, rows, queries, dout, scale, dqkv, saved);                              \
  }

#ifndef V64
#define V64 64, 2, 64, 2, 2, 32, 2, 2, 16, 2
#define V128 128, 1, 32, 2, 1, 32, 2, 1, 16, 2
#endif
#define EXPANDED(...) KERNELS_FOR(__VA_ARGS__)
EXPANDED(V64)
EXPANDED(V128)

// Draws `kept`: a warp takes some queries of head blockIdx.y in turn, and of each the keys that it sees, four a lane.
constexpr unsigned QUERIES_OF_WARP = 4, DRAWN = 4 * WARP;

extern "C" __global__ void __launch_bounds__(BLOCK_THREADS)
    mixce_attention_kept(const uint32_t* spans, uint32_t* kept, unsigned n, unsigned window, unsigned words, DROPOUT_PARAMETERS) {
  const Problem p = {nullptr, spans, nullptr, n, 0, 0, 0, window, words, 0.0f, keep_scale};
  const Dropout dropout = DROPOUT.fold(blockIdx.y);
  const unsigned lane = threadIdx.x % WARP, warp = blockIdx.x * WARPS + threadIdx.x / WARP;
  for (unsigned i = 0; i < QUERIES_OF_WARP; i++) {
    const unsigned query = warp * QUERIES_OF_WARP + i;
    if (query >= n) return;
    const unsigned document = spans[2 * query], last = query - document, first = p.first_key(query) - document;
    uint32_t* row = kept + ((size_t)blockIdx.y * n + query) * words;
    for (unsigned key = 0; key < 32 * words; key += DRAWN) {
      uint32_t bits = 0;
      if (key <= last && key + DRAWN > first) {
        const Words draws = philox(((uint64_t)query << 30) + key / 4 + lane, dropout.label, dropout.key);
        for (int j = 0; j < 4; j++) bits |= (uint32_t)(draws.word[j] >= threshold) << (lane % 8 * 4 + j);
        for (int distance = 1; distance < 8; distance *= 2) bits |= __shfl_xor_sync(ALL_LANES, bits, distance);
      }
      const unsigned word = key / 32 + lane / 8;
      if (lane % 8 == 0 && word < words) row[word] = bits;
    }
  }
}
