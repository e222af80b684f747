// Log-probabilities of targets and the gradient of weighted cross-entropy, for rows of v logits: one block a row.
#include "common.cuh"

// The largest logit of a part of a row and the sum of exp(z - max).
struct Part {
  float max, sum;
};

static __device__ __forceinline__ Part join(Part a, Part b) {
  const float max = fmaxf(a.max, b.max);
  // Where all logits are minus infinity or NaN, shifting by 0 keeps the sums what they are.
  if (max == -INFINITY) return {max, a.sum + b.sum};
  const float left = a.max == -INFINITY ? a.sum : a.sum * expf(a.max - max);
  const float right = b.max == -INFINITY ? b.sum : b.sum * expf(b.max - max);
  return {max, left + right};
}

// log_z = log sum_j exp(z_j) and log_q = z[target] - log_z of every row; NaN for a target that is not below v.
extern "C" __global__ void mixce_target_log_probs(const float* logits, const uint32_t* targets, float* log_q, float* log_z,
                                                  size_t rows, unsigned v) {
  __shared__ Part parts[WARP];
  for (size_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const float* z = logits + row * v;
    Part own = {-INFINITY, 0.0f};
    for (unsigned j = threadIdx.x; j < v; j += blockDim.x) {
      const float logit = z[j];
      if (logit > own.max) {
        own.sum = own.sum * expf(own.max - logit) + 1.0f;
        own.max = logit;
      } else if (logit != -INFINITY) {  // NaN comes here
        own.sum += expf(logit - (own.max == -INFINITY ? 0.0f : own.max));
      }
    }
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
      const Part other = {__shfl_xor_sync(ALL_LANES, own.max, distance), __shfl_xor_sync(ALL_LANES, own.sum, distance)};
      own = join(own, other);
    }
    if (threadIdx.x % WARP == 0) parts[threadIdx.x / WARP] = own;
    __syncthreads();
    if (threadIdx.x == 0) {
      for (unsigned i = 1; i < blockDim.x / WARP; i++) own = join(own, parts[i]);
      const float shift = own.max == -INFINITY ? 0.0f : own.max;
      const float normaliser = shift + logf(own.sum);
      const float difference = targets[row] < v ? z[targets[row]] - normaliser : NAN;
      log_z[row] = normaliser;
      log_q[row] = difference > 0.0f ? 0.0f : difference;  // not fminf, which would turn NaN into 0
    }
    __syncthreads();
  }
}

// gradient = scale weight (exp(z - log_z) - onehot(target)), for logits z; `gradient` may be `logits`.
template <class T>
static __device__ __forceinline__ void logits_gradient(const float* logits, const uint32_t* targets, const float* log_z,
                                                       const float* weights, float scale, T* gradient, size_t rows, unsigned v) {
  for (size_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const float normaliser = log_z[row], weight = scale * weights[row];
    const uint32_t target = targets[row];
    for (unsigned j = threadIdx.x; j < v; j += blockDim.x) {
      const float probable = weight * expf(logits[row * v + j] - normaliser);
      store(gradient + row * v + j, j == target ? probable - weight : probable);
    }
  }
}

#define KERNELS(T, SUFFIX)                                                                                                 \
  extern "C" __global__ void mixce_logits_gradient_##SUFFIX(const float* logits, const uint32_t* targets,                  \
                                                            const float* log_z, const float* weights, float scale,         \
                                                            T* gradient, size_t rows, unsigned v) {                        \
    logits_gradient(logits, targets, log_z, weights, scale, gradient, rows, v);                                            \
  }

FOR_BOTH_TYPES(KERNELS)
