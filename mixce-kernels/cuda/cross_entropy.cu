// Log-probabilities of targets and the gradient of weighted cross-entropy, for rows of v logits: one block a row.
//
// Rows are aligned to 16 bytes and `pitch` elements apart. What lies between the end of a row and the next is neither read nor written.
#include "common.cuh"

constexpr float LOG2_E = 1.4426950408889634f;

// As many elements as a thread reads or writes at once.
template <class T>
struct alignas(16) Vector {
  static constexpr unsigned SIZE = 16 / sizeof(T);
  T element[SIZE];
};

// exp(x): with one instruction of the hardware and without the cases of expf, which would take longer than reading the logits.
static __device__ __forceinline__ float exponential(float x) { return exp2f(x * LOG2_E); }

// The largest logit of a part of a row and the sum of exp(z - max).
struct Part {
  float max, sum;
};

// Where all logits are minus infinity or NaN, shifting by 0 keeps the sums what they are.
static __device__ __forceinline__ float shift_of(float max) { return max == -INFINITY ? 0.0f : max; }

static __device__ __forceinline__ Part join(Part a, Part b) {
  const float max = fmaxf(a.max, b.max), shift = shift_of(max);
  const float left = a.max == -INFINITY ? a.sum : a.sum * exponential(a.max - shift);
  const float right = b.max == -INFINITY ? b.sum : b.sum * exponential(b.max - shift);
  return {max, left + right};
}

// Adds N logits to a part; NaN is passed over by the maximum and makes the sum NaN.
template <unsigned N, class T>
static __device__ __forceinline__ void add(Part& part, const T (&logits)[N]) {
  float max = part.max, sum = 0.0f;
  for (unsigned k = 0; k < N; k++) max = fmaxf(max, load(&logits[k]));
  const float shift = shift_of(max);
  if (max > part.max) {
    part.sum *= exponential(part.max - shift);
    part.max = max;
  }
  for (unsigned k = 0; k < N; k++) sum += exponential(load(&logits[k]) - shift);
  part.sum += sum;
}

// log_z = log sum_j exp(z_j) and log_q = z[target] - log_z of every row; NaN for a target that is not below v.
template <class T>
static __device__ __forceinline__ void target_log_probs(const T* logits, size_t pitch, const uint32_t* targets, float* log_q,
                                                        float* log_z, size_t rows, unsigned v) {
  __shared__ Part parts[THREADS / WARP];
  const unsigned vectors = v / Vector<T>::SIZE;
  for (size_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const T* z = logits + row * pitch;
    Part own = {-INFINITY, 0.0f};
    for (unsigned i = threadIdx.x; i < vectors; i += THREADS) {
      const Vector<T> some = ((const Vector<T>*)z)[i];
      add(own, some.element);
    }
    for (unsigned j = vectors * Vector<T>::SIZE + threadIdx.x; j < v; j += THREADS) {
      const T one[1] = {z[j]};
      add(own, one);
    }
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
      const Part other = {__shfl_xor_sync(ALL_LANES, own.max, distance), __shfl_xor_sync(ALL_LANES, own.sum, distance)};
      own = join(own, other);
    }
    if (threadIdx.x % WARP == 0) parts[threadIdx.x / WARP] = own;
    __syncthreads();
    if (threadIdx.x == 0) {
      for (int i = 1; i < THREADS / WARP; i++) own = join(own, parts[i]);
      const float normaliser = shift_of(own.max) + logf(own.sum);
      const float difference = targets[row] < v ? load(z + targets[row]) - normaliser : NAN;
      log_z[row] = normaliser;
      log_q[row] = difference > 0.0f ? 0.0f : difference;  // not fminf, which would turn NaN into 0
    }
    __syncthreads();
  }
}

// Turns logits z into their gradient, scale weight (exp(z - log_z) - onehot(target)).
template <class T>
static __device__ __forceinline__ void logits_gradient(T* logits, size_t pitch, const uint32_t* targets, const float* log_z,
                                                       const float* weights, float scale, size_t rows, unsigned v) {
  constexpr unsigned SIZE = Vector<T>::SIZE;
  const unsigned vectors = v / SIZE;
  for (size_t row = blockIdx.x; row < rows; row += gridDim.x) {
    T* z = logits + row * pitch;
    const float normaliser = log_z[row], weight = scale * weights[row];
    const uint32_t target = targets[row];
    const auto gradient = [=](T logit, unsigned j) {
      const float probable = weight * exponential(load(&logit) - normaliser);
      return j == target ? probable - weight : probable;
    };
    for (unsigned i = threadIdx.x; i < vectors; i += THREADS) {
      Vector<T> some = ((const Vector<T>*)z)[i];
      for (unsigned k = 0; k < SIZE; k++) store(&some.element[k], gradient(some.element[k], i * SIZE + k));
      ((Vector<T>*)z)[i] = some;
    }
    for (unsigned j = vectors * SIZE + threadIdx.x; j < v; j += THREADS) store(z + j, gradient(z[j], j));
  }
}

#define KERNELS(T, SUFFIX)                                                                                                 \
  extern "C" __global__ void __launch_bounds__(THREADS)                                                                    \
      mixce_target_log_probs_##SUFFIX(const T* logits, size_t pitch, const uint32_t* targets, float* log_q, float* log_z,  \
                                      size_t rows, unsigned v) {                                                           \
    target_log_probs(logits, pitch, targets, log_q, log_z, rows, v);                                                       \
  }                                                                                                                        \
  extern "C" __global__ void __launch_bounds__(THREADS)                                                                    \
      mixce_logits_gradient_##SUFFIX(T* logits, size_t pitch, const uint32_t* targets, const float* log_z,                 \
                                     const float* weights, float scale, size_t rows, unsigned v) {                         \
    logits_gradient(logits, pitch, targets, log_z, weights, scale, rows, v);                                               \
  }

FOR_BOTH_TYPES(KERNELS)
