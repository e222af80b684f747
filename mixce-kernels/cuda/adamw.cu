// The update of AdamW in place, and the gradient norm that it is clipped by, without reading anything back.
#include "common.cuh"

constexpr int SQUARES_BLOCKS = 64, SQUARES_THREADS = 256;

// partial[tensor, block] = a share of sum_i x_i^2 of up to eight tensors at once (most are small). Always
// SQUARES_BLOCKS x SQUARES_THREADS threads a tensor.
extern "C" __global__ void mixce_sums_of_squares(const float* x0, const float* x1, const float* x2, const float* x3,
                                                 const float* x4, const float* x5, const float* x6, const float* x7,
                                                 size_t n0, size_t n1, size_t n2, size_t n3, size_t n4, size_t n5,
                                                 size_t n6, size_t n7, double* partial) {
  __shared__ double sums[SQUARES_THREADS];
  const float* const tensors[8] = {x0, x1, x2, x3, x4, x5, x6, x7};
  const size_t sizes[8] = {n0, n1, n2, n3, n4, n5, n6, n7};
  const float* x = tensors[blockIdx.y];
  const size_t n = sizes[blockIdx.y];
  float own = 0.0f;
  const size_t step = (size_t)SQUARES_BLOCKS * SQUARES_THREADS;
  for (size_t i = (size_t)blockIdx.x * SQUARES_THREADS + threadIdx.x; i < n; i += step) own += x[i] * x[i];
  sums[threadIdx.x] = own;
  for (int half = SQUARES_THREADS / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
  }
  if (threadIdx.x == 0) partial[blockIdx.y * SQUARES_BLOCKS + blockIdx.x] = sums[0];
}

// Read by the updates of a step, and by the host when it reports.
enum Verdict { NORM = 0, SCALE = 1, FAILED_TENSOR = 2, FAILED_SQUARES = 3, FAILED_STEP = 4 };

// From the shares [tensors, SQUARES_BLOCKS] of all gradients: their norm and the factor of clipping. When one is not finite the
// factor becomes NaN, which stops this update and all later ones, and the first such tensor and the step are noted. One block.
extern "C" __global__ void mixce_judge_gradients(const double* partial, unsigned tensors, double max_norm, double step,
                                                 double* verdict) {
  __shared__ double sums[SQUARES_THREADS];
  __shared__ double failed_squares[SQUARES_THREADS];
  __shared__ unsigned failed_tensor[SQUARES_THREADS];
  double own = 0.0, own_failed_squares = 0.0;
  unsigned own_failed = tensors;
  for (unsigned tensor = threadIdx.x; tensor < tensors; tensor += SQUARES_THREADS) {
    double squares = 0.0;
    for (int i = 0; i < SQUARES_BLOCKS; i++) squares += partial[(size_t)tensor * SQUARES_BLOCKS + i];
    own += squares;
    if ((isnan(squares) || isinf(squares)) && own_failed == tensors) {
      own_failed = tensor;
      own_failed_squares = squares;
    }
  }
  sums[threadIdx.x] = own;
  failed_tensor[threadIdx.x] = own_failed;
  failed_squares[threadIdx.x] = own_failed_squares;
  __syncthreads();
  if (threadIdx.x > 0 || isnan(verdict[SCALE])) return;
  double sum = 0.0, squares = 0.0;
  unsigned failed = tensors;
  for (int i = 0; i < SQUARES_THREADS; i++) {
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

// One update; the formula stands in src/adamw.rs. With a verdict its factor replaces `gradient_scale`, and NaN means no update.
extern "C" __global__ void mixce_adamw(float* parameter, float* first, float* second, const float* gradient, size_t n,
                                       float first_rate, float second_keep, float second_rate, float gradient_scale,
                                       float decay_factor, float step_size, float root_correction, float epsilon,
                                       const double* verdict) {
  const float scale = verdict ? (float)verdict[SCALE] : gradient_scale;
  if (verdict && isnan(scale)) return;
  const size_t step = (size_t)gridDim.x * blockDim.x;
  for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step) {
    const float g = scale * gradient[i];
    const float m = first[i] + first_rate * (g - first[i]);
    const float v = second_keep * second[i] + second_rate * (g * g);
    first[i] = m;
    second[i] = v;
    parameter[i] = decay_factor * parameter[i] - step_size * (m / (sqrtf(v) / root_correction + epsilon));
  }
}
