// Work that a stream records instead of doing it, for graphs.
#pragma once

#include <cuda.h>

#include <functional>

namespace emulator::graph {

// Whether the stream records: then `work` is kept for its graph, and is not to be done now.
bool records(CUstream stream, std::function<void()> work);

// What a stream must not do while it records; `what` names it in the message.
void require_not_recording(CUstream stream, const char* what);
// The same for all streams.
void require_nothing_recording(const char* what);

// Memory that is allocated and freed while a stream records belongs to the graph. `frees` is whether it is the graph that frees it.
void allocated(CUstream stream, CUdeviceptr address);
bool frees(CUstream stream, CUdeviceptr address);

}  // namespace emulator::graph
