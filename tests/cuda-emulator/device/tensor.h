// Tensor-core instructions and asynchronous copies (sm_80), for sources that reach them with inline PTX on a GPU. All 32
// lanes of a warp must take part in a product or a load of matrices, as on a GPU; neither orders memory.
#pragma once

extern "C" {
void emulated_mma_bf16(float* d, const uint32_t* a, const uint32_t* b);
void emulated_ldmatrix(uint32_t* r, unsigned matrices, const void* row, bool transposed);
void emulated_cp_async(void* shared, const void* global, unsigned bytes);
// Ends a group of asynchronous copies of the running thread: cp.async.commit_group.
void emulated_cp_async_commit();
// Waits until at most the last `groups` groups of the running thread are incomplete: cp.async.wait_group.
void emulated_cp_async_wait(unsigned groups);
}

// mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32: d += a b. The 16 products are summed in f64, then rounded to f32
// together with d.
static inline void emulated_mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { emulated_mma_bf16(d, a, b); }

// ldmatrix.sync.aligned.m8n8.x4[.trans].shared.b16: lanes 8i to 8i + 7 give the rows of matrix i.
static inline void emulated_ldmatrix_x4(uint32_t (&r)[4], const void* row, bool transposed) { emulated_ldmatrix(r, 4, row, transposed); }
// The same with .x2: the rows of lanes 16 to 31 are ignored.
static inline void emulated_ldmatrix_x2(uint32_t (&r)[2], const void* row, bool transposed) { emulated_ldmatrix(r, 2, row, transposed); }

// cp.async.cg.shared.global [shared], [global], 16, bytes: what is missing to 16 bytes is filled with zeros. Nothing is
// written before the wait.
static inline void emulated_cp_async_16(void* shared, const void* global, unsigned bytes) { emulated_cp_async(shared, global, bytes); }
