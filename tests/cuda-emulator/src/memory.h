// Device memory: one range of addresses, handed out in pieces with room between them that belongs to nobody.
#pragma once

#include <cstddef>
#include <cstdint>

namespace emulator {

struct Range {
  uintptr_t base;
  size_t size;
  bool contains(uintptr_t address) const { return address - base < size; }
};

// All addresses that can be device memory.
const Range& arena();
// What the device says it has: EMULATED_CUDA_MEMORY_MIB, else all of the arena.
size_t total_memory();

// 0 where the device has no such piece left.
uintptr_t allocate(size_t bytes);
void release(uintptr_t);

// The allocation that contains the address, or else the last one that begins below it; size 0 where there is none.
Range allocation_near(uintptr_t);

// Ends the process unless all bytes lie in one allocation. `what` wants them, for example "cuMemsetD8Async".
void require_allocated(const char* what, uintptr_t, size_t bytes);

}  // namespace emulator
