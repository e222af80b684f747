// The address sanitizer is told which bytes of device memory and of dynamic shared memory are nobody's.
#include <sanitizer/asan_interface.h>

#include "checks.h"

namespace emulator::checks {

// The sanitizer notes every eighth byte, and all of the range is forbidden at first.
size_t arena_bytes() { return size_t{2} << 30; }
void forbid(uintptr_t address, size_t bytes) { __asan_poison_memory_region(reinterpret_cast<void*>(address), bytes); }
void allow(uintptr_t address, size_t bytes) { __asan_unpoison_memory_region(reinterpret_cast<void*>(address), bytes); }
void set_dynamic_shared(const DynamicShared& shared, size_t bytes) {
  __asan_unpoison_memory_region(shared.memory, bytes);
  __asan_poison_memory_region(shared.memory + bytes, shared.capacity - bytes);
}
void reads(const char*, uintptr_t, size_t) {}
void writes(uintptr_t, size_t) {}
void copies(uintptr_t, uintptr_t, size_t) {}

}  // namespace emulator::checks

extern "C" void emulated_atomic_access(const void*, unsigned) {}
