// libcudart: candle links it for its quantised kernels, which start through it. The start-up code of such objects runs; what
// would use the device is not emulated and says so.
#include "report.h"

namespace {
constexpr int NOT_SUPPORTED = 801;
}

#define NOT_EMULATED(function) \
  int function(...) { return NOT_SUPPORTED; }

extern "C" {

void** __cudaRegisterFatBinary(void*) {
  static void* handle;
  return &handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
void __cudaRegisterFunction(...) {}
void __cudaRegisterVar(...) {}

int cudaGetDevice(int* device) { return *device = 0; }
int cudaGetLastError() { return 0; }
int cudaPeekAtLastError() { return 0; }
const char* cudaGetErrorName(int) { return "cudaErrorNotSupported"; }
const char* cudaGetErrorString(int) { return "not supported by the emulated driver"; }
NOT_EMULATED(cudaDeviceGetAttribute)
NOT_EMULATED(cudaFree)
NOT_EMULATED(cudaFreeAsync)
NOT_EMULATED(cudaFreeAsync_ptsz)
NOT_EMULATED(cudaFuncGetAttributes)
NOT_EMULATED(cudaFuncSetAttribute)
NOT_EMULATED(cudaGetDeviceCount)
NOT_EMULATED(cudaMalloc)
NOT_EMULATED(cudaMallocAsync)
NOT_EMULATED(cudaMallocAsync_ptsz)
NOT_EMULATED(cudaMemsetAsync)
NOT_EMULATED(cudaMemsetAsync_ptsz)
NOT_EMULATED(cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags)
NOT_EMULATED(cudaSetDevice)
NOT_EMULATED(cudaStreamSynchronize)
NOT_EMULATED(cudaStreamSynchronize_ptsz)
NOT_EMULATED(__cudaGetKernel)
NOT_EMULATED(__cudaPopCallConfiguration)
NOT_EMULATED(__cudaPushCallConfiguration)
int __cudaLaunchKernel(...) { emulator::fail("not emulated", "a launch through the runtime library"); }
int __cudaLaunchKernel_ptsz(...) { emulator::fail("not emulated", "a launch through the runtime library"); }

}  // extern "C"
