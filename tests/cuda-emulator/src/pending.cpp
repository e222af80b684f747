#include "pending.h"

#include <algorithm>
#include <condition_variable>
#include <map>

#include "driver.h"

namespace emulator::pending {
namespace {

std::map<CUstream, std::vector<Shared>>& streams() {
  static auto* all = new std::map<CUstream, std::vector<Shared>>;
  return *all;
}
std::condition_variable& finished() {
  static auto* condition = new std::condition_variable;
  return *condition;
}

void drop_done(std::vector<Shared>& works) {
  works.erase(std::remove_if(works.begin(), works.end(), [](const Shared& work) { return work->done; }), works.end());
}

}  // namespace

void add(CUstream stream, Shared work) { streams()[stream].push_back(std::move(work)); }

void finish(Work& work) {
  work.done = true;
  finished().notify_all();
}

std::vector<Shared> of(CUstream stream) {
  std::vector<Shared> works;
  for (auto& [other, own] : streams()) {
    drop_done(own);
    if (other == stream || !stream) works.insert(works.end(), own.begin(), own.end());
  }
  return works;
}

bool are_done(const std::vector<Shared>& works) {
  return std::all_of(works.begin(), works.end(), [](const Shared& work) { return work->done; });
}

void wait_for(const std::vector<Shared>& works) {
  if (are_done(works)) return;
  std::unique_lock turn(turns(), std::adopt_lock);
  finished().wait(turn, [&] { return are_done(works); });
  turn.release();
}

}  // namespace emulator::pending
