// The update of AdamW in place, the gradient norm that it is clipped by, without reading anything back, and clearing: of many tensors
// in a launch, because most are small.
#include "common.cuh"

// Tensors of a launch, with up to ARRAYS arrays each: a structure of at most 4 KB, which is a kernel's parameter.
constexpr int TENSORS = 64, ARRAYS = 4;

struct Tensors {
  float* arrays[ARRAYS][TENSORS];
  // Copies of the parameters in bf16, or null; only the update has them.
  bf16* rounded[TENSORS];
  uint64_t sizes[TENSORS];
  float decay_factors[TENSORS];
  // Tensor t has the blocks first_block[t]..first_block[t + 1].
  uint32_t first_block[TENSORS + 1];
};

// What a block does: every `step`-th pack of four elements of a tensor from `first` on, with its threads.
struct Task {
  unsigned tensor, block, blocks;
  size_t first, step;
};

static __device__ __forceinline__ Task task_of_block(const Tensors& tensors) {
  unsigned tensor = 0;
  for (unsigned end = TENSORS; end - tensor > 1;) {
    const unsigned middle = (tensor + end) / 2;
    if (tensors.first_block[middle] <= blockIdx.x) tensor = middle;
    else end = middle;
  }
  const unsigned begin = tensors.first_block[tensor], block = blockIdx.x - begin, blocks = tensors.first_block[tensor + 1] - begin;
  return {tensor, block, blocks, ((size_t)block * THREADS + threadIdx.x) * 4, (size_t)blocks * THREADS * 4};
}

// Shares of a tensor.
constexpr int SQUARES_BLOCKS = 128;

// partial[tensor, block] = a share of sum_i x_i^2; 0 for the blocks that a tensor does not have.
extern "C" __global__ void __launch_bounds__(THREADS) mixce_sums_of_squares(const Tensors tensors, double* partial) {
  __shared__ double sums[THREADS];
  const Task task = task_of_block(tensors);
  const float* x = tensors.arrays[0][task.tensor];
  const size_t n = tensors.sizes[task.tensor];
  float own = 0.0f;
  with_whole(has_whole_packs<4>(x, n), [&](auto whole) {
#pragma unroll 4
    for (size_t i = task.first; i < n; i += task.step) {
      const Floats<4> in = load_pack<4>(x + i, n - i, whole);
      for (int k = 0; k < 4; k++) own += in.x[k] * in.x[k];
    }
  });
  sums[threadIdx.x] = own;
  for (int half = THREADS / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
  }
  double* const shares = partial + (size_t)task.tensor * SQUARES_BLOCKS;
  if (threadIdx.x == 0) shares[task.block] = sums[0];
  if (task.block == 0)
    for (unsigned i = task.blocks + threadIdx.x; i < SQUARES_BLOCKS; i += THREADS) shares[i] = 0.0;
}

// Read by the updates of a step, and by the host when it reports.
enum Verdict { NORM = 0, SCALE = 1, FAILED_TENSOR = 2, FAILED_SQUARES = 3, FAILED_STEP = 4 };

constexpr int JUDGES = 1024;

// From the shares [tensors, SQUARES_BLOCKS] of all gradients: their norm and the factor of clipping. When one is not finite the
// factor becomes NaN, which stops this update and all later ones, and the first such tensor and the step are noted. One block, a warp
// a tensor.
extern "C" __global__ void __launch_bounds__(JUDGES) mixce_judge_gradients(const double* partial, unsigned tensors, double max_norm,
                                                                           double step, double* verdict) {
  constexpr unsigned WARPS = JUDGES / WARP;
  __shared__ double sums[WARPS];
  __shared__ double failed_squares[WARPS];
  __shared__ unsigned failed_tensor[WARPS];
  const unsigned warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
  double own = 0.0, own_failed_squares = 0.0;
  unsigned own_failed = tensors;
  for (unsigned tensor = warp; tensor < tensors; tensor += WARPS) {
    double squares = 0.0;
    for (unsigned i = lane; i < SQUARES_BLOCKS; i += WARP) squares += partial[(size_t)tensor * SQUARES_BLOCKS + i];
    for (int distance = WARP / 2; distance > 0; distance /= 2) squares += __shfl_xor_sync(ALL_LANES, squares, distance);
    own += squares;
    if ((isnan(squares) || isinf(squares)) && own_failed == tensors) {
      own_failed = tensor;
      own_failed_squares = squares;
    }
  }
  if (lane == 0) {
    sums[warp] = own;
    failed_tensor[warp] = own_failed;
    failed_squares[warp] = own_failed_squares;
  }
  __syncthreads();
  if (threadIdx.x > 0 || isnan(verdict[SCALE])) return;
  double sum = 0.0, squares = 0.0;
  unsigned failed = tensors;
  for (unsigned i = 0; i < WARPS; i++) {
    sum += sums[i];
    if (failed_tensor[i] < failed) {
      failed = failed_tensor[i];
      squares = failed_squares[i];
    }
  }
  const double norm = sqrt(sum);
  verdict[NORM] = norm;
  if (failed < tensors) {
    verdict[SCALE] = NAN;
    verdict[FAILED_TENSOR] = failed;
    verdict[FAILED_SQUARES] = squares;
    verdict[FAILED_STEP] = step;
  } else {
    const double factor = max_norm / (norm + 1e-6);
    verdict[SCALE] = max_norm == 0.0 || factor > 1.0 ? 1.0 : factor;
  }
}

// The arrays of a tensor in the update.
enum Array { PARAMETER = 0, FIRST = 1, SECOND = 2, GRADIENT = 3 };

// One update; the formula stands in src/adamw.rs. A parameter's copy in bf16 is written beside it. With a verdict its factor replaces `gradient_scale`, and NaN means no update.
extern "C" __global__ void __launch_bounds__(THREADS)
    mixce_adamw(const Tensors tensors, float first_rate, float second_keep, float second_rate, float gradient_scale, float step_size,
                float root_correction, float epsilon, const double* verdict) {
  const float scale = verdict ? (float)verdict[SCALE] : gradient_scale;
  if (verdict && isnan(scale)) return;
  const Task task = task_of_block(tensors);
  float* const parameters = tensors.arrays[PARAMETER][task.tensor];
  float* const firsts = tensors.arrays[FIRST][task.tensor];
  float* const seconds = tensors.arrays[SECOND][task.tensor];
  const float* const gradients = tensors.arrays[GRADIENT][task.tensor];
  bf16* const rounded = tensors.rounded[task.tensor];
  const size_t n = tensors.sizes[task.tensor];
  const float decay_factor = tensors.decay_factors[task.tensor];
  for (size_t i = task.first; i < n; i += task.step) {
    const size_t left = n - i;
    Floats<4> parameter = load_pack<4>(parameters + i, left), first = load_pack<4>(firsts + i, left);
    Floats<4> second = load_pack<4>(seconds + i, left);
    const Floats<4> gradient = load_pack<4>(gradients + i, left);
    for (int k = 0; k < 4; k++) {
      const float g = scale * gradient.x[k];
      const float m = first.x[k] + first_rate * (g - first.x[k]);
      const float v = second_keep * second.x[k] + second_rate * (g * g);
      first.x[k] = m;
      second.x[k] = v;
      parameter.x[k] = decay_factor * parameter.x[k] - step_size * (m / (sqrtf(v) / root_correction + epsilon));
    }
    store_pack(firsts + i, left, first);
    store_pack(seconds + i, left, second);
    store_pack(parameters + i, left, parameter);
    if (rounded) store_pack(rounded + i, left, parameter);
  }
}

// x = 0
extern "C" __global__ void __launch_bounds__(THREADS) mixce_clear(const Tensors tensors) {
  const Task task = task_of_block(tensors);
  float* const x = tensors.arrays[0][task.tensor];
  const size_t n = tensors.sizes[task.tensor];
  for (size_t i = task.first; i < n; i += task.step) store_pack(x + i, n - i, Floats<4>{});
}
