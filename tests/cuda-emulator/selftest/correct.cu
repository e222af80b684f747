// Kernels that are right: what the emulator must run as a GPU does, and without any complaint.
#include <cuda_fp16.h>

// Every index of a launch in three dimensions, in the order of memory.
extern "C" __global__ void indices(unsigned* out) {
  unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  out[block * blockDim.x * blockDim.y * blockDim.z + thread] = block * 1000 + thread;
}

// Parameters of all sizes, a struct among them.
struct Pair { float first; double second; };
extern "C" __global__ void parameters(double* out, unsigned char a, short b, __half c, float d, Pair e, long long f) {
  out[0] = a; out[1] = b; out[2] = __half2float(c); out[3] = d; out[4] = e.first; out[5] = e.second; out[6] = (double)f;
}

template <class T> __device__ T sum_of_warp(T v) {
  for (int lanes = 16; lanes > 0; lanes /= 2) v += __shfl_xor_sync(0xffffffff, v, lanes);
  return v;
}

// The sum of a block by shuffles, then through static shared memory.
extern "C" __global__ void sum(const float* in, float* out, unsigned n) {
  __shared__ float of_warp[32];
  float v = 0;
  for (unsigned i = threadIdx.x; i < n; i += blockDim.x) v += in[i];
  v = sum_of_warp(v);
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = v;
  __syncthreads();
  if (threadIdx.x < 32) {
    v = sum_of_warp(threadIdx.x < blockDim.x / 32 ? of_warp[threadIdx.x] : 0.0f);
    if (threadIdx.x == 0) out[0] = v;
  }
}

// The block turned round through dynamic shared memory.
extern "C" __global__ void reverse(const int* in, int* out) {
  extern __shared__ __align__(16) int turned[];
  turned[blockDim.x - 1 - threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = turned[threadIdx.x];
}

// Shuffles and votes: eight results a lane.
extern "C" __global__ void lanes(int* out) {
  int lane = threadIdx.x;
  int* to = out + 8 * lane;
  to[0] = __shfl_sync(0xffffffff, lane, 5);
  to[1] = __shfl_up_sync(0xffffffff, lane, 3);
  to[2] = __shfl_down_sync(0xffffffff, lane, 3);
  to[3] = __shfl_sync(0xffffffff, lane, 1, 8);
  to[4] = __ballot_sync(0xffffffff, lane % 2);
  to[5] = __any_sync(0xffffffff, lane == 7) + 2 * __all_sync(0xffffffff, lane < 31);
  to[6] = __syncthreads_count(lane < 10);
  // Half a warp among itself.
  to[7] = lane < 16 ? __shfl_xor_sync(0x0000ffff, lane, 1) : -1;
}

// Readers and writers of one word of a warp, kept apart by its own barrier alone.
extern "C" __global__ void turns_in_a_warp(int* out) {
  __shared__ int word[32];
  for (int round = 0; round < 3; round++) {
    word[threadIdx.x] = round + threadIdx.x;
    __syncwarp();
    int next = word[(threadIdx.x + 1) % 32];
    __syncwarp();
    out[threadIdx.x] = next;
  }
}

// All blocks and threads count in one word.
extern "C" __global__ void count(unsigned* counter) { atomicAdd(counter, 1u); }

// A word that one half of the block writes and the other reads, with a barrier between; some threads end early.
extern "C" __global__ void hand_over(float* data, float* out) {
  if (threadIdx.x >= 48) return;
  if (threadIdx.x < 32) data[threadIdx.x] = threadIdx.x;
  __syncthreads();
  out[threadIdx.x] = data[threadIdx.x % 32];
}
