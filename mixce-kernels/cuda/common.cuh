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

// A dropout: a stream of random words, of which those below the threshold drop their element. 0 switches it off.
struct Dropout {
  uint64_t key, label;
  uint32_t threshold;
  float scale;

  __device__ __forceinline__ bool active() const { return threshold != 0; }

  // The factor of the element with this index.
  __device__ __forceinline__ float factor(uint64_t index) const {
    if (!active()) return 1.0f;
    const Words words = philox(index / 4, label, key);
    return words.word[index % 4] < threshold ? 0.0f : scale;
  }

  // The same dropout with the stream's sub-stream `number`.
  __device__ __forceinline__ Dropout fold(uint64_t number) const {
    if (!active()) return *this;
    const Words words = philox(number, label, ~key);
    return {key, words.word[0] | (uint64_t)words.word[1] << 32, threshold, scale};
  }
};

// A kernel's dropout comes as four plain parameters.
#define DROPOUT_PARAMETERS uint64_t key, uint64_t label, uint32_t threshold, float keep_scale
#define DROPOUT Dropout{key, label, threshold, keep_scale}

// Adds to `sums[k][column]` the sum over all rows of what `terms(row, column, own)` adds to `own[k]`; sums that are null are
// not wanted. Blocks are `WARP x SUM_ROWS` threads and take `WARP` columns each.
constexpr int SUM_ROWS = 16;

template <int K, class Terms>
static __device__ __forceinline__ void add_column_sums(size_t rows, unsigned columns, float* const (&sums)[K], Terms terms) {
  __shared__ float partial[K][SUM_ROWS][WARP];
  const unsigned column = blockIdx.x * WARP + threadIdx.x;
  float own[K] = {};
  if (column < columns)
    for (size_t row = threadIdx.y; row < rows; row += SUM_ROWS) terms(row, column, own);
  for (int k = 0; k < K; k++) partial[k][threadIdx.y][threadIdx.x] = own[k];
  __syncthreads();
  if (threadIdx.y > 0 || column >= columns) return;
  for (int k = 0; k < K; k++) {
    if (!sums[k]) continue;
    float sum = 0.0f;
    for (int i = 0; i < SUM_ROWS; i++) sum += partial[k][i][threadIdx.x];
    sums[k][column] += sum;
  }
}
