// What an affine map needs beside its matrix products.
#include "common.cuh"

// y += bias, row by row. Rows of c elements begin `stride` elements apart.
template <class T>
static __device__ __forceinline__ void add_bias(T* y, size_t stride, const float* bias, size_t rows, unsigned c) {
  constexpr int N = PACK<T>;
  for_packs<N>(rows, c, [=](size_t row, size_t i, size_t left) {
    T* at = y + row * stride + i;
    Floats<N> sum = load_pack<N>(at, left);
    const Floats<N> b = load_pack<N>(bias + i, left);
    for (int k = 0; k < N; k++) sum.x[k] += b.x[k];
    store_pack(at, left, sum);
  });
}

// The share of each chunk of rows of x in the sums of its columns: `partial` [chunks, c]. The rows begin `stride` elements apart.
template <class T>
static __device__ __forceinline__ void column_sums(const T* x, size_t stride, float* partial, size_t rows, unsigned c,
                                                   size_t chunk_rows) {
  constexpr int N = PACK<T>;
  const bool whole = c % N == 0 && has_whole_packs<N>(x, stride);
  Floats<N> own[1] = {};
  for_chunk<N>(rows, c, chunk_rows, whole, [&](size_t row, size_t i, size_t left, auto whole) {
    const Floats<N> in = load_pack<N>(x + row * stride + i, left, whole);
    for (int k = 0; k < N; k++) own[0].x[k] += in.x[k];
  });
  write_shares(own, c, partial);
}

#define KERNELS(T, SUFFIX)                                                                                    \
  extern "C" __global__ void __launch_bounds__(THREADS)                                                       \
      mixce_add_bias_##SUFFIX(T* y, size_t stride, const float* bias, size_t rows, unsigned c) {              \
    add_bias(y, stride, bias, rows, c);                                                                       \
  }                                                                                                           \
  extern "C" __global__ void __launch_bounds__(WARP* SUM_ROWS)                                                \
      mixce_column_sums_##SUFFIX(const T* x, size_t stride, float* partial, size_t rows, unsigned c,          \
                                 size_t chunk_rows) {                                                         \
    column_sums(x, stride, partial, rows, c, chunk_rows);                                                     \
  }

FOR_BOTH_TYPES(KERNELS)

// The chunks that are added up at the same time.
constexpr int CHUNKS = 16;

// Sums of a launch: a structure of 520 bytes, which is the kernel's parameter.
constexpr int SUMS = 16;

// sums[s] [columns] += the sum over chunks of rows `stride` elements apart that begin at partial[s]. Sum s has the blocks
// first_block[s]..first_block[s + 1], of WARP columns each.
struct ShareSums {
  const float* partial[SUMS];
  float* sums[SUMS];
  uint32_t chunks[SUMS], stride[SUMS], columns[SUMS], first_block[SUMS + 1];
};

extern "C" __global__ void __launch_bounds__(WARP* CHUNKS) mixce_add_partial_sums(const ShareSums all) {
  __shared__ float shares[CHUNKS][WARP];
  unsigned which = 0;
  while (all.first_block[which + 1] <= blockIdx.x) which++;
  const float* const partial = all.partial[which];
  const unsigned column = (blockIdx.x - all.first_block[which]) * WARP + threadIdx.x;
  const unsigned chunks = all.chunks[which], columns = all.columns[which];
  const size_t stride = all.stride[which];
  float share = 0.0f;
  if (column < columns) {
#pragma unroll 4
    for (size_t chunk = threadIdx.y; chunk < chunks; chunk += CHUNKS) share += partial[chunk * stride + column];
  }
  shares[threadIdx.y][threadIdx.x] = share;
  __syncthreads();
  if (threadIdx.y > 0 || column >= columns) return;
  float sum = 0.0f;
  for (int i = 0; i < CHUNKS; i++) sum += shares[i][threadIdx.x];
  all.sums[which][column] += sum;
}
