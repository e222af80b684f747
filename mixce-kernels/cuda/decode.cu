// Attention of one new token a sequence over cached keys and values: one block a sequence and head of queries.
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

// qkv [sequences, (heads + 2 kv) d]; keys and values [sequences, kv, capacity, d] take the new token in column `last`; attention over
// the columns first[sequence]..=last; out [sequences, heads d]. Shared memory: one float a column. Of the heads that share keys and
// values the first one writes them to the cache, while all read those of the new token where they come from.
extern "C" __global__ void __launch_bounds__(DECODE_THREADS)
    mixce_decode_attention(const float* qkv, float* keys, float* values, const uint32_t* first, float* out, unsigned heads,
                           unsigned kv, unsigned capacity, unsigned d, unsigned last, float scale) {
  extern __shared__ float weights[];
  __shared__ float reduction[DECODE_THREADS];
  const unsigned sequence = blockIdx.x / heads, head = blockIdx.x % heads, group = heads / kv, kv_head = head / group;
  const float* row = qkv + (size_t)sequence * (heads + 2 * kv) * d;
  const float *q = row + head * d, *new_k = row + (heads + kv_head) * d, *new_v = new_k + kv * d;
  const size_t cached = ((size_t)sequence * kv + kv_head) * capacity * d;
  float *k = keys + cached, *v = values + cached;
  if (head % group == 0)
    for (unsigned i = threadIdx.x; i < d; i += DECODE_THREADS) {
      k[(size_t)last * d + i] = new_k[i];
      v[(size_t)last * d + i] = new_v[i];
    }
  const unsigned begin = first[sequence], columns = last + 1 - begin;
  float largest = -INFINITY;
  for (unsigned j = threadIdx.x; j < columns; j += DECODE_THREADS) {
    const float* key = begin + j == last ? new_k : k + (size_t)(begin + j) * d;
    float score = 0.0f;
    for (unsigned i = 0; i < d; i++) score += q[i] * key[i];
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
    for (unsigned j = 0; j + 1 < columns; j++) value += weights[j] * v[(size_t)(begin + j) * d + i];
    value += weights[columns - 1] * new_v[i];
    out[((size_t)sequence * heads + head) * d + i] = value / sum;
  }
}
