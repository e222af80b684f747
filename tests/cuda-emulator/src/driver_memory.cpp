// libcuda: memory and copies. Addresses of the device are addresses of the process, but the host must not use them.
#include <cuda.h>

#include <cstdlib>
#include <cstring>

#include "checks.h"
#include "driver.h"
#include "graph.h"
#include "memory.h"
#include "order.h"
#include "pinned.h"
#include "statistics.h"

namespace emulator {
namespace {

void* pointer(CUdeviceptr address) { return reinterpret_cast<void*>(address); }

// Of the memory pool, which keeps nothing here: programs may read what they have set.
cuuint64_t release_threshold = 0;

void count(Count& of, size_t bytes) {
  of.calls++;
  of.bytes += bytes;
}

CUresult copy_in(const char* what, CUdeviceptr to, const void* from, size_t bytes, CUstream stream, bool asynchronous) {
  if (bytes == 0) return CUDA_SUCCESS;
  auto turn = take_turn();
  graph::require_not_recording(stream, what);
  require_allocated(what, to, bytes);
  order::work(what, stream, {{to, true}});
  count(statistics().host_to_device, bytes);
  memcpy(pointer(to), from, bytes);
  checks::writes(to, bytes);
  if (!pinned::contains(from, bytes)) count(statistics().from_pageable, bytes);
  else if (asynchronous) pinned::copied(what, from, bytes, stream);
  return CUDA_SUCCESS;
}

CUresult copy_out(const char* what, void* to, CUdeviceptr from, size_t bytes, CUstream stream) {
  if (bytes == 0) return CUDA_SUCCESS;
  auto turn = take_turn();
  graph::require_not_recording(stream, what);
  require_allocated(what, from, bytes);
  order::work(what, stream, {{from, false}});
  checks::reads(what, from, bytes);
  count(statistics().device_to_host, bytes);
  memcpy(to, pointer(from), bytes);
  return CUDA_SUCCESS;
}

// What was never written may be copied; the copy then counts as never written.
CUresult copy_within(const char* what, CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
  if (bytes == 0) return CUDA_SUCCESS;
  auto turn = take_turn();
  graph::require_not_recording(stream, what);
  require_allocated(what, to, bytes);
  require_allocated(what, from, bytes);
  order::work(what, stream, {{from, false}, {to, true}});
  count(statistics().device_to_device, bytes);
  memmove(pointer(to), pointer(from), bytes);
  checks::copies(to, from, bytes);
  return CUDA_SUCCESS;
}

}  // namespace
}  // namespace emulator

using namespace emulator;

extern "C" {

CUresult cuMemAlloc_v2(CUdeviceptr* address, size_t bytes) {
  if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
  auto turn = take_turn();
  *address = allocate(bytes);
  order::forget(*address);
  return *address ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}
// Unlike cuMemAlloc, this one is content with no bytes.
CUresult cuMemAllocAsync(CUdeviceptr* address, size_t bytes, CUstream stream) {
  if (bytes == 0) return *address = 0, CUDA_SUCCESS;
  auto turn = take_turn();
  *address = allocate(bytes);
  if (!*address) return CUDA_ERROR_OUT_OF_MEMORY;
  order::allocated(*address, stream);
  graph::allocated(stream, *address);
  return CUDA_SUCCESS;
}
CUresult cuMemFree_v2(CUdeviceptr address) {
  auto turn = take_turn();
  if (!address) return CUDA_SUCCESS;
  order::forget(address);
  release(address);
  return CUDA_SUCCESS;
}
CUresult cuMemFreeAsync(CUdeviceptr address, CUstream stream) {
  auto turn = take_turn();
  if (!address || graph::frees(stream, address)) return CUDA_SUCCESS;
  order::freed(address, stream);
  release(address);
  return CUDA_SUCCESS;
}

// The one pool, from which everything is allocated.
CUresult cuDeviceGetDefaultMemPool(CUmemoryPool* pool, CUdevice) { return *pool = reinterpret_cast<CUmemoryPool>(3), CUDA_SUCCESS; }
CUresult cuMemPoolGetAttribute(CUmemoryPool, CUmemPool_attribute which, void* value) {
  auto turn = take_turn();
  auto* bytes = static_cast<cuuint64_t*>(value);
  if (which == CU_MEMPOOL_ATTR_USED_MEM_CURRENT) return *bytes = statistics().memory_bytes, CUDA_SUCCESS;
  if (which == CU_MEMPOOL_ATTR_USED_MEM_HIGH) return *bytes = statistics().peak_memory_bytes, CUDA_SUCCESS;
  if (which == CU_MEMPOOL_ATTR_RELEASE_THRESHOLD) return *bytes = release_threshold, CUDA_SUCCESS;
  return CUDA_ERROR_NOT_SUPPORTED;
}
CUresult cuMemPoolSetAttribute(CUmemoryPool, CUmemPool_attribute which, void* value) {
  auto turn = take_turn();
  if (which != CU_MEMPOOL_ATTR_RELEASE_THRESHOLD) return CUDA_ERROR_NOT_SUPPORTED;
  release_threshold = *static_cast<cuuint64_t*>(value);
  return CUDA_SUCCESS;
}

// Pinned memory of the host; kernels cannot reach it here.
CUresult cuMemHostAlloc(void** memory, size_t bytes, unsigned) {
  auto turn = take_turn();
  *memory = pinned::allocate(bytes);
  return *memory ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}
CUresult cuMemFreeHost(void* memory) {
  auto turn = take_turn();
  return pinned::release(memory), CUDA_SUCCESS;
}
CUresult cuMemAllocManaged(CUdeviceptr*, size_t, unsigned) { return CUDA_ERROR_NOT_SUPPORTED; }

CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, size_t bytes) { return copy_in("cuMemcpyHtoD", to, from, bytes, nullptr, false); }
CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, size_t bytes, CUstream stream) { return copy_in("cuMemcpyHtoDAsync", to, from, bytes, stream, true); }
// The host waits for this copy; the other ones may still be under way when they return.
CUresult cuMemcpyDtoH_v2(void* to, CUdeviceptr from, size_t bytes) {
  CUresult result = copy_out("cuMemcpyDtoH", to, from, bytes, nullptr);
  auto turn = take_turn();
  order::wait_on_host(order::record(nullptr));
  return result;
}
CUresult cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, size_t bytes, CUstream stream) { return copy_out("cuMemcpyDtoHAsync", to, from, bytes, stream); }
CUresult cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes) { return copy_within("cuMemcpyDtoD", to, from, bytes, nullptr); }
CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) { return copy_within("cuMemcpyDtoDAsync", to, from, bytes, stream); }
CUresult cuMemcpyPeerAsync(CUdeviceptr to, CUcontext, CUdeviceptr from, CUcontext, size_t bytes, CUstream stream) {
  return copy_within("cuMemcpyPeerAsync", to, from, bytes, stream);
}

CUresult cuMemsetD8Async(CUdeviceptr address, unsigned char value, size_t bytes, CUstream stream) {
  if (bytes == 0) return CUDA_SUCCESS;
  auto turn = take_turn();
  graph::require_not_recording(stream, "cuMemsetD8Async");
  require_allocated("cuMemsetD8Async", address, bytes);
  order::work("cuMemsetD8Async", stream, {{address, true}});
  count(statistics().memsets, bytes);
  memset(pointer(address), value, bytes);
  checks::writes(address, bytes);
  return CUDA_SUCCESS;
}
CUresult cuMemsetD8_v2(CUdeviceptr address, unsigned char value, size_t bytes) { return cuMemsetD8Async(address, value, bytes, nullptr); }

}  // extern "C"
