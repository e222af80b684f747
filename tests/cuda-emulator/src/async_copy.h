// Asynchronous copies into shared memory (cp.async): a thread's own, in groups, made when it waits for them.
#pragma once

namespace emulator {

// For a thread that ends: whatever it copies must have been waited for.
void require_no_copies();

}  // namespace emulator
