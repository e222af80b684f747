// Operands for matrix products in bf16.
#include "common.cuh"

struct alignas(16) Singles {
  float x[4];
};

struct alignas(8) Halves {
  __nv_bfloat162 x[2];
};

static __device__ __forceinline__ bool is_aligned(const void* address, size_t bytes) { return (uintptr_t)address % bytes == 0; }

// y = x of up to three arrays at once, rounded to nearest, ties to even: four elements at a time where both ends are aligned.
extern "C" __global__ void __launch_bounds__(THREADS)
    mixce_cast_bf16(const float* x0, const float* x1, const float* x2, bf16* y0, bf16* y1, bf16* y2, size_t n0, size_t n1,
                    size_t n2) {
  const unsigned which = blockIdx.y;
  const float* x = which == 0 ? x0 : which == 1 ? x1 : x2;
  bf16* y = which == 0 ? y0 : which == 1 ? y1 : y2;
  const size_t n = which == 0 ? n0 : which == 1 ? n1 : n2;
  const size_t first = (size_t)blockIdx.x * blockDim.x + threadIdx.x, step = (size_t)gridDim.x * blockDim.x;
  const size_t fours = is_aligned(x, sizeof(Singles)) && is_aligned(y, sizeof(Halves)) ? n / 4 : 0;
  for (size_t i = first; i < fours; i += step) {
    const Singles in = ((const Singles*)x)[i];
    ((Halves*)y)[i] = {{__floats2bfloat162_rn(in.x[0], in.x[1]), __floats2bfloat162_rn(in.x[2], in.x[3])}};
  }
  for (size_t i = 4 * fours + first; i < n; i += step) store(y + i, x[i]);
}
