#include "fiber.h"

#include <sys/mman.h>

#include <vector>

#include "report.h"

#if !defined(__x86_64__) || defined(EMULATED_CUDA_UCONTEXT)
#define PORTABLE 1
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace emulator {

struct Fiber {
#ifdef PORTABLE
  ucontext_t context;
#else
  void* stack_pointer;
#endif
  uintptr_t stack = 0;  // its lowest address, above the guard page
  size_t stack_size = 0;
  void (*body)() = nullptr;
};

namespace {

// An odd number of pages, and tops that differ below that: else all tops would compete for the same lines of the caches.
constexpr size_t PAGE = 4096, STACK = 65 * PAGE, GUARD = PAGE, LINE = 64;
constexpr unsigned FIBERS = 1025;  // all threads of a block wait, and one more looks for work

std::vector<Fiber> fibers(FIBERS);
Fiber scheduler;
Fiber* current = nullptr;

#ifdef PORTABLE
void switch_stack(Fiber& from, Fiber& to) { swapcontext(&from.context, &to.context); }
#else
// Saves what the calling convention asks a function to keep, and goes on where the other stack left off.
extern "C" void emulated_switch_stack(void** save, void* to);
asm(R"(
  .text
  .type emulated_switch_stack, @function
emulated_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size emulated_switch_stack, .-emulated_switch_stack
)");
void switch_stack(Fiber& from, Fiber& to) { emulated_switch_stack(&from.stack_pointer, to.stack_pointer); }
#endif

#if defined(__SANITIZE_ADDRESS__)
// The address sanitizer follows the stack pointer, so it is told of every switch.
void* scheduler_fake_stack;
const void* scheduler_stack;
size_t scheduler_stack_size;
#endif

void start() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_stack_size);
#endif
  current->body();
  fail("emulator", "the body of a fiber returned");
}

void prepare(Fiber& f) {
#ifdef PORTABLE
  getcontext(&f.context);
  f.context.uc_stack.ss_sp = reinterpret_cast<void*>(f.stack);
  f.context.uc_stack.ss_size = f.stack_size;
  f.context.uc_link = nullptr;
  makecontext(&f.context, start, 0);
#else
  // As the switch leaves a stack: six registers, then the address to return to.
  auto** top = reinterpret_cast<void**>(f.stack + f.stack_size - 16);
  *top = reinterpret_cast<void*>(start);
  for (int i = 1; i <= 6; i++) top[-i] = nullptr;
  f.stack_pointer = top - 6;
#endif
}

Stacks map_stacks() {
  void* base = mmap(nullptr, FIBERS * STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) fail("emulator", "no memory for the stacks of a block's threads");
  for (unsigned i = 0; i < FIBERS; i++) mprotect(static_cast<char*>(base) + i * STACK, GUARD, PROT_NONE);
  return {reinterpret_cast<uintptr_t>(base), FIBERS * STACK};
}

}  // namespace

const Stacks& fiber_stacks() {
  static const Stacks stacks = map_stacks();
  return stacks;
}

Fiber* fiber(unsigned number, void (*body)()) {
  Fiber& f = fibers[number];
  if (!f.stack) {
    f.stack = fiber_stacks().base + number * STACK + GUARD;
    f.stack_size = STACK - GUARD - number % (PAGE / LINE) * LINE;
    f.body = body;
    prepare(f);
  }
  return &f;
}

void continue_fiber(Fiber* f) {
  current = f;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&scheduler_fake_stack, reinterpret_cast<void*>(f->stack), f->stack_size);
  switch_stack(scheduler, *f);
  __sanitizer_finish_switch_fiber(scheduler_fake_stack, nullptr, nullptr);
#else
  switch_stack(scheduler, *f);
#endif
}

void yield_fiber() {
#if defined(__SANITIZE_ADDRESS__)
  void* fake_stack = nullptr;
  __sanitizer_start_switch_fiber(&fake_stack, scheduler_stack, scheduler_stack_size);
  switch_stack(*current, scheduler);
  __sanitizer_finish_switch_fiber(fake_stack, &scheduler_stack, &scheduler_stack_size);
#else
  switch_stack(*current, scheduler);
#endif
}

}  // namespace emulator
