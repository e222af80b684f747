// Sees every access of a kernel: bounds, alignment, reads of what was never written, races. The compiler's thread
// sanitizer calls a function before each access, the one of undefined behaviour for each misaligned one; here these functions are ours, and its own library is not linked.
#include "checks.h"

#include <sys/mman.h>

#include <algorithm>
#include <string>
#include <vector>

#include "access.h"
#include "fiber.h"
#include "memory.h"
#include "report.h"

// Set by the linker: this library.
extern "C" {
extern char __ehdr_start[] __attribute__((visibility("hidden")));
extern char _end[] __attribute__((visibility("hidden")));
}

namespace emulator {
namespace {

enum Kind { READ, WRITE, UPDATE };  // an update is atomic
constexpr const char* VERB[] = {"reads", "writes", "updates"};
enum class Space { global, shared };

uintptr_t address_of(const char* p) { return reinterpret_cast<uintptr_t>(p); }

// A byte of the arena has its notes at the same place of another mapping, whose untouched pages cost nothing.
Byte* global_bytes(uintptr_t address) {
  static Byte* const bytes = [] {
    void* base = mmap(nullptr, arena().size * sizeof(Byte), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) fail("emulator", "cannot reserve addresses for the notes of the access checks");
    return static_cast<Byte*>(base);
  }();
  return bytes + (address - arena().base);
}

Byte* static_shared_bytes(uintptr_t address) {
  static std::vector<Byte> bytes(static_shared().size);
  return bytes.data() + (address - static_shared().base);
}

Byte* dynamic_shared_bytes(uintptr_t address) {
  static std::vector<Byte> bytes(dynamic_shared().capacity);
  return bytes.data() + (address - address_of(dynamic_shared().memory));
}

Byte* shared_bytes(uintptr_t address) { return static_shared().contains(address) ? static_shared_bytes(address) : dynamic_shared_bytes(address); }

std::string place(uintptr_t address) {
  auto at = [](size_t byte, const std::string& of) { return "byte " + std::to_string(byte) + " of " + of; };
  if (static_shared().contains(address)) return at(address - static_shared().base, "the static shared memory");
  const DynamicShared& shared = dynamic_shared();
  if (address - address_of(shared.memory) < shared.capacity)
    return at(address - address_of(shared.memory), std::to_string(shared.bytes) + " bytes of dynamic shared memory");
  Range near = allocation_near(address);
  if (arena().contains(address) && near.size) return at(address - near.base, "an allocation of " + std::to_string(near.size) + " bytes");
  char text[64];
  snprintf(text, sizeof text, "address %#zx, which is no memory of the device", address);
  return text;
}

[[noreturn]] void fail_access(const char* kind, Kind access, size_t bytes, uintptr_t byte, const std::string& why) {
  fail(kind, "%s %zu bytes, with %s%s", VERB[access], bytes, place(byte).c_str(), why.c_str());
}

std::string name_of_thread(unsigned t) {
  const EmulatedIndex& d = emulated_block_dim;
  return "thread (" + std::to_string(t % d.x) + ", " + std::to_string(t / d.x % d.y) + ", " + std::to_string(t / (d.x * d.y)) + ")";
}

[[noreturn]] void fail_race(Kind access, size_t bytes, uintptr_t byte, Access other, const char* did) {
  std::string who = name_of_thread(thread_of(other));
  if (time_of(other) < the_time.block_start || other & SEVERAL_BLOCKS) who = "another block of the launch";
  else if (other & (SEVERAL_IN_WARP | SEVERAL_WARPS)) who = "several threads";
  fail_access("race", access, bytes, byte, ", which " + who + " " + did + " with no barrier between");
}

template <Space space> void check(Kind kind, Byte& note, unsigned thread, size_t bytes, uintptr_t address) {
  bool mine = space == Space::global || time_of(note.write) >= the_time.block_start;  // else another block's: gone
  if (space == Space::global && note.write == FORBIDDEN) fail_access("out of bounds", kind, bytes, address, "");
  if (space == Space::shared && mine && note.write & COPYING)
    fail_access("missing wait", kind, bytes, address, ", which an asynchronous copy of " + name_of_thread(thread_of(note.write)) + " may still write");
  if (kind != WRITE && (note.write == NEVER || !mine)) fail_access("uninitialised read", kind, bytes, address, ", which was never written");
  if (mine && !(kind == UPDATE && note.write & ATOMIC) && !is_over(note.write, thread)) fail_race(kind, bytes, address, note.write, "writes");
  if (kind == READ) {
    note.read = space == Space::shared && time_of(note.read) < the_time.block_start ? access_now(thread) : add_reader(note.read, thread);
    return;
  }
  bool read_here = space == Space::global || time_of(note.read) >= the_time.block_start;
  if (read_here && !is_over(note.read, thread)) fail_race(kind, bytes, address, note.read, "reads");
  note.write = access_now(thread, kind == UPDATE ? ATOMIC : 0);
}

template <Space space> void check_all(Kind kind, Byte* notes, uintptr_t address, size_t bytes) {
  unsigned thread = running_thread();
  for (size_t i = 0; i < bytes;) {
    Byte before = notes[i];
    check<space>(kind, notes[i], thread, bytes, address + i);
    Byte after = notes[i++];
    // Bytes with the same history have the same future.
    while (i < bytes && notes[i].write == before.write && notes[i].read == before.read) notes[i++] = after;
  }
}

void access(Kind kind, const void* pointer, size_t bytes, size_t alignment) {
  static const Stacks& stacks = fiber_stacks();
  static const Range all = arena(), fixed = static_shared();
  uintptr_t address = reinterpret_cast<uintptr_t>(pointer);
  if (address - stacks.base < stacks.size) return;  // the thread's own variables
  const DynamicShared& shared = dynamic_shared();
  size_t in_dynamic = address - address_of(shared.memory);
  bool on_device = all.contains(address) || fixed.contains(address) || in_dynamic < shared.capacity;
  if (!on_device) {
    if (address - address_of(__ehdr_start) < size_t(_end - __ehdr_start)) return;  // constants, indices, lane slots
    fail_access("out of bounds", kind, bytes, address, "");
  }
  if (address % alignment) fail_access("misaligned access", kind, bytes, address, " and no multiple of the access's size");
  if (all.contains(address)) return check_all<Space::global>(kind, global_bytes(address), address, bytes);
  if (fixed.contains(address)) return check_all<Space::shared>(kind, static_shared_bytes(address), address, bytes);
  if (in_dynamic + bytes > shared.bytes) fail_access("out of bounds", kind, bytes, address + bytes - 1, "");
  check_all<Space::shared>(kind, dynamic_shared_bytes(address), address, bytes);
}

}  // namespace

namespace checks {

size_t arena_bytes() { return size_t{8} << 30; }

void forbid(uintptr_t address, size_t bytes) {
  if (bytes == arena().size) return;  // the beginning: untouched notes are zero, which means the same
  std::fill_n(global_bytes(address), bytes, Byte{FORBIDDEN, 0});
}
void allow(uintptr_t address, size_t bytes) { std::fill_n(global_bytes(address), bytes, Byte{NEVER, 0}); }
void set_dynamic_shared(const DynamicShared&, size_t) {}

void reads(const char* what, uintptr_t address, size_t bytes) {
  const Byte* notes = global_bytes(address);
  for (size_t i = 0; i < bytes; i++)
    if (notes[i].write == NEVER) fail("uninitialised read", "%s reads %s, which was never written", what, place(address + i).c_str());
}
void writes(uintptr_t address, size_t bytes) { std::fill_n(global_bytes(address), bytes, Byte{access_now(0), 0}); }
void copies(uintptr_t to, uintptr_t from, size_t bytes) {
  std::vector<Byte> notes(global_bytes(from), global_bytes(from) + bytes);
  std::copy(notes.begin(), notes.end(), global_bytes(to));
}

void kernel_reads(const void* from, size_t bytes) { access(READ, from, bytes, 1); }
void begin_copy(void* to, size_t bytes) {
  access(WRITE, to, bytes, 1);
  Byte* notes = shared_bytes(reinterpret_cast<uintptr_t>(to));
  for (size_t i = 0; i < bytes; i++) notes[i].write |= COPYING;
}
void end_copy(void* to, size_t bytes) {
  std::fill_n(shared_bytes(reinterpret_cast<uintptr_t>(to)), bytes, Byte{access_now(running_thread()), 0});
}

}  // namespace checks
}  // namespace emulator

using namespace emulator;

#define EMULATED_ACCESS(bytes)                                                                          \
  void __tsan_read##bytes(void* p) { access(READ, p, bytes, bytes); }                                   \
  void __tsan_write##bytes(void* p) { access(WRITE, p, bytes, bytes); }                                 \
  void __tsan_unaligned_read##bytes(void* p) { access(READ, p, bytes, 1); }                             \
  void __tsan_unaligned_write##bytes(void* p) { access(WRITE, p, bytes, 1); }

extern "C" {
EMULATED_ACCESS(1)
EMULATED_ACCESS(2)
EMULATED_ACCESS(4)
EMULATED_ACCESS(8)
EMULATED_ACCESS(16)
void __tsan_read_range(void* p, size_t bytes) { access(READ, p, bytes, 1); }
void __tsan_write_range(void* p, size_t bytes) { access(WRITE, p, bytes, 1); }
// Of a whole vector, whose parts the compiler may access one by one.
void __ubsan_handle_type_mismatch_v1_abort(void*, uintptr_t address) {
  fail("misaligned access", "accesses %s, which is no multiple of the alignment of the access's type", place(address).c_str());
}
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void emulated_atomic_access(const void* p, unsigned bytes) { access(UPDATE, p, bytes, bytes); }
}
