// Operands for matrix products in bf16.
#include "common.cuh"

// y = x of up to three arrays at once, rounded to nearest, ties to even.
extern "C" __global__ void __launch_bounds__(THREADS)
    mixce_cast_bf16(const float* x0, const float* x1, const float* x2, bf16* y0, bf16* y1, bf16* y2, size_t n0, size_t n1,
                    size_t n2) {
  const unsigned which = blockIdx.y;
  const float* x = which == 0 ? x0 : which == 1 ? x1 : x2;
  bf16* y = which == 0 ? y0 : which == 1 ? y1 : y2;
  const size_t n = which == 0 ? n0 : which == 1 ? n1 : n2;
  const size_t step = (size_t)gridDim.x * blockDim.x * 4;
  for (size_t i = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * 4; i < n; i += step)
    store_pack(y + i, n - i, load_pack<4>(x + i, n - i));
}
