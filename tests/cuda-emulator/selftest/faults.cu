// Kernels with one fault each; where `fault` is 0 they are right. Launched with 64 threads and 64 words.

extern "C" __global__ void write_out_of_bounds(float* data, int n, int fault) {
  int i = threadIdx.x;
  if (i < n) data[i + (fault && i == n - 1)] = i;
}

extern "C" __global__ void read_out_of_bounds(float* data, int n, int fault) {
  if (threadIdx.x == 0) data[0] = data[n - 1 + fault];
}

extern "C" __global__ void write_far_out_of_bounds(float* data, int n, int fault) {
  int i = threadIdx.x;
  if (i < n) data[i + (fault ? 1000000 : 0)] = i;
}

extern "C" __global__ void null_pointer(float* data, int n, int fault) {
  float* to = fault ? nullptr : data;
  to[threadIdx.x % n] = 1;
}

extern "C" __global__ void shared_out_of_bounds(float* data, int n, int fault) {
  __shared__ float words[64];
  words[threadIdx.x] = 1;
  __syncthreads();
  data[threadIdx.x] = words[threadIdx.x + (fault && threadIdx.x == 63) * n / 64];
}

extern "C" __global__ void dynamic_shared_out_of_bounds(float* data, int, int fault) {
  extern __shared__ float words[];
  words[threadIdx.x + (fault && threadIdx.x == 63)] = 1;
  data[threadIdx.x] = words[threadIdx.x];
}

extern "C" __global__ void misaligned(float* data, int n, int fault) {
  if (threadIdx.x == 0) *reinterpret_cast<float4*>(data + (fault ? 1 : 0)) = make_float4(1, 2, 3, n);
}

extern "C" __global__ void misaligned_double(float* data, int, int fault) {
  if (threadIdx.x == 0) data[0] = *reinterpret_cast<double*>(data + 4 + fault);
}

// Without the barrier, a thread reads what its neighbour may not have written yet.
extern "C" __global__ void missing_barrier(float* data, int, int fault) {
  __shared__ float words[64];
  words[threadIdx.x] = threadIdx.x;
  if (!fault) __syncthreads();
  data[threadIdx.x] = words[threadIdx.x ^ 1];
}

extern "C" __global__ void missing_barrier_between_warps(float* data, int, int fault) {
  __shared__ float words[64];
  words[threadIdx.x] = threadIdx.x;
  if (fault) __syncwarp();
  else __syncthreads();
  data[threadIdx.x] = words[threadIdx.x ^ 32];
}

// Read first, then written: the slower of the two may read the new word.
extern "C" __global__ void write_after_read(float* data, int, int fault) {
  float mine = data[63 - threadIdx.x];
  if (!fault) __syncthreads();
  data[threadIdx.x] = mine;
}

extern "C" __global__ void race_in_shared(float* data, int, int fault) {
  __shared__ float words[64];
  words[fault ? 0 : threadIdx.x] = threadIdx.x;
  __syncthreads();
  data[threadIdx.x] = words[fault ? 0 : threadIdx.x];
}

extern "C" __global__ void race_in_global(float* data, int, int fault) { data[fault ? 0 : threadIdx.x] = threadIdx.x; }

extern "C" __global__ void race_of_atomic_and_plain(float* data, int, int fault) {
  if (threadIdx.x == 0 && fault) data[0] = 1;
  else atomicAdd(data, 1.0f);
}

// Launched with two blocks.
extern "C" __global__ void race_of_blocks(float* data, int, int fault) {
  if (threadIdx.x < 32) data[fault ? threadIdx.x : threadIdx.x + 32 * blockIdx.x] = 1;
}

extern "C" __global__ void uninitialised_global(float* data, int, int fault) {
  if (!fault) data[threadIdx.x] = 1;
  data[threadIdx.x] += 1;
}

extern "C" __global__ void uninitialised_shared(float* data, int, int fault) {
  __shared__ float words[64];
  if (!fault || threadIdx.x != 5) words[threadIdx.x] = 1;
  __syncthreads();
  data[threadIdx.x] = words[threadIdx.x];
}

extern "C" __global__ void barrier_in_a_branch(float* data, int, int fault) {
  data[threadIdx.x] = 1;
  if (fault && threadIdx.x % 32 < 16) {
    __syncthreads();
    data[threadIdx.x] = 2;
  } else {
    __syncthreads();
  }
}

// Half of a warp waits for a block barrier, the other half for the warp.
extern "C" __global__ void barrier_of_two_kinds(float* data, int, int fault) {
  data[threadIdx.x] = 1;
  if (fault && threadIdx.x % 32 < 16) __syncwarp();
  else if (fault) __syncthreads();
}

extern "C" __global__ void shuffle_without_its_lanes(float* data, int, int fault) {
  unsigned mask = fault ? 0x0000ffff : 0xffffffff;
  data[threadIdx.x] = threadIdx.x % 32 < 16 || !fault ? __shfl_xor_sync(mask, 1.0f, 16) : 0.0f;
}

extern "C" __global__ void trap(float* data, int, int fault) {
  data[threadIdx.x] = 1;
  if (fault) __trap();
}
