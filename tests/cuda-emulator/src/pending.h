// Work of a stream that is not done when the call that asks for it returns: collectives, which wait for other processes. Whatever else the
// stream is given waits for it, on the host; only events and queries do not.
#pragma once

#include <cuda.h>

#include <memory>
#include <vector>

namespace emulator::pending {

// One piece of such work. Whoever does it calls `finish` when it has its turn (see driver.h).
struct Work {
  bool done = false;
};
using Shared = std::shared_ptr<Work>;

void add(CUstream, Shared);
void finish(Work&);

// What a stream has not done yet; of all streams for the legacy default one.
std::vector<Shared> of(CUstream);
bool are_done(const std::vector<Shared>&);

// The caller has its turn, which others take while this waits.
void wait_for(const std::vector<Shared>&);

}  // namespace emulator::pending
