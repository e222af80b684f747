// libcuda: devices, their contexts, streams, events and errors. All work but that of pending.h is done within the call that asks for it;
// the order that streams and events promise is followed in order.cpp.
#include "driver.h"

#include <cuda.h>

#include <chrono>
#include <cstdlib>
#include <cstring>

#include "graph.h"
#include "kernels.h"
#include "memory.h"
#include "order.h"
#include "pending.h"
#include "statistics.h"

namespace emulator {

std::mutex& turns() {
  static auto* mutex = new std::mutex;
  return *mutex;
}

std::unique_lock<std::mutex> take_turn() { return std::unique_lock(turns()); }

namespace {

// Contexts are the numbers of their devices, from 1.
thread_local CUcontext current_context = nullptr;

int device_count() {
  const char* number = getenv("EMULATED_CUDA_DEVICES");
  int count = number ? atoi(number) : 1;
  return count > 0 ? count : 1;
}

// An imaginary device of compute capability 9.0, with the limits of that generation.
int attribute(CUdevice_attribute which) {
  switch (which) {
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: return 9;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: return 0;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK: return 1024;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X: return 1024;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y: return 1024;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z: return 64;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X: return 0x7fffffff;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y: return 65535;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z: return 65535;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE: return 32;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK: return DEFAULT_SHARED;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: return MOST_SHARED;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR: return MOST_SHARED + 1024;
    case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK: return 65536;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR: return 2048;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: return 2;
    case CU_DEVICE_ATTRIBUTE_CLOCK_RATE: return 1000000;
    case CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE: return 1000000;
    case CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH: return 64;
    case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING: return 1;
    case CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED: return 1;
    default: return 0;
  }
}

// An event is the moment at which it was recorded, and what its stream had been given by then.
struct Event {
  std::chrono::steady_clock::time_point at;
  order::Clock done;
  std::vector<pending::Shared> pending;
};

CUresult create_stream(CUstream* stream) {
  auto turn = take_turn();
  *stream = order::create();
  return CUDA_SUCCESS;
}

// The host waits; `wait` notes for what.
template <class F> CUresult synchronise(F wait) {
  auto turn = take_turn();
  statistics().synchronisations++;
  wait();
  return CUDA_SUCCESS;
}

}  // namespace

int current_device() { return current_context ? int(reinterpret_cast<uintptr_t>(current_context)) - 1 : 0; }

}  // namespace emulator

using namespace emulator;

extern "C" {

CUresult cuInit(unsigned) { return CUDA_SUCCESS; }
CUresult cuDriverGetVersion(int* version) { return *version = 13000, CUDA_SUCCESS; }
CUresult cuDeviceGetCount(int* count) { return *count = device_count(), CUDA_SUCCESS; }
CUresult cuDeviceGet(CUdevice* device, int ordinal) {
  *device = ordinal;
  return ordinal >= 0 && ordinal < device_count() ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}
CUresult cuDeviceGetName(char* name, int capacity, CUdevice) {
  strncpy(name, "emulated CUDA device", capacity);
  if (capacity > 0) name[capacity - 1] = 0;
  return CUDA_SUCCESS;
}
CUresult cuDeviceGetUuid_v2(CUuuid* uuid, CUdevice) { return memset(uuid, 0, sizeof *uuid), CUDA_SUCCESS; }
CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute which, CUdevice) { return *value = attribute(which), CUDA_SUCCESS; }
CUresult cuDeviceTotalMem_v2(size_t* bytes, CUdevice) { return *bytes = total_memory(), CUDA_SUCCESS; }
CUresult cuMemGetInfo_v2(size_t* free, size_t* total) {
  auto turn = take_turn();
  *total = total_memory();
  *free = *total - statistics().memory_bytes;
  return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
  *context = reinterpret_cast<CUcontext>(uintptr_t(device) + 1);
  return CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxRelease_v2(CUdevice) { return CUDA_SUCCESS; }
CUresult cuCtxSetCurrent(CUcontext context) { return current_context = context, CUDA_SUCCESS; }
CUresult cuCtxGetCurrent(CUcontext* context) { return *context = current_context, CUDA_SUCCESS; }
CUresult cuCtxDestroy_v2(CUcontext) { return CUDA_SUCCESS; }
CUresult cuCtxSynchronize() {
  return synchronise([] {
    graph::require_nothing_recording("a synchronisation");
    pending::wait_for(pending::of(nullptr));
    order::wait_for_all();
  });
}

CUresult cuStreamCreate(CUstream* stream, unsigned) { return create_stream(stream); }
CUresult cuStreamCreateWithPriority(CUstream* stream, unsigned, int) { return create_stream(stream); }
CUresult cuStreamDestroy_v2(CUstream) { return CUDA_SUCCESS; }
CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned) {
  auto turn = take_turn();
  pending::wait_for(reinterpret_cast<Event*>(event)->pending);
  order::wait(stream, reinterpret_cast<Event*>(event)->done);
  return CUDA_SUCCESS;
}
CUresult cuStreamQuery(CUstream stream) {
  auto turn = take_turn();
  if (!pending::of(stream).empty()) return CUDA_ERROR_NOT_READY;
  order::wait_on_host(order::record(stream));
  return CUDA_SUCCESS;
}
CUresult cuStreamSynchronize(CUstream stream) {
  return synchronise([&] {
    graph::require_not_recording(stream, "a synchronisation");
    pending::wait_for(pending::of(stream));
    order::wait_on_host(order::record(stream));
  });
}

CUresult cuEventCreate(CUevent* event, unsigned) { return *event = reinterpret_cast<CUevent>(new Event), CUDA_SUCCESS; }
CUresult cuEventDestroy_v2(CUevent event) { return delete reinterpret_cast<Event*>(event), CUDA_SUCCESS; }
CUresult cuEventRecord(CUevent event, CUstream stream) {
  auto turn = take_turn();
  *reinterpret_cast<Event*>(event) = {std::chrono::steady_clock::now(), order::record(stream), pending::of(stream)};
  return CUDA_SUCCESS;
}
CUresult cuEventQuery(CUevent handle) {
  auto turn = take_turn();
  auto* event = reinterpret_cast<Event*>(handle);
  if (!pending::are_done(event->pending)) return CUDA_ERROR_NOT_READY;
  order::wait_on_host(event->done);
  return CUDA_SUCCESS;
}
CUresult cuEventSynchronize(CUevent handle) {
  return synchronise([&] {
    auto* event = reinterpret_cast<Event*>(handle);
    pending::wait_for(event->pending);
    order::wait_on_host(event->done);
  });
}
CUresult cuEventElapsedTime_v2(float* milliseconds, CUevent from, CUevent to) {
  auto elapsed = reinterpret_cast<Event*>(to)->at - reinterpret_cast<Event*>(from)->at;
  *milliseconds = std::chrono::duration<float, std::milli>(elapsed).count();
  return CUDA_SUCCESS;
}

CUresult cuGetErrorName(CUresult error, const char** name) {
  switch (error) {
    case CUDA_SUCCESS: *name = "CUDA_SUCCESS"; break;
    case CUDA_ERROR_INVALID_VALUE: *name = "CUDA_ERROR_INVALID_VALUE"; break;
    case CUDA_ERROR_OUT_OF_MEMORY: *name = "CUDA_ERROR_OUT_OF_MEMORY"; break;
    case CUDA_ERROR_INVALID_DEVICE: *name = "CUDA_ERROR_INVALID_DEVICE"; break;
    case CUDA_ERROR_NOT_FOUND: *name = "CUDA_ERROR_NOT_FOUND"; break;
    case CUDA_ERROR_NOT_READY: *name = "CUDA_ERROR_NOT_READY"; break;
    case CUDA_ERROR_NOT_SUPPORTED: *name = "CUDA_ERROR_NOT_SUPPORTED"; break;
    default: *name = "CUDA_ERROR_UNKNOWN"; break;
  }
  return CUDA_SUCCESS;
}
CUresult cuGetErrorString(CUresult error, const char** text) {
  switch (error) {
    case CUDA_SUCCESS: *text = "no error"; break;
    case CUDA_ERROR_INVALID_VALUE: *text = "invalid argument"; break;
    case CUDA_ERROR_OUT_OF_MEMORY: *text = "out of memory"; break;
    case CUDA_ERROR_INVALID_DEVICE: *text = "invalid device ordinal"; break;
    case CUDA_ERROR_NOT_FOUND: *text = "named symbol not found"; break;
    case CUDA_ERROR_NOT_READY: *text = "device not ready"; break;
    case CUDA_ERROR_NOT_SUPPORTED: *text = "operation not supported by the emulated driver"; break;
    default: *text = "unknown error"; break;
  }
  return CUDA_SUCCESS;
}

}  // extern "C"
