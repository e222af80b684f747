#include "order.h"

#include <algorithm>
#include <map>
#include <string>

#include "memory.h"
#include "pending.h"
#include "pinned.h"
#include "report.h"

namespace emulator::order {
namespace {

struct Moment {
  size_t stream;
  unsigned long count;
  std::string what;
};

// The last write of an allocation, and the reads since.
struct History {
  std::vector<Moment> writes, reads;
};

std::vector<Clock>& clocks() {
  static auto* all = new std::vector<Clock>;  // never destroyed: programs use the device until the very end
  return *all;
}
Clock& known_to_host() {
  static auto* clock = new Clock;
  return *clock;
}
std::map<uintptr_t, History>& histories() {
  static auto* all = new std::map<uintptr_t, History>;
  return *all;
}

unsigned long at(const Clock& clock, size_t stream) { return stream < clock.size() ? clock[stream] : 0; }

void merge(Clock& into, const Clock& from) {
  into.resize(std::max(into.size(), from.size()));
  for (size_t i = 0; i < from.size(); i++) into[i] = std::max(into[i], from[i]);
}

size_t add_stream() {
  clocks().emplace_back();
  return clocks().size() - 1;
}

// A handle that was made by `create` is its number and an offset; the default streams have numbers of their own.
constexpr uintptr_t FIRST_HANDLE = 16;

size_t number(CUstream stream) {
  static const size_t legacy = add_stream();
  if (stream == CU_STREAM_PER_THREAD) {
    thread_local const size_t own = add_stream();
    return own;
  }
  auto handle = reinterpret_cast<uintptr_t>(stream);
  return handle < FIRST_HANDLE ? legacy : handle - FIRST_HANDLE;
}

std::string name(size_t stream) { return "stream " + std::to_string(stream); }

void require_order(const char* what, size_t stream, bool writes, const std::vector<Moment>& earlier, bool wrote, size_t bytes) {
  for (const Moment& moment : earlier) {
    if (moment.stream == stream || moment.count <= at(clocks()[stream], moment.stream)) continue;
    fail("unordered streams", "`%s` on %s %s an allocation of %zu bytes that `%s` on %s has %s; neither an event nor the host orders them", what,
         name(stream).c_str(), writes ? "writes" : "reads", bytes, moment.what.c_str(), name(moment.stream).c_str(), wrote ? "written" : "read");
  }
}

// The next piece of work of a stream begins.
Moment begin(const char* what, CUstream handle) {
  pending::wait_for(pending::of(handle));
  size_t stream = number(handle);
  Clock& clock = clocks()[stream];
  merge(clock, known_to_host());
  clock.resize(std::max(clock.size(), stream + 1));
  return {stream, ++clock[stream], what};
}

void use(const char* what, const Moment& now, const Use& use) {
  Range allocation = allocation_near(use.address);
  if (!allocation.contains(use.address)) return;
  History& history = histories()[allocation.base];
  require_order(what, now.stream, use.writes, history.writes, true, allocation.size);
  if (use.writes) {
    require_order(what, now.stream, true, history.reads, false, allocation.size);
    history = {{now}, {}};
    return;
  }
  auto own = [&](const Moment& moment) { return moment.stream == now.stream; };
  auto& reads = history.reads;
  reads.erase(std::remove_if(reads.begin(), reads.end(), own), reads.end());
  reads.push_back(now);
}

}  // namespace

CUstream create() { return reinterpret_cast<CUstream>(add_stream() + FIRST_HANDLE); }

void work(const char* what, CUstream stream, const std::vector<Use>& uses) {
  Moment now = begin(what, stream);
  // Reads first: what a piece of work itself writes is ordered behind them.
  for (const Use& one : uses)
    if (!one.writes) use(what, now, one);
  for (const Use& one : uses)
    if (one.writes) use(what, now, one);
}

void allocated(uintptr_t address, CUstream stream) { histories()[address] = {{begin("cuMemAllocAsync", stream)}, {}}; }

void freed(uintptr_t address, CUstream stream) {
  work("cuMemFreeAsync", stream, {{address, true}});
  forget(address);
}

void forget(uintptr_t address) { histories().erase(address); }

Clock record(CUstream stream) {
  Clock& clock = clocks()[number(stream)];
  merge(clock, known_to_host());
  return clock;
}

void wait(CUstream stream, const Clock& clock) { merge(clocks()[number(stream)], clock); }
void wait_on_host(const Clock& clock) {
  merge(known_to_host(), clock);
  pinned::waited();
}
void wait_for_all() {
  for (const Clock& clock : clocks()) wait_on_host(clock);
}

bool is_known_to_host(const Clock& clock) {
  for (size_t i = 0; i < clock.size(); i++)
    if (clock[i] > at(known_to_host(), i)) return false;
  return true;
}

}  // namespace emulator::order
