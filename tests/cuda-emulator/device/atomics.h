// Atomics: nothing can come between, because threads run one at a time. The driver is told, for the race check.
#pragma once

template <class T, class F> EMULATED_UNCHECKED static inline T emulated_update(T* address, F update) {
  emulated_atomic_access(address, sizeof(T));
  T old = *address;
  *address = update(old);
  return old;
}
template <class T> struct EmulatedSame { using type = T; };
// The first argument alone decides the type, as with CUDA's overloads.
template <class T> using emulated_same = typename EmulatedSame<T>::type;

#define EMULATED_ATOMIC(name, expression)                                           \
  template <class T> static inline T name(T* address, emulated_same<T> value) {     \
    return emulated_update(address, [=](T old) -> T { return expression; });        \
  }
EMULATED_ATOMIC(atomicAdd, old + value)
EMULATED_ATOMIC(atomicSub, old - value)
EMULATED_ATOMIC(atomicMin, value < old ? value : old)
EMULATED_ATOMIC(atomicMax, old < value ? value : old)
EMULATED_ATOMIC(atomicAnd, old & value)
EMULATED_ATOMIC(atomicOr, old | value)
EMULATED_ATOMIC(atomicXor, old ^ value)
EMULATED_ATOMIC(atomicExch, value)
EMULATED_ATOMIC(atomicInc, old >= value ? 0 : old + 1)
EMULATED_ATOMIC(atomicDec, old == 0 || old > value ? value : old - 1)
template <class T> static inline T atomicCAS(T* address, emulated_same<T> expected, emulated_same<T> value) {
  return emulated_update(address, [=](T old) -> T { return old == expected ? value : old; });
}
