// The address sanitizer is told which bytes of device memory and of dynamic shared memory are nobody's.
#include <sanitizer/asan_interface.h>

#include "checks.h"
#include "report.h"

namespace emulator::checks {
namespace {

void require_accessible(const char* verb, const void* p, size_t bytes) {
  if (!__asan_region_is_poisoned(const_cast<void*>(p), bytes)) return;
  fail("out of bounds", "%s %zu bytes at %p, which are beyond an array or the destination of an asynchronous copy", verb, bytes, p);
}

}  // namespace

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
void kernel_reads(const void* from, size_t bytes) { require_accessible("reads", from, bytes); }
void begin_copy(void* to, size_t bytes) {
  require_accessible("copies to", to, bytes);
  __asan_poison_memory_region(to, bytes);
}
void end_copy(void* to, size_t bytes) { __asan_unpoison_memory_region(to, bytes); }

}  // namespace emulator::checks

extern "C" void emulated_atomic_access(const void*, unsigned) {}
