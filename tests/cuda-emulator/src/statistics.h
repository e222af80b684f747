// What a program asked of the device, counted.
#pragma once

#include <cstddef>
#include <map>
#include <string>

namespace emulator {

struct Count { unsigned long calls = 0; size_t bytes = 0; };

struct Statistics {
  std::map<std::string, unsigned long> launches;  // by kernel; matmuls and random numbers are launches as well
  Count host_to_device, from_pageable, device_to_host, device_to_device, memsets, allocations;
  Count collectives;  // bytes that this process sends
  unsigned long synchronisations = 0, frees = 0, graphs = 0;
  size_t memory_bytes = 0, peak_memory_bytes = 0;

  void allocated(size_t bytes);
  void freed(size_t bytes);
  // Everything from zero, but for the memory that is in use: the peak begins there.
  void reset();
  std::string json() const;
};

Statistics& statistics();

}  // namespace emulator
