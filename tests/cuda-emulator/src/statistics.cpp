#include "statistics.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include <unistd.h>

#include "driver.h"

namespace emulator {
namespace {

std::string member(const char* name, const Count& count) {
  return std::string("\"") + name + "\":{\"calls\":" + std::to_string(count.calls) + ",\"bytes\":" + std::to_string(count.bytes) + "},";
}

std::string member(const char* name, unsigned long number) { return std::string("\"") + name + "\":" + std::to_string(number) + ","; }

// The file that EMULATED_CUDA_STATISTICS names gets the numbers when the process ends.
struct AtExit {
  ~AtExit() {
    const char* path = getenv("EMULATED_CUDA_STATISTICS");
    if (!path) return;
    // Processes that are given the same name must not write into one file.
    std::string own = std::string(path) + "." + std::to_string(getpid());
    FILE* file = fopen(own.c_str(), "w");
    if (!file || fprintf(file, "%s\n", statistics().json().c_str()) < 0 || fclose(file) != 0 || rename(own.c_str(), path) != 0)
      fprintf(stderr, "emulated CUDA: cannot write statistics to `%s`: %s\n", path, strerror(errno));
  }
} at_exit;

}  // namespace

Statistics& statistics() {
  static auto* all = new Statistics;  // never destroyed: programs free device memory until the very end
  return *all;
}

void Statistics::allocated(size_t bytes) {
  allocations.calls++;
  allocations.bytes += bytes;
  memory_bytes += bytes;
  peak_memory_bytes = std::max(peak_memory_bytes, memory_bytes);
}

void Statistics::freed(size_t bytes) {
  frees++;
  memory_bytes -= bytes;
}

void Statistics::reset() {
  size_t in_use = memory_bytes;
  *this = Statistics{};
  memory_bytes = peak_memory_bytes = in_use;
}

std::string Statistics::json() const {
  unsigned long total = 0;
  std::string by_kernel;
  for (auto& [name, count] : launches) {
    total += count;
    by_kernel += (by_kernel.empty() ? "\"" : ",\"") + name + "\":" + std::to_string(count);
  }
  return "{" + member("launches", total) + "\"launches_by_kernel\":{" + by_kernel + "}," + member("host_to_device", host_to_device) +
         member("host_to_device_from_pageable", from_pageable) +
         member("device_to_host", device_to_host) + member("device_to_device", device_to_device) + member("memsets", memsets) + member("collectives", collectives) +
         member("graphs", graphs) + member("synchronisations", synchronisations) + member("allocations", allocations) + member("frees", frees) +
         member("memory_bytes", memory_bytes) + "\"peak_memory_bytes\":" + std::to_string(peak_memory_bytes) + "}";
}

}  // namespace emulator

extern "C" {

void emulated_cuda_reset_statistics() {
  auto turn = emulator::take_turn();
  emulator::statistics().reset();
}

// Writes JSON and its final zero into `text` where `capacity` bytes are enough; returns how many bytes it takes.
size_t emulated_cuda_statistics(char* text, size_t capacity) {
  auto turn = emulator::take_turn();
  std::string json = emulator::statistics().json();
  if (json.size() < capacity) memcpy(text, json.c_str(), json.size() + 1);
  return json.size() + 1;
}

}  // extern "C"
