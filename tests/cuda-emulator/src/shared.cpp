#include "shared.h"

#include "../device/runtime.h"
#include "checks.h"
#include "report.h"

// Set by the linker: the static shared memory of all kernels (see partial-link.ld).
extern "C" {
extern char __start_emulated_shared[] __attribute__((visibility("hidden"), weak));
extern char __stop_emulated_shared[] __attribute__((visibility("hidden"), weak));
}

namespace emulator {
namespace {

constexpr size_t CAPACITY = 256 * 1024, VECTOR = 16;
alignas(1024) char memory[CAPACITY];
DynamicShared shared{memory, 0, CAPACITY};

uintptr_t require_aligned(const char* what, const void* p) {
  auto address = reinterpret_cast<uintptr_t>(p);
  if (address % VECTOR) fail("misaligned access", "%s wants 16 bytes at %#zx, which is no multiple of 16", what, address);
  return address;
}

}  // namespace

const DynamicShared& dynamic_shared() { return shared; }

void set_dynamic_shared(size_t bytes) {
  checks::set_dynamic_shared(shared, bytes);
  shared.bytes = bytes;
}

Range static_shared() {
  return {reinterpret_cast<uintptr_t>(__start_emulated_shared), size_t(__stop_emulated_shared - __start_emulated_shared)};
}

void require_shared(const char* what, const void* p) {
  uintptr_t address = require_aligned(what, p);
  size_t at = address - reinterpret_cast<uintptr_t>(memory);
  if (at < CAPACITY && at + VECTOR > shared.bytes)
    fail("out of bounds", "%s wants 16 bytes at byte %zu of %zu bytes of dynamic shared memory", what, at, shared.bytes);
  if (at >= CAPACITY && !static_shared().contains(address)) fail("out of bounds", "%s wants 16 bytes at %#zx, which is no shared memory", what, address);
}

void require_global(const char* what, const void* p, size_t bytes) {
  uintptr_t address = require_aligned(what, p);
  if (bytes && !arena().contains(address)) fail("out of bounds", "%s wants global memory at %#zx, which is none", what, address);
}

}  // namespace emulator

extern "C" void* emulated_dynamic_shared() { return emulator::memory; }
