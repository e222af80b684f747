// Lets a C++ compiler read a CUDA source: included before everything else. Qualifiers vanish or become marks that
// translate.py looks for, indices are variables of the driver, barriers and shuffles call into it.
#pragma once
#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <cuda_runtime.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#undef __constant__
#undef __device__
#undef __device_builtin__
#undef __forceinline__
#undef __global__
#undef __host__
#undef __launch_bounds__
#undef __noinline__
#undef __restrict__
#undef __shared__
#define __constant__
#define __device__
#define __forceinline__ inline
#define __host__
#define __launch_bounds__(...)
#define __noinline__
#define __restrict__
// Unknown attributes, so that they survive the preprocessor and the compiler ignores what translate.py leaves.
#define __global__ __attribute__((emulated_kernel))
#define __shared__ __attribute__((emulated_shared))

#include "runtime.h"
#include "warp.h"
#include "atomics.h"
#include "math.h"
#include "tensor.h"
