// The instructions of tensor cores: products of 16 x 16 by 16 x 8 matrices of bf16, and what feeds them. Compute capability 8.0.
//
// A warp holds a matrix together. With g = lane / 4 and t = lane % 4, a lane has of
//   a [16, 16]: a[0] (g, 2t..2t+1), a[1] (g + 8, 2t..), a[2] (g, 2t + 8..), a[3] (g + 8, 2t + 8..)
//   b [16, 8]:  b[0] (2t..2t+1, g), b[1] (2t + 8.., g)
//   c [16, 8]:  c[0], c[1] (g, 2t..2t+1), c[2], c[3] (g + 8, 2t..)
// so the sums c of two products side by side, rounded, are the a of another product.
#pragma once

#include "common.cuh"

#ifndef EMULATED_CUDA
static __device__ __forceinline__ unsigned shared_address(const void* p) { return (unsigned)__cvta_generic_to_shared(p); }
#endif

// c += a b, in f32.
static __device__ __forceinline__ void multiply_add(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#ifdef EMULATED_CUDA
  emulated_mma_m16n8k16_bf16(c, a, b);
#else
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// Four 8 x 8 matrices from shared memory: lane l gives the address of row l % 8 of matrix l / 8, and gets of each matrix elements
// (g, 2t..2t+1), or (2t..2t+1, g) where it is transposed.
template <bool TRANSPOSED>
static __device__ __forceinline__ void load_matrices(uint32_t (&r)[4], const void* row) {
#ifdef EMULATED_CUDA
  emulated_ldmatrix_x4(r, row, TRANSPOSED);
#else
  if (TRANSPOSED)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
#endif
}

// Begins a copy of 16 bytes to shared memory.
static __device__ __forceinline__ void copy_async(void* to, const void* from) {
#ifdef EMULATED_CUDA
  emulated_cp_async_16(to, from, 16);
#else
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from) : "memory");
#endif
}

// Ends a group of copies that `wait_for_copies` counts.
static __device__ __forceinline__ void end_copies() {
#ifdef EMULATED_CUDA
  emulated_cp_async_commit();
#else
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits for all groups of this thread but the last `LATEST`.
template <int LATEST>
static __device__ __forceinline__ void wait_for_copies() {
#ifdef EMULATED_CUDA
  emulated_cp_async_wait(LATEST);
#else
  asm volatile("cp.async.wait_group %0;" ::"n"(LATEST) : "memory");
#endif
}

// Two numbers, rounded, as matrices hold them: the first in the low half.
static __device__ __forceinline__ uint32_t pack(float low, float high) {
  const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
  uint32_t bits;
  memcpy(&bits, &both, sizeof bits);
  return bits;
}

// 2^x with a relative error of 2^-22; 0 where that is below the normal numbers.
static __device__ __forceinline__ float fast_exp2(float x) {
#ifdef EMULATED_CUDA
  return exp2f(x);
#else
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}
