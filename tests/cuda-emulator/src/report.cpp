#include "report.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>

#include "kernels.h"
#include "scheduler.h"

namespace emulator {

void fail(const char* kind, const char* format, ...) {
  char message[1024];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  if (const Kernel* kernel = running_kernel()) {
    const EmulatedIndex &b = emulated_block, &t = emulated_thread;
    fprintf(stderr, "emulated CUDA: %s: kernel `%s` (%s), block (%u, %u, %u), thread (%u, %u, %u): %s\n", kind, kernel->name.c_str(),
            kernel->source.c_str(), b.x, b.y, b.z, t.x, t.y, t.z, message);
  } else {
    fprintf(stderr, "emulated CUDA: %s: %s\n", kind, message);
  }
  fflush(stderr);
  abort();
}

}  // namespace emulator
