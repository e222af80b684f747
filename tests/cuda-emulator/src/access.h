// Who touched a byte last, and whether that can collide with a touch of the running thread.
#pragma once

#include <cstdint>

#include "scheduler.h"

namespace emulator {

// The time of an access above 16 bits that say by whom. Times count launches, blocks and barriers (see scheduler.h).
using Access = uint64_t;
constexpr Access THREAD = 0x3ff, ATOMIC = 1 << 10, SEVERAL_IN_WARP = 1 << 11, SEVERAL_WARPS = 1 << 12, SEVERAL_BLOCKS = 1 << 13;
constexpr Access COPYING = 1 << 14;  // a write that an asynchronous copy has yet to make
constexpr Access FORBIDDEN = 0, NEVER = 1;  // in place of a write: nobody's byte, or one that was never written

// Readers since the last write that are not known to be over: one, or a class of several.
struct Byte { Access write = FORBIDDEN, read = 0; };

inline unsigned long time_of(Access a) { return a >> 16; }
inline unsigned thread_of(Access a) { return a & THREAD; }
inline Access access_now(unsigned thread, Access flags = 0) { return the_time.now << 16 | flags | thread; }

// Whether the access is over for certain before `thread` goes on: another launch's, the thread's own, or one before a
// barrier that both have passed.
inline bool is_over(Access a, unsigned thread) {
  unsigned long time = time_of(a);
  if (time < the_time.launch_start) return true;
  if (a & SEVERAL_BLOCKS || time < the_time.block_start) return false;
  if (time < the_time.block_barrier) return true;
  if (a & SEVERAL_WARPS || thread_of(a) / 32 != thread / 32) return false;
  return time < the_time.warp_barrier[thread / 32] || (!(a & SEVERAL_IN_WARP) && thread_of(a) == thread);
}

// The reader `a`, or readers, with `thread` added.
inline Access add_reader(Access a, unsigned thread) {
  unsigned long time = time_of(a);
  Access now = access_now(thread);
  if (time < the_time.launch_start) return now;
  if (a & SEVERAL_BLOCKS || time < the_time.block_start) return now | SEVERAL_BLOCKS;
  if (time < the_time.block_barrier) return now;
  if (a & SEVERAL_WARPS || thread_of(a) / 32 != thread / 32) return now | SEVERAL_WARPS;
  if (time < the_time.warp_barrier[thread / 32]) return now;
  return a & SEVERAL_IN_WARP || thread_of(a) != thread ? now | SEVERAL_IN_WARP : now;
}

}  // namespace emulator
