// Products of rows in registers with tiles in shared memory, on tensor cores: what the passes of attention_tensor.cu share.
//
// A block has WARPS warps of WARP_ROWS rows each, and walks over tiles of N rows of another matrix, of which the next is copied to shared
// memory while one is used. D channels, a multiple of 16, stand for d <= D, a multiple of 8: channels from d on are zeros. A lane has
// t = lane % 4. Where functions take `h`, it is the part of the problem that a warp sees: `h.row_of_lane(half)` is the lane's row of a half
// of the warp's rows, `h.lane` the lane, `h.begin()` the first row of the block, `h.p.n` and `h.p.d` all rows and channels.
#pragma once

#include "tensor.cuh"

constexpr int WARPS = 4, BLOCK_THREADS = WARPS * WARP, WARP_ROWS = 16, BLOCK_ROWS = WARPS * WARP_ROWS;

// Tiles in shared memory are rows of D numbers in chunks of eight. The order of a row's chunks depends on the row, so that eight rows
// of one chunk lie in different banks.
template <int D>
static __device__ __forceinline__ bf16* chunk_of(bf16* tile, unsigned row, unsigned chunk) {
  return tile + row * D + (chunk ^ row % 8) * 8;
}

// Begins to copy the rows first..first + N, `stride` apart; zeros stand for rows from `end` and channels from d on.
template <int D, int N>
static __device__ __forceinline__ void copy_rows(bf16* tile, const bf16* from, size_t stride, unsigned first, unsigned end, unsigned d) {
  constexpr unsigned CHUNKS = D / 8, ROWS = BLOCK_THREADS / CHUNKS;
  static_assert(N % ROWS == 0 && ROWS % 8 == 0, "a thread copies the same chunk of all its rows");
  const unsigned chunk = threadIdx.x % CHUNKS, row = threadIdx.x / CHUNKS;
  const bf16* at = from + (first + row) * stride + chunk * 8;
  bf16* to = chunk_of<D>(tile, row, chunk);
  const unsigned rows = chunk * 8 < d && first + row < end ? end - first - row : 0;
#pragma unroll
  for (unsigned i = 0; i < N; i += ROWS) {
    if (i < rows)
      copy_async(to + i * D, at);
    else
      *reinterpret_cast<uint4*>(to + i * D) = make_uint4(0, 0, 0, 0);
    at += ROWS * stride;
  }
}

// A warp's rows as left operands of products over channels, kept in registers.
template <int D>
struct InRegisters {
  uint32_t a[D / 16][4];

  template <class Head>
  __device__ __forceinline__ InRegisters(const Head& h, const bf16* from, size_t stride) {
    for (int i = 0; i < D / 8; i++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const bf16* at = from + h.row_of_lane(half) * stride + 8 * i + 2 * (h.lane % 4);
        a[i / 2][i % 2 * 2 + half] = 8 * i < h.p.d ? *reinterpret_cast<const uint32_t*>(at) : 0;
      }
  }

  // Those of channels 16 i..16 i + 16.
  __device__ __forceinline__ void get(uint32_t (&of)[4], int i, unsigned) const {
    for (int j = 0; j < 4; j++) of[j] = a[i][j];
  }
};

// The same in shared memory, from where each use loads them: a tile of the rows of the block, complete when the copies begun next are.
template <int D>
struct InSharedMemory {
  bf16* tile;

  template <class Head>
  __device__ __forceinline__ InSharedMemory(const Head& h, const bf16* from, size_t stride, bf16* tile) : tile(tile) {
    copy_rows<D, BLOCK_ROWS>(tile, from, stride, h.begin(), h.p.n, h.p.d);
  }

  __device__ __forceinline__ void get(uint32_t (&of)[4], int i, unsigned lane) const {
    load_matrices<false>(of, chunk_of<D>(tile, threadIdx.x / WARP * WARP_ROWS + lane % 16, 2 * i + lane / 16));
  }
};

// What a lane holds of [WARP_ROWS, COLUMNS] numbers.
template <int COLUMNS>
struct Fragment {
  float x[COLUMNS / 8][4];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int j = 0; j < COLUMNS / 8; j++)
      for (int i = 0; i < 4; i++) x[j][i] = 0.0f;
  }

  // Number i of a row, in column `column(i, t)`.
  static constexpr int OF_ROW = COLUMNS / 4;
  __device__ __forceinline__ float& at(int half, int i) { return x[i / 2][2 * half + i % 2]; }
  static __device__ __forceinline__ unsigned column(int i, unsigned t) { return i / 2 * 8 + 2 * t + i % 2; }
};

// scores = the left rows times the transpose of a tile of N rows
template <int D, int N, class Left>
static __device__ __forceinline__ void multiply(Fragment<N>& scores, const Left& left, bf16* tile, unsigned lane) {
  scores.clear();
#pragma unroll
  for (int i = 0; i < D / 16; i++) {
    uint32_t a[4];
    left.get(a, i, lane);
#pragma unroll
    for (int j = 0; j < N / 16; j++) {
      uint32_t b[4];
      load_matrices<false>(b, chunk_of<D>(tile, 16 * j + lane / 16 * 8 + lane % 8, 2 * i + lane / 8 % 2));
      multiply_add(scores.x[2 * j], a, {b[0], b[1]});
      multiply_add(scores.x[2 * j + 1], a, {b[2], b[3]});
    }
  }
}

// sums += weights times a tile of N rows
template <int D, int N>
static __device__ __forceinline__ void accumulate(Fragment<D>& sums, const Fragment<N>& weights, bf16* tile, unsigned lane) {
#pragma unroll
  for (int j = 0; j < N / 16; j++) {
    uint32_t a[4];
#pragma unroll
    for (int i = 0; i < 4; i++) a[i] = pack(weights.x[2 * j + i / 2][i % 2 * 2], weights.x[2 * j + i / 2][i % 2 * 2 + 1]);
#pragma unroll
    for (int i = 0; i < D / 16; i++) {
      uint32_t b[4];
      load_matrices<true>(b, chunk_of<D>(tile, 16 * j + lane % 16, 2 * i + lane / 16));
      multiply_add(sums.x[2 * i], a, {b[0], b[1]});
      multiply_add(sums.x[2 * i + 1], a, {b[2], b[3]});
    }
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
template <int D>
static __device__ __forceinline__ void store_row(bf16* row, Fragment<D>& sums, int half, float factor, unsigned d, unsigned t) {
#pragma unroll
  for (int i = 0; i < sums.OF_ROW; i += 2)
    if (4u * i < d)
      *reinterpret_cast<uint32_t*>(row + sums.column(i, t)) = pack(factor * sums.at(half, i), factor * sums.at(half, i + 1));
}
