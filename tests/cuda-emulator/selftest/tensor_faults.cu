// Faults with tensor-core instructions and asynchronous copies, one a kernel; where `fault` is 0 it is right. Launched with 64
// threads, 64 words and as much dynamic shared memory.

// The words of the block's 16 rows of 16 bytes, twice: as they are in `data`.
__device__ float* filled(const float* data) {
  extern __shared__ __align__(16) float words[];
  words[threadIdx.x] = data[threadIdx.x];
  __syncthreads();
  return words;
}

extern "C" __global__ void product_by_half_a_warp(float* data, int, int fault) {
  float d[4] = {};
  uint32_t a[4] = {}, b[2] = {};
  if (!fault || threadIdx.x % 32 < 16) emulated_mma_m16n8k16_bf16(d, a, b);
  data[threadIdx.x] = d[0];
}

extern "C" __global__ void misaligned_matrix(float* data, int, int fault) {
  const float* words = filled(data);
  uint32_t r[2];
  emulated_ldmatrix_x2(r, words + (threadIdx.x % 8 * 4 + (fault ? 2 : 0)), false);
  __syncthreads();
  data[threadIdx.x] = r[0];
}

extern "C" __global__ void matrix_in_global(float* data, int, int fault) {
  const float* words = filled(data);
  uint32_t r[2];
  emulated_ldmatrix_x2(r, (fault ? data : words) + threadIdx.x % 8 * 4, false);
  __syncthreads();
  data[threadIdx.x] = r[0];
}

extern "C" __global__ void matrix_out_of_bounds(float* data, int, int fault) {
  const float* words = filled(data);
  uint32_t r[2];
  emulated_ldmatrix_x2(r, words + (threadIdx.x % 16 + (fault && threadIdx.x == 15)) * 4, false);
  data[threadIdx.x] = r[0];
}

// What the other warp writes.
extern "C" __global__ void matrix_without_a_barrier(float* data, int, int fault) {
  float* words = filled(data);
  words[threadIdx.x] = 1;
  if (fault) __syncwarp();
  else __syncthreads();
  uint32_t r[4];
  emulated_ldmatrix_x4(r, words + threadIdx.x % 16 * 4, true);
  data[threadIdx.x] = r[0];
}

// What other lanes of the warp write: tensor-core instructions order nothing.
extern "C" __global__ void matrix_of_other_lanes_without_a_barrier(float* data, int, int fault) {
  float* words = filled(data);
  words[threadIdx.x] = 1;
  float d[4] = {};
  uint32_t a[4] = {}, r[2] = {};
  emulated_mma_m16n8k16_bf16(d, a, r);
  if (!fault) __syncwarp();
  emulated_ldmatrix_x2(r, words + (threadIdx.x / 32 * 32 + threadIdx.x % 8 * 4), false);
  data[threadIdx.x] = r[0];
}

// Copies 16 rows of 16 bytes with 16 threads.
__device__ void copy_rows(float* words, const float* data, unsigned bytes = 16, unsigned first_thread = 0) {
  unsigned row = threadIdx.x - first_thread;
  if (row < 16) emulated_cp_async_16(words + 4 * row, data + 4 * row, bytes);
  emulated_cp_async_commit();
}

extern "C" __global__ void copy_used_without_a_wait(float* data, int, int fault) {
  float* words = filled(data);
  float sum = 0;
  for (unsigned round = 0; round < 2; round++) {
    __syncthreads();
    copy_rows(words, data);
    emulated_cp_async_wait(fault && round == 1 ? 1 : 0);
    __syncthreads();
    sum += words[threadIdx.x];
  }
  emulated_cp_async_wait(0);
  __syncthreads();
  data[threadIdx.x] = sum;
}

extern "C" __global__ void copy_used_without_a_barrier(float* data, int, int fault) {
  extern __shared__ __align__(16) float words[];
  copy_rows(words, data);
  emulated_cp_async_wait(0);
  if (fault) __syncwarp();
  else __syncthreads();
  float word = words[63 - threadIdx.x];
  __syncthreads();
  data[threadIdx.x] = word;
}

// The barrier comes after the copy has begun.
extern "C" __global__ void copy_over_what_is_read(float* data, int, int fault) {
  float* words = filled(data);
  float word = words[threadIdx.x];
  if (!fault) __syncthreads();
  copy_rows(words, data, 16, 48);
  __syncthreads();
  emulated_cp_async_wait(0);
  __syncthreads();
  data[threadIdx.x] = word + words[threadIdx.x];
}

extern "C" __global__ void copy_never_waited_for(float* data, int, int fault) {
  extern __shared__ __align__(16) float words[];
  copy_rows(words, data);
  if (!fault) emulated_cp_async_wait(0);
}

extern "C" __global__ void copy_of_changed_memory(float* data, int, int fault) {
  extern __shared__ __align__(16) float words[];
  copy_rows(words, data);
  if (!fault) emulated_cp_async_wait(0);
  __syncthreads();
  data[threadIdx.x] = 1;
  emulated_cp_async_wait(0);
}

extern "C" __global__ void copy_misaligned(float* data, int, int fault) {
  extern __shared__ __align__(16) float words[];
  if (threadIdx.x < 8) emulated_cp_async_16(words + 4 * threadIdx.x, data + 4 * threadIdx.x + (fault ? 1 : 0), 16);
  emulated_cp_async_commit();
  emulated_cp_async_wait(0);
}

extern "C" __global__ void copy_from_out_of_bounds(float* data, int n, int fault) {
  extern __shared__ __align__(16) float words[];
  copy_rows(words, data + (fault ? n : 0));
  emulated_cp_async_wait(0);
}

extern "C" __global__ void copy_from_shared(float* data, int, int fault) {
  __shared__ float other[64];
  other[threadIdx.x] = 1;
  __syncthreads();
  extern __shared__ __align__(16) float words[];
  copy_rows(words, fault ? other : data);
  emulated_cp_async_wait(0);
}

extern "C" __global__ void copy_of_too_many_bytes(float* data, int, int fault) {
  extern __shared__ __align__(16) float words[];
  copy_rows(words, data, fault ? 20 : 12);
  emulated_cp_async_wait(0);
}

extern "C" __global__ void copy_of_uninitialised(float* data, int, int fault) {
  extern __shared__ __align__(16) float words[];
  if (!fault) data[threadIdx.x] = 1;
  __syncthreads();
  copy_rows(words, data);
  emulated_cp_async_wait(0);
}
