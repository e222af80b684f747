#include "memory.h"

#include <sys/mman.h>

#include <cstdlib>
#include <map>

#include "checks.h"
#include "report.h"
#include "statistics.h"

namespace emulator {
namespace {

constexpr size_t ALIGNMENT = 256, RED_ZONE = 256;

std::map<uintptr_t, size_t> allocations;  // by address: bytes asked for
std::map<uintptr_t, size_t> holes;        // by address: bytes that nobody has, red zones of the past included

size_t piece(size_t bytes) { return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT + RED_ZONE; }

Range map_arena() {
  size_t size = checks::arena_bytes();
  void* base = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) fail("emulator", "cannot reserve %zu bytes of addresses", size);
  Range range{reinterpret_cast<uintptr_t>(base), size};
  // A red zone comes first, so that an access before the first allocation is one outside of all.
  holes[range.base + RED_ZONE] = range.size - RED_ZONE;
  return range;
}

void add_hole(uintptr_t base, size_t size) {
  auto next = holes.lower_bound(base);
  if (next != holes.end() && base + size == next->first) {
    size += next->second;
    next = holes.erase(next);
  }
  if (next != holes.begin()) {
    auto previous = std::prev(next);
    if (previous->first + previous->second == base) {
      previous->second += size;
      return;
    }
  }
  holes[base] = size;
}

}  // namespace

const Range& arena() {
  static const Range range = map_arena();
  return range;
}

size_t total_memory() {
  static const size_t total = [] {
    const char* mib = getenv("EMULATED_CUDA_MEMORY_MIB");
    size_t bytes = mib ? strtoull(mib, nullptr, 10) << 20 : arena().size;
    if (bytes == 0 || bytes > arena().size) fail("settings", "EMULATED_CUDA_MEMORY_MIB=`%s` is not a number from 1 to %zu", mib, arena().size >> 20);
    return bytes;
  }();
  return total;
}

uintptr_t allocate(size_t bytes) {
  static const bool fresh = (checks::forbid(arena().base, arena().size), true);  // until it is handed out
  (void)fresh;
  if (bytes > total_memory() - statistics().memory_bytes) return 0;
  size_t size = piece(bytes);
  for (auto hole = holes.begin(); hole != holes.end(); ++hole) {
    auto [base, room] = *hole;
    if (room < size) continue;
    holes.erase(hole);
    if (room > size) holes[base + size] = room - size;
    allocations[base] = bytes;
    checks::allow(base, bytes);
    statistics().allocated(bytes);
    return base;
  }
  return 0;
}

void release(uintptr_t address) {
  auto found = allocations.find(address);
  if (found == allocations.end()) fail("free", "%#zx is no allocation, or was freed before", address);
  size_t bytes = found->second;
  allocations.erase(found);
  checks::forbid(address, bytes);
  add_hole(address, piece(bytes));
  statistics().freed(bytes);
}

Range allocation_near(uintptr_t address) {
  auto next = allocations.upper_bound(address);
  if (next == allocations.begin()) return {0, 0};
  --next;
  return {next->first, next->second};
}

void require_allocated(const char* what, uintptr_t address, size_t bytes) {
  if (bytes == 0) return;
  Range near = allocation_near(address);
  if (near.contains(address) && bytes <= near.base + near.size - address) return;
  if (near.size == 0) fail("out of bounds", "%s wants %zu bytes at %#zx, which is no device memory", what, bytes, address);
  fail("out of bounds", "%s wants %zu bytes at byte %zu of an allocation of %zu bytes", what, bytes, address - near.base, near.size);
}

}  // namespace emulator
