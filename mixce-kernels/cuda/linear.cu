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

// sums_k += the sum over chunks of `partial` [chunks, K, c], for k = 0 and, with a second row of blocks, 1; sums that are null are not
// wanted. A block takes WARP columns.
extern "C" __global__ void __launch_bounds__(WARP* CHUNKS)
    mixce_add_partial_sums(const float* partial, float* sums_0, float* sums_1, unsigned chunks, unsigned c) {
  __shared__ float shares[CHUNKS][WARP];
  float* const sums = blockIdx.y ? sums_1 : sums_0;
  if (!sums) return;
  const unsigned column = blockIdx.x * WARP + threadIdx.x;
  float share = 0.0f;
  if (column < c)
    for (size_t chunk = threadIdx.y; chunk < chunks; chunk += CHUNKS) share += partial[(chunk * gridDim.y + blockIdx.y) * c + column];
  shares[threadIdx.y][threadIdx.x] = share;
  __syncthreads();
  if (threadIdx.y > 0 || column >= c) return;
  float sum = 0.0f;
  for (int i = 0; i < CHUNKS; i++) sum += shares[i][threadIdx.x];
  sums[column] += sum;
}
