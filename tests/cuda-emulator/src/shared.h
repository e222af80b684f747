// Shared memory: the dynamic one, and the static variables of all kernels.
#pragma once

#include <cstddef>
#include <cstdint>

#include "memory.h"

namespace emulator {

struct DynamicShared { char* memory; size_t bytes, capacity; };
const DynamicShared& dynamic_shared();
// For the following launch.
void set_dynamic_shared(size_t bytes);

Range static_shared();

// Ends the process unless the 16 bytes, which `what` wants, are aligned and in shared memory.
void require_shared(const char* what, const void*);
// The same for global memory, of which `bytes` are read; 0 need no memory.
void require_global(const char* what, const void*, size_t bytes);

}  // namespace emulator
