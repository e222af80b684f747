// What the driver tells the checks. build.sh links one of three: checks_none.cpp, checks_address.cpp (for the address
// sanitizer) and checks_access.cpp (which sees every access of a kernel).
#pragma once

#include <cstddef>
#include <cstdint>

#include "shared.h"

namespace emulator::checks {

// How much device memory the check can follow.
size_t arena_bytes();

// From now on, nobody may touch these bytes of device memory; kernels may touch these, which nobody has written yet.
void forbid(uintptr_t, size_t bytes);
void allow(uintptr_t, size_t bytes);
// The following launch has so much dynamic shared memory.
void set_dynamic_shared(const DynamicShared& before, size_t bytes);

// Device memory touched by the driver itself, `what` for short. Bounds have been checked.
void reads(const char* what, uintptr_t, size_t bytes);
void writes(uintptr_t, size_t bytes);
void copies(uintptr_t to, uintptr_t from, size_t bytes);

// What the running thread has the driver do for it: an aligned read; a copy into shared memory that may write its bytes at
// any time from its beginning to its end.
void kernel_reads(const void*, size_t bytes);
void begin_copy(void* to, size_t bytes);
void end_copy(void* to, size_t bytes);

}  // namespace emulator::checks
