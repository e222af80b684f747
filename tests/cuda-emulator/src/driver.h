// One call of the driver at a time, whatever thread it comes from.
#pragma once

#include <mutex>

namespace emulator {

std::mutex& turns();
std::unique_lock<std::mutex> take_turn();

// The number of the device whose context is current in this thread; 0 without one, as for the runtime library.
int current_device();

}  // namespace emulator
