#include "pinned.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <vector>

#include "order.h"
#include "report.h"

namespace emulator::pinned {
namespace {

struct Copy {
  const char* what;
  const char* from;
  std::vector<char> read;
  order::Clock done;

  bool touches(const char* begin, size_t bytes) const { return begin < from + read.size() && from < begin + bytes; }
};

std::map<const char*, size_t>& pieces() {
  static auto* all = new std::map<const char*, size_t>;  // never destroyed: programs use the device until the very end
  return *all;
}
// Copies that the host has not waited for.
std::vector<Copy>& pending() {
  static auto* all = new std::vector<Copy>;
  return *all;
}

void require_unchanged(const Copy& copy) {
  auto [now, then] = std::mismatch(copy.from, copy.from + copy.read.size(), copy.read.begin());
  if (then == copy.read.end()) return;
  fail("page-locked memory", "byte %zu of %zu has changed before the host waited for `%s` from there", size_t(now - copy.from), copy.read.size(),
       copy.what);
}

}  // namespace

void* allocate(size_t bytes) {
  auto* piece = static_cast<char*>(malloc(bytes ? bytes : 1));
  if (piece) pieces()[piece] = bytes;
  return piece;
}

void release(void* memory) {
  auto piece = pieces().find(static_cast<char*>(memory));
  if (piece == pieces().end()) fail("free", "%p is no page-locked memory, or was freed before", memory);
  for (const Copy& copy : pending())
    if (copy.touches(piece->first, piece->second)) fail("page-locked memory", "it is freed before the host has waited for `%s` from there", copy.what);
  pieces().erase(piece);
  free(memory);
}

bool contains(const void* memory, size_t bytes) {
  auto* begin = static_cast<const char*>(memory);
  auto next = pieces().upper_bound(begin);
  if (next == pieces().begin()) return false;
  auto [piece, size] = *std::prev(next);
  return size_t(begin - piece) < size && bytes <= size - size_t(begin - piece);
}

void copied(const char* what, const void* memory, size_t bytes, CUstream stream) {
  auto* from = static_cast<const char*>(memory);
  for (const Copy& copy : pending())
    if (copy.touches(from, bytes)) require_unchanged(copy);
  pending().push_back({what, from, std::vector<char>(from, from + bytes), order::record(stream)});
}

void waited() {
  auto& all = pending();
  auto is_done = [](const Copy& copy) {
    if (!order::is_known_to_host(copy.done)) return false;
    require_unchanged(copy);
    return true;
  };
  all.erase(std::remove_if(all.begin(), all.end(), is_done), all.end());
}

}  // namespace emulator::pinned
