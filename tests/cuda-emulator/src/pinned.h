// Page-locked memory of the host. A copy from it may go on after the call that asks for it: until the host has waited for the copy, what it
// reads must neither change nor be freed. Here the copy is done within the call; what it has read is kept, and compared once the host has
// waited, or copies the same memory again. (From other memory the driver copies before it returns.)
#pragma once

#include <cuda.h>

#include <cstddef>

namespace emulator::pinned {

void* allocate(size_t bytes);
void release(void*);
// Whether all bytes lie in one such piece.
bool contains(const void*, size_t bytes);
// A copy from such memory, which is the last work of the stream.
void copied(const char* what, const void* from, size_t bytes, CUstream);
// What the host knows of streams has grown.
void waited();

}  // namespace emulator::pinned
