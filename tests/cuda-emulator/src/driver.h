// One call of the driver at a time, whatever thread it comes from.
#pragma once

#include <mutex>

namespace emulator {

std::unique_lock<std::mutex> take_turn();

}  // namespace emulator
