// Stacks that take turns on one host thread: cheap enough for one per thread of a block.
#pragma once

#include <cstddef>
#include <cstdint>

namespace emulator {

struct Fiber;

// The memory of all fibers' stacks: what a kernel does there is its own business.
struct Stacks { uintptr_t base; size_t size; };
const Stacks& fiber_stacks();

// The fiber of this number (below 1025), which will run `body` when it is continued first. `body` never returns.
Fiber* fiber(unsigned number, void (*body)());
// From the scheduler: runs the fiber until it yields.
void continue_fiber(Fiber*);
// From a fiber: back to the scheduler.
void yield_fiber();

}  // namespace emulator
