// Faults end the process, with a message that says what, where, and by which thread.
#pragma once

namespace emulator {

// `kind` is the check that failed. Adds the running kernel, block and thread where there is one, and aborts.
[[noreturn]] void fail(const char* kind, const char* format, ...) __attribute__((format(printf, 2, 3)));

}  // namespace emulator
