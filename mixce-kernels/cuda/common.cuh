// Shared by the kernels of this folder.
//
// Conventions: row-major, sizes in elements, 64-bit offsets. Sums are taken in an order that depends on the
// sizes alone, never on timing: there are atomics on integers only, so two runs agree bit for bit. No inline assembly and no intrinsics
// beyond shuffles, barriers and conversions, so that every kernel also compiles as plain C++ for an emulated device.
//
// Everything is f32 but the operands of matrix products and what a product makes for the next one: kernels that read or write
// such a number are templates on its type T, f32 or bf16, with `_f32` or `_bf16` at the end of their names. They compute in f32
// and round what they store.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cuda_bf16.h>

using bf16 = __nv_bfloat16;

static __device__ __forceinline__ float load(const float* x) { return *x; }
static __device__ __forceinline__ float load(const bf16* x) { return __bfloat162float(*x); }

// Rounds to nearest, ties to even.
static __device__ __forceinline__ void store(float* y, float x) { *y = x; }
static __device__ __forceinline__ void store(bf16* y, float x) { *y = __float2bfloat16(x); }

// The kernels of a file for both types: KERNELS(T, SUFFIX) defines them for one.
#define FOR_BOTH_TYPES(KERNELS) KERNELS(float, f32) KERNELS(bf16, bf16)

constexpr int WARP = 32;
// Threads of a block that handles rows or elements.
constexpr int THREADS = 256;
constexpr unsigned ALL_LANES = 0xffffffffu;

// N consecutive elements, which one thread handles together, as f32.
template <int N>
struct Floats {
  float x[N];
};

// Elements of 16 bytes.
template <class T>
constexpr int PACK = 16 / sizeof(T);

// N elements in memory: moved at once, or 16 bytes at once where they are more.
template <class T, int N>
struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) Pack {
  T x[N];
};

static __device__ __forceinline__ void store_pair(float* y, float a, float b) { y[0] = a, y[1] = b; }
static __device__ __forceinline__ void store_pair(bf16* y, float a, float b) { *(__nv_bfloat162*)y = __floats2bfloat162_rn(a, b); }

// Whether all packs of a loop are known to be whole and aligned: then it has no branches around its loads, and many are under way.
template <bool KNOWN>
struct Whole {};

// Whether rows that begin `stride` elements apart are whole, aligned packs of N; so is a null pointer.
template <int N, class T>
static __device__ __forceinline__ bool has_whole_packs(const T* x, size_t stride) {
  return stride % N == 0 && (uintptr_t)x % alignof(Pack<T, N>) == 0;
}

// Decides it once for `f`.
template <class F>
static __device__ __forceinline__ void with_whole(bool whole, F f) {
  if (whole) f(Whole<true>());
  else f(Whole<false>());
}

// The elements of x, of which there are `left`; 0 for those that there are not. Element by element unless the address is aligned.
template <int N, class T, bool KNOWN = false>
static __device__ __forceinline__ Floats<N> load_pack(const T* x, size_t left, Whole<KNOWN> = {}) {
  Pack<T, N> pack;
  if (KNOWN || (left >= N && (uintptr_t)x % alignof(Pack<T, N>) == 0)) {
    pack = *(const Pack<T, N>*)x;
  } else {
    for (int i = 0; i < N; i++) pack.x[i] = i < left ? x[i] : T(0.0f);
  }
  Floats<N> floats;
  for (int i = 0; i < N; i++) floats.x[i] = load(pack.x + i);
  return floats;
}

// Rounds as `store` does, and stores those of which there are `left`. Returns what it stored.
template <int N, class T, bool KNOWN = false>
static __device__ __forceinline__ Floats<N> store_pack(T* y, size_t left, const Floats<N>& floats, Whole<KNOWN> = {}) {
  Pack<T, N> pack;
  for (int i = 0; i < N; i += 2) store_pair(pack.x + i, floats.x[i], floats.x[i + 1]);
  if (KNOWN || (left >= N && (uintptr_t)y % alignof(Pack<T, N>) == 0)) {
    *(Pack<T, N>*)y = pack;
  } else {
    for (int i = 0; i < N; i++)
      if (i < left) y[i] = pack.x[i];
  }
  Floats<N> stored;
  for (int i = 0; i < N; i++) stored.x[i] = load(pack.x + i);
  return stored;
}

// Calls `f(row, i, left)` for the packs of N elements of every row of c, i the pack's first column and `left` the columns from there on.
// Blocks are `threads of a row x rows`.
template <int N, class F>
static __device__ __forceinline__ void for_packs(size_t rows, unsigned c, F f) {
  for (size_t row = (size_t)blockIdx.x * blockDim.y + threadIdx.y; row < rows; row += (size_t)gridDim.x * blockDim.y)
    for (size_t i = N * threadIdx.x; i < c; i += N * blockDim.x) f(row, i, c - i);
}

// Every lane gets the same bits: at each level both partners add the same two numbers.
static __device__ __forceinline__ float warp_sum(float x) {
  for (int distance = WARP / 2; distance > 0; distance /= 2) x += __shfl_xor_sync(ALL_LANES, x, distance);
  return x;
}

// NaN is passed over, as fmaxf does.
static __device__ __forceinline__ float warp_max(float x) {
  for (int distance = WARP / 2; distance > 0; distance /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, distance));
  return x;
}

// Philox4x32-10, the generator of src/rng.rs.
struct Words {
  uint32_t word[4];
};

static __device__ __forceinline__ Words philox(uint64_t counter_low, uint64_t counter_high, uint64_t key) {
  uint32_t c0 = (uint32_t)counter_low, c1 = (uint32_t)(counter_low >> 32);
  uint32_t c2 = (uint32_t)counter_high, c3 = (uint32_t)(counter_high >> 32);
  uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
  for (int round = 0; round < 10; round++) {
    const uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
    const uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
    c1 = (uint32_t)p1;
    c3 = (uint32_t)p0;
    c0 = n0;
    c2 = n2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// A dropout: a stream of random words, of which those below the threshold drop their element. 0 switches it off. The elements may be the
// part of a larger tensor that begins with its element `first`.
struct Dropout {
  uint64_t key, label, first;
  uint32_t threshold;
  float scale;

  __device__ __forceinline__ bool active() const { return threshold != 0; }

  // The factor of the element with this index.
  __device__ __forceinline__ float factor(uint64_t index) const {
    if (!active()) return 1.0f;
    index += first;
    const Words words = philox(index / 4, label, key);
    return words.word[index % 4] < threshold ? 0.0f : scale;
  }

  // Whether packs of four elements are drawn at once: the index of such a pack is a multiple of four, and so must be that of the part.
  __device__ __forceinline__ bool draws_whole_packs() const { return first % 4 == 0; }

  // The factors of the four elements from this index on: one draw where the index is a multiple of four, as it is in whole packs, two
  // elsewhere.
  template <bool KNOWN = false>
  __device__ __forceinline__ Floats<4> factors(uint64_t index, Whole<KNOWN> = {}) const {
    if (!active()) return {{1.0f, 1.0f, 1.0f, 1.0f}};
    index += first;
    const unsigned shift = KNOWN ? 0 : index % 4;
    const Words draw = philox(index / 4, label, key), next = shift ? philox(index / 4 + 1, label, key) : draw;
    const uint32_t words[7] = {draw.word[0], draw.word[1], draw.word[2], draw.word[3], next.word[0], next.word[1], next.word[2]};
    Floats<4> factors;
    for (int i = 0; i < 4; i++) {
      const uint32_t word = shift < 2 ? (shift ? words[i + 1] : words[i]) : (shift == 2 ? words[i + 2] : words[i + 3]);
      factors.x[i] = word < threshold ? 0.0f : scale;
    }
    return factors;
  }

  // The same dropout with the stream's sub-stream `number`.
  __device__ __forceinline__ Dropout fold(uint64_t number) const {
    if (!active()) return *this;
    const Words words = philox(number, label, ~key);
    return {key, words.word[0] | (uint64_t)words.word[1] << 32, first, threshold, scale};
  }
};

// A kernel's dropout comes as five plain parameters.
#define DROPOUT_PARAMETERS uint64_t key, uint64_t label, uint64_t first_dropped, uint32_t threshold, float keep_scale
#define DROPOUT Dropout{key, label, first_dropped, threshold, keep_scale}

// Sums of columns begin with the shares of chunks of rows. Blocks are `WARP x SUM_ROWS` threads; block (group, chunk) takes `WARP x N`
// columns, a pack a thread, and `chunk_rows` rows.
constexpr int SUM_ROWS = 8;

// Calls `f(row, i, left, Whole)` for this thread's packs of N elements in the rows of its chunk (see for_packs), which has whole packs alone
// if `whole`.
template <int N, class F>
static __device__ __forceinline__ void for_chunk(size_t rows, unsigned columns, size_t chunk_rows, bool whole, F f) {
  const size_t first = (size_t)blockIdx.x * WARP * N + threadIdx.x * N;
  const size_t begin = blockIdx.y * chunk_rows, end = begin + chunk_rows < rows ? begin + chunk_rows : rows;
  if (first >= columns) return;
  with_whole(whole, [&](auto known) {
#pragma unroll 4
    for (size_t row = begin + threadIdx.y; row < end; row += SUM_ROWS) f(row, first, columns - first, known);
  });
}

// Writes the share of the chunk in K sums a column, of what its threads have: the row `chunk` of `partial` [chunks, K, columns], which
// mixce_add_partial_sums adds up.
template <int K, int N>
static __device__ __forceinline__ void write_shares(const Floats<N> (&own)[K], unsigned columns, float* partial) {
  __shared__ float sums[K][SUM_ROWS][WARP * N];
  const size_t group = (size_t)blockIdx.x * WARP * N;
  for (int k = 0; k < K; k++)
    for (int i = 0; i < N; i++) sums[k][threadIdx.y][threadIdx.x * N + i] = own[k].x[i];
  __syncthreads();
  for (unsigned i = threadIdx.y * WARP + threadIdx.x; i < K * WARP * N; i += WARP * SUM_ROWS) {
    const unsigned k = i / (WARP * N), column = i % (WARP * N);
    if (group + column >= columns) continue;
    float sum = 0.0f;
    for (int y = 0; y < SUM_ROWS; y++) sum += sums[k][y][column];
    partial[((size_t)blockIdx.y * K + k) * columns + group + column] = sum;
  }
}
