#include "kernels.h"

#include <map>

#include "report.h"

namespace emulator {
namespace {

// Made on first use: kernels register before this file's own statics need exist.
std::multimap<std::string, Kernel>& kernels() {
  static std::multimap<std::string, Kernel> all;
  return all;
}

}  // namespace

Kernel* find_kernel(const std::string& name) {
  auto [first, last] = kernels().equal_range(name);
  if (first == last) return nullptr;
  if (std::next(first) != last)
    fail("ambiguous kernel", "`%s` is in %s and in %s", name.c_str(), first->second.source.c_str(), std::next(first)->second.source.c_str());
  return &first->second;
}

}  // namespace emulator

extern "C" void emulated_register(const char* name, const char* source, unsigned parameters, const EmulatedParameter* kinds, const unsigned* sizes,
                                  void (*call)(void**)) {
  emulator::kernels().emplace(name, emulator::Kernel{name, source, parameters, kinds, sizes, call});
}
