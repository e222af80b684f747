#include "async_copy.h"

#include <cstring>
#include <vector>

#include "checks.h"
#include "report.h"
#include "scheduler.h"
#include "shared.h"

namespace emulator {
namespace {

constexpr unsigned SIZE = 16;

struct Copy {
  void* to;
  const void* from;
  unsigned bytes, group;
  char data[SIZE];  // what a GPU may have read at once
};

// Of one thread: the copies that it has not waited for, oldest first, and how many groups it has committed.
struct Copies {
  std::vector<Copy> pending;
  unsigned groups = 0;
} of_thread[1024];

void complete(const Copy& copy) {
  // A GPU may just as well have read it now.
  if (copy.bytes && memcmp(copy.data, copy.from, copy.bytes) != 0)
    fail("race", "cp.async reads %u bytes at %p, which were written before the thread waited for the copy", copy.bytes, copy.from);
  checks::end_copy(copy.to, SIZE);
  memcpy(copy.to, copy.data, SIZE);
}

}  // namespace

void require_no_copies() {
  Copies& copies = of_thread[running_thread()];
  if (!copies.pending.empty()) fail("missing wait", "the thread ends without having waited for %zu asynchronous copies", copies.pending.size());
  copies.groups = 0;
}

}  // namespace emulator

using namespace emulator;

extern "C" {

void emulated_cp_async(void* shared, const void* global, unsigned bytes) {
  if (bytes > SIZE) fail("cp.async", "copies %u bytes, expected at most %u", bytes, SIZE);
  require_shared("cp.async", shared);
  require_global("cp.async", global, bytes);
  checks::begin_copy(shared, SIZE);
  Copies& copies = of_thread[running_thread()];
  Copy copy{shared, global, bytes, copies.groups, {}};
  if (bytes) {
    checks::kernel_reads(global, bytes);
    memcpy(copy.data, global, bytes);
  }
  copies.pending.push_back(copy);
}

void emulated_cp_async_commit() { of_thread[running_thread()].groups++; }

void emulated_cp_async_wait(unsigned groups) {
  Copies& copies = of_thread[running_thread()];
  size_t completed = 0;
  while (completed < copies.pending.size() && copies.pending[completed].group + groups < copies.groups) complete(copies.pending[completed++]);
  copies.pending.erase(copies.pending.begin(), copies.pending.begin() + completed);
}

}  // extern "C"
