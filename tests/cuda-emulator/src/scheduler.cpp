#include "scheduler.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "async_copy.h"
#include "fiber.h"
#include "report.h"
#include "shared.h"

EmulatedIndex emulated_thread, emulated_block, emulated_block_dim, emulated_grid_dim;

namespace emulator {

Time the_time{1, 0, 0, 0, {}};

namespace {

enum class State { unstarted, ready, at_block_barrier, at_warp_barrier, ended };

struct Thread {
  State state;
  EmulatedIndex index;
  Fiber* fiber;       // while it waits, or is ready to go on
  unsigned mask;      // of the warp barrier it waits at
  bool orders;        // whether that barrier orders memory
  const char* file;   // of the block barrier it waits at
  int line;
};

Kernel* kernel = nullptr;
void** arguments;
Thread threads[1024];
unsigned thread_count, unstarted, running;
unsigned votes, votes_so_far;
std::vector<Fiber*> idle_fibers;
Fiber* active;
unsigned fiber_count = 0;
alignas(16) char lane_slots[1024][16];

// The thread whose index a kernel sees.
void run_as(unsigned t) {
  running = t;
  emulated_thread = threads[t].index;
}

// What a fiber does for ever: threads that have not started run on it one after the other, so a kernel without barriers
// is a plain loop. At a barrier the fiber stays with the thread that waits, and another fiber takes the rest.
void work() {
  for (;;) {
    while (unstarted < thread_count) {
      Thread& t = threads[unstarted];
      t.state = State::ready;
      t.fiber = active;
      run_as(unstarted++);
      kernel->call(arguments);
      require_no_copies();
      threads[running].state = State::ended;
    }
    idle_fibers.push_back(active);
    yield_fiber();
  }
}

void resume(Fiber* f) {
  active = f;
  continue_fiber(f);
}

Fiber* take_idle_fiber() {
  if (idle_fibers.empty()) return fiber(fiber_count++, work);
  Fiber* f = idle_fibers.back();
  idle_fibers.pop_back();
  return f;
}

void wait(State at) {
  threads[running].state = at;
  yield_fiber();
}

void wait_for_warp(unsigned mask, bool orders) {
  threads[running].mask = mask;
  threads[running].orders = orders;
  wait(State::at_warp_barrier);
}

void prepare_block() {
  the_time.block_start = the_time.block_barrier = ++the_time.now;
  for (auto& time : the_time.warp_barrier) time = the_time.now;
  for (unsigned t = 0; t < thread_count; t++) {
    const EmulatedIndex& d = emulated_block_dim;
    threads[t] = {State::unstarted, {t % d.x, t / d.x % d.y, t / (d.x * d.y)}, nullptr, 0, false, nullptr, 0};
  }
  // Lanes that a short last warp does not have show zeros.
  memset(lane_slots[thread_count & ~31u], 0, thread_count % 32 ? 32 * sizeof lane_slots[0] : 0);
  unstarted = votes_so_far = 0;
}

// Lets the lanes go on that wait with all others of their mask. Lanes that have ended are not waited for.
bool release_warp(unsigned first) {
  bool released = false;
  unsigned end = std::min(first + 32, thread_count);
  for (unsigned t = first; t < end; t++) {
    if (threads[t].state != State::at_warp_barrier) continue;
    unsigned mask = threads[t].mask;
    auto takes_part = [&](unsigned other) { return mask >> (other - first) & 1; };
    bool complete = true;
    for (unsigned other = first; other < end && complete; other++)
      if (takes_part(other) && threads[other].state != State::ended)
        complete = threads[other].state == State::at_warp_barrier && threads[other].mask == mask;
    if (!complete) continue;
    for (unsigned other = first; other < end; other++)
      if (takes_part(other) && threads[other].state == State::at_warp_barrier) threads[other].state = State::ready;
    if (threads[t].orders) the_time.warp_barrier[first / 32] = ++the_time.now;
    released = true;
  }
  return released;
}

std::string describe(const Thread& t) {
  char text[400];
  const EmulatedIndex& i = t.index;
  if (t.state == State::at_warp_barrier)
    snprintf(text, sizeof text, "thread (%u, %u, %u) waits for the lanes 0x%08x of its warp", i.x, i.y, i.z, t.mask);
  else if (t.state == State::at_block_barrier)
    snprintf(text, sizeof text, "thread (%u, %u, %u) waits at the barrier of %s:%d", i.x, i.y, i.z, t.file, t.line);
  else
    snprintf(text, sizeof text, "thread (%u, %u, %u) has ended", i.x, i.y, i.z);
  return text;
}

// Two threads that cannot both go on.
[[noreturn]] void fail_divergence(const Thread& a, const Thread& b) {
  run_as(&a - threads);
  fail("barrier divergence", "%s, but %s", describe(a).c_str(), describe(b).c_str());
}

// Lets the block go on when all threads that have not ended are at one and the same barrier.
bool release_block() {
  const Thread* first = nullptr;
  for (unsigned t = 0; t < thread_count; t++) {
    if (threads[t].state == State::ended) continue;
    if (threads[t].state != State::at_block_barrier) return false;
    if (!first) first = &threads[t];
    if (threads[t].line != first->line || strcmp(threads[t].file, first->file) != 0) fail_divergence(*first, threads[t]);
  }
  for (unsigned t = 0; t < thread_count; t++)
    if (threads[t].state == State::at_block_barrier) threads[t].state = State::ready;
  the_time.block_barrier = ++the_time.now;
  votes = votes_so_far;
  votes_so_far = 0;
  return true;
}

[[noreturn]] void fail_stuck() {
  const Thread *first = nullptr, *other = nullptr;
  for (unsigned t = 0; t < thread_count; t++) {
    const Thread& thread = threads[t];
    if (thread.state == State::ended) continue;
    if (!first) first = &thread;
    if (!other && (thread.state != first->state || thread.mask != first->mask)) other = &thread;
  }
  // All wait alike, so what they wait for has ended or will never come.
  fail_divergence(*first, other ? *other : *first);
}

bool all_ended() {
  for (unsigned t = 0; t < thread_count; t++)
    if (threads[t].state != State::ended) return false;
  return true;
}

void run_block() {
  prepare_block();
  for (;;) {
    for (unsigned t = 0; t < thread_count; t++) {
      if (threads[t].state == State::unstarted) {
        resume(take_idle_fiber());
      } else if (threads[t].state == State::ready) {
        run_as(t);
        resume(threads[t].fiber);
      }
    }
    if (all_ended()) return;
    bool released = false;
    for (unsigned first = 0; first < thread_count; first += 32) released |= release_warp(first);
    if (!released && !release_block()) fail_stuck();
  }
}

}  // namespace

const Kernel* running_kernel() { return kernel; }
unsigned running_thread() { return running; }
void meet_warp() { wait_for_warp(~0u, false); }

void launch(Kernel* k, EmulatedIndex grid, EmulatedIndex block, unsigned dynamic_shared_bytes, void** values) {
  kernel = k;
  arguments = values;
  emulated_grid_dim = grid;
  emulated_block_dim = block;
  thread_count = block.x * block.y * block.z;
  set_dynamic_shared(dynamic_shared_bytes);
  the_time.launch_start = ++the_time.now;
  for (unsigned z = 0; z < grid.z; z++)
    for (unsigned y = 0; y < grid.y; y++)
      for (unsigned x = 0; x < grid.x; x++) {
        emulated_block = {x, y, z};
        run_block();
      }
  kernel = nullptr;
}

}  // namespace emulator

using namespace emulator;

extern "C" {

unsigned emulated_block_barrier(bool vote, const char* file, int line) {
  votes_so_far += vote;
  threads[running].file = file;
  threads[running].line = line;
  wait(State::at_block_barrier);
  return votes;
}

void emulated_warp_barrier(unsigned mask) {
  if (!(mask >> running % 32 & 1)) fail("warp barrier", "the mask 0x%08x does not name the thread's own lane %u", mask, running % 32);
  wait_for_warp(mask, true);
}

void* emulated_lane_slot(unsigned mask, unsigned lane) {
  unsigned t = (running & ~31u) + lane;
  if (!(mask >> lane & 1)) fail("shuffle", "the mask 0x%08x does not name lane %u, whose value is asked for", mask, lane);
  if (t < thread_count && threads[t].state == State::ended) fail("shuffle", "lane %u, whose value is asked for, has ended", lane);
  return lane_slots[t];
}

bool emulated_lane_exists(unsigned lane) { return (running & ~31u) + lane < thread_count; }

void emulated_trap(const char* what) { fail("trap", "%s", what); }

}  // extern "C"
