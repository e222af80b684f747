// Runs a grid: block after block, the threads of a block one at a time, in order, each until a barrier or its end.
#pragma once

#include <cstddef>

#include "kernels.h"

namespace emulator {

// Where the barriers are in time, for the race check. A clock counts launches, blocks and barriers.
struct Time {
  unsigned long now, launch_start, block_start, block_barrier, warp_barrier[32];
};
extern Time the_time;

// Sizes are checked by the caller. Returns when the last thread of the last block has ended.
void launch(Kernel*, EmulatedIndex grid, EmulatedIndex block, unsigned dynamic_shared_bytes, void** arguments);

// Null outside of kernels.
const Kernel* running_kernel();
// The number of the running thread in its block.
unsigned running_thread();

// Waits for the lanes of the running thread's warp that have not ended; orders no memory.
void meet_warp();

}  // namespace emulator
