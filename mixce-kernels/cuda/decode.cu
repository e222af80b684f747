// Attention of one new token a sequence over cached keys and values: one block a sequence and head.
#include "common.cuh"

constexpr int DECODE_THREADS = 128;

// The same for all threads of the block; `join` adds or takes the larger.
template <class Join>
static __device__ __forceinline__ float block_reduce(float x, float* shared, Join join) {
  __syncthreads();
  shared[threadIdx.x] = x;
  for (int half = DECODE_THREADS / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) shared[threadIdx.x] = join(shared[threadIdx.x], shared[threadIdx.x + half]);
  }
  __syncthreads();
  return shared[0];
}

// qkv [sequences, 3 heads d]; keys and values [sequences, heads, capacity, d] take the new token in column `last`; attention over
// the columns first[sequence]..=last; out [sequences, heads d]. Shared memory: one float a column.
extern "C" __global__ void mixce_decode_attention(const float* qkv, float* keys, float* values, const uint32_t* first,
                                                  float* out, unsigned heads, unsigned capacity, unsigned d,
                                                  unsigned last, float scale) {
  extern __shared__ float weights[];
  __shared__ float reduction[DECODE_THREADS];
  const unsigned sequence = blockIdx.x / heads, head = blockIdx.x % heads, c = heads * d;
  const float* q = qkv + (size_t)sequence * 3 * c + head * d;
  float *k = keys + (size_t)blockIdx.x * capacity * d, *v = values + (size_t)blockIdx.x * capacity * d;
  for (unsigned i = threadIdx.x; i < d; i += DECODE_THREADS) {
    k[(size_t)last * d + i] = q[c + i];
    v[(size_t)last * d + i] = q[2 * c + i];
  }
  __syncthreads();
  const unsigned begin = first[sequence], columns = last + 1 - begin;
  float largest = -INFINITY;
  for (unsigned j = threadIdx.x; j < columns; j += DECODE_THREADS) {
    float score = 0.0f;
    for (unsigned i = 0; i < d; i++) score += q[i] * k[(size_t)(begin + j) * d + i];
    weights[j] = scale * score;
    largest = fmaxf(largest, weights[j]);
  }
  largest = block_reduce(largest, reduction, [](float a, float b) { return fmaxf(a, b); });
  float sum = 0.0f;
  for (unsigned j = threadIdx.x; j < columns; j += DECODE_THREADS) {
    weights[j] = expf(weights[j] - largest);
    sum += weights[j];
  }
  sum = block_reduce(sum, reduction, [](float a, float b) { return a + b; });
  for (unsigned i = threadIdx.x; i < d; i += DECODE_THREADS) {
    float value = 0.0f;
    for (unsigned j = 0; j < columns; j++) value += weights[j] * v[(size_t)(begin + j) * d + i];
    out[(size_t)sequence * c + head * d + i] = value / sum;
  }
}
