// The kernels that were compiled into this library, by name.
#pragma once

#include <string>

#include "../device/runtime.h"

namespace emulator {

// Of dynamic shared memory: without being asked for, and at most. As compute capability 9.0 has it.
constexpr int DEFAULT_SHARED = 48 * 1024, MOST_SHARED = 227 * 1024;

struct Kernel {
  std::string name, source;
  unsigned parameters;
  const EmulatedParameter* kinds;  // one a parameter
  const unsigned* sizes;           // in bytes, likewise
  void (*call)(void** arguments);
  unsigned max_dynamic_shared = DEFAULT_SHARED;  // until cuFuncSetAttribute raises it, as on a GPU
};

// The only kernel of that name; null where there is none. Two sources with one name are a fault.
Kernel* find_kernel(const std::string& name);

}  // namespace emulator
