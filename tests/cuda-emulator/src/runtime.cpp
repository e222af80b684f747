// libcudart: what the start-up code of statically linked CUDA objects calls. Launches through it are not emulated.
#include "report.h"

extern "C" {

int cudaGetDevice(int* device) { return *device = 0; }
int cudaFuncSetAttribute(const void*, int, int) { return 0; }
const char* cudaGetErrorString(int) { return "an error of the emulated CUDA runtime"; }
int cudaGetLastError() { return 0; }
void** __cudaRegisterFatBinary(void*) {
  static void* handle;
  return &handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
void __cudaRegisterFunction(...) {}
void __cudaRegisterVar(...) {}
unsigned __cudaPushCallConfiguration(...) { return 0; }
int __cudaPopCallConfiguration(...) { return 0; }
int __cudaGetKernel(...) { return 0; }
int __cudaLaunchKernel(...) { emulator::fail("not emulated", "a launch through the runtime API"); }
int __cudaLaunchKernel_ptsz(...) { emulator::fail("not emulated", "a launch through the runtime API"); }

}  // extern "C"
