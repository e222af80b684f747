// What a kernel needs of the driver: its indices, dynamic shared memory, barriers, and its own registration.
#pragma once
#include <tuple>
#include <type_traits>
#include <utility>

struct EmulatedIndex { unsigned x, y, z; };
// What a kernel does with a parameter, as its type says it.
enum class EmulatedParameter : unsigned char { value, const_pointer, pointer };

extern "C" {
// Of the thread that runs now.
extern EmulatedIndex emulated_thread, emulated_block, emulated_block_dim, emulated_grid_dim;

void* emulated_dynamic_shared();
// Returns how many threads of the block came with `vote`. `line` tells barriers apart.
unsigned emulated_block_barrier(bool vote, const char* file, int line);
void emulated_warp_barrier(unsigned mask);
// 16 bytes that a lane shows to the others of its warp.
void* emulated_lane_slot(unsigned mask, unsigned lane);
bool emulated_lane_exists(unsigned lane);
// Tells the race check that the following access to these bytes is atomic.
void emulated_atomic_access(const void* address, unsigned bytes);
[[noreturn]] void emulated_trap(const char* what);
void emulated_register(const char* name, const char* source, unsigned parameters, const EmulatedParameter* kinds, const unsigned* sizes,
                       void (*call)(void** arguments));
}

#define threadIdx emulated_thread
#define blockIdx emulated_block
#define blockDim emulated_block_dim
#define gridDim emulated_grid_dim
#define warpSize 32

#define __syncthreads() ((void)emulated_block_barrier(false, __FILE__, __LINE__))
#define __syncthreads_count(p) ((int)emulated_block_barrier((p), __FILE__, __LINE__))
#define __syncthreads_or(p) ((int)(emulated_block_barrier((p), __FILE__, __LINE__) != 0))
#define __syncthreads_and(p) ((int)(emulated_block_barrier(!(p), __FILE__, __LINE__) == 0))
#define __trap() emulated_trap("__trap()")
// Threads run one at a time on one host thread, so memory is always up to date.
static inline void __threadfence() {}
static inline void __threadfence_block() {}
static inline void __threadfence_system() {}
static inline void __nanosleep(unsigned) {}

// Static shared memory: bytes for a variable, which nothing constructs.
template <class T> union alignas(alignof(T) > 16 ? alignof(T) : 16) EmulatedStorage {
  char nothing;
  T value;
  constexpr EmulatedStorage() : nothing() {}
};

// The arguments of a launch arrive as one pointer each; the kernel's own type says what is behind them.
#if defined(__SANITIZE_THREAD__)
#define EMULATED_UNCHECKED __attribute__((no_sanitize("thread")))
#else
#define EMULATED_UNCHECKED
#endif

template <class T> constexpr EmulatedParameter emulated_parameter() {
  if (!std::is_pointer_v<T>) return EmulatedParameter::value;
  return std::is_const_v<std::remove_pointer_t<T>> ? EmulatedParameter::const_pointer : EmulatedParameter::pointer;
}

template <class Signature> struct EmulatedKernel;
template <class... Parameters> struct EmulatedKernel<void(Parameters...)> {
  template <void (*kernel)(Parameters...), size_t... I>
  EMULATED_UNCHECKED static void call(void** arguments, std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_const_t<Parameters>*>(arguments[I])...);
  }
  template <void (*kernel)(Parameters...)> EMULATED_UNCHECKED static void call(void** arguments) {
    call<kernel>(arguments, std::index_sequence_for<Parameters...>());
  }
  // translate.py adds a call of this for every kernel of a source.
  template <void (*kernel)(Parameters...)> static bool add(const char* name, const char* source) {
    static constexpr EmulatedParameter kinds[] = {emulated_parameter<std::remove_cv_t<Parameters>>()..., EmulatedParameter::value};
    static constexpr unsigned sizes[] = {sizeof(Parameters)..., 0};
    emulated_register(name, source, sizeof...(Parameters), kinds, sizes, call<kernel>);
    return true;
  }
};
