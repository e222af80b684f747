// The order of work on different streams, as far as the program has asked for it: a use of device memory that nothing orders behind
// an earlier one on another stream ends the process, though here the work was done in the order of the calls.
//
// Every stream has a vector clock: how far each stream's work has come, as far as this one has waited for it. What the host has
// waited for is known to all streams, whichever host thread waited. An allocation is used as a whole.
#pragma once

#include <cuda.h>

#include <cstdint>
#include <vector>

namespace emulator::order {

// How many pieces of work of each stream are known to be done.
using Clock = std::vector<unsigned long>;

struct Use {
  uintptr_t address;
  bool writes;
};

CUstream create();

// The next piece of work of a stream, `what` for short. Addresses outside of device memory are passed over.
void work(const char* what, CUstream, const std::vector<Use>&);
// Memory that is there from this point of a stream on, and until that one.
void allocated(uintptr_t, CUstream);
void freed(uintptr_t, CUstream);
// Memory that is there for all, and that is gone for all.
void forget(uintptr_t);

// What has been given to a stream so far; and that a stream, or the host, waits for it.
Clock record(CUstream);
void wait(CUstream, const Clock&);
void wait_on_host(const Clock&);
void wait_for_all();
// Whether the host has waited for all of it.
bool is_known_to_host(const Clock&);

}  // namespace emulator::order
