// libnccl: communicators between processes. A collective is not done when its call returns: its stream has it pending until all ranks
// have called it. Ranks that have died are waited for, as NCCL does inside a machine, until the communicator is aborted.
#include <cuda.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <string>
#include <thread>

#include "checks.h"
#include "driver.h"
#include "graph.h"
#include "memory.h"
#include "nccl_exchange.h"
#include "order.h"
#include "pending.h"
#include "statistics.h"

namespace emulator::nccl {
namespace {

constexpr int SUCCESS = 0, SYSTEM_ERROR = 2, INVALID_ARGUMENT = 4, INVALID_USAGE = 5, REMOTE_ERROR = 6, IN_PROGRESS = 7;
constexpr int VERSION = 22700;

struct Collective {
  const char* name;
  Request request;
  const void* from;
  void* to;
  CUstream stream;
  std::vector<char> sent;
  pending::Shared work;
};

struct Communicator {
  Member member;
  std::string server;
  bool blocking;
  int socket = -1;
  std::string problem;

  std::mutex mutex;
  std::condition_variable changed;
  int state = IN_PROGRESS;
  bool ends = false;
  std::deque<std::vector<Collective>> groups;  // the first one is under way
  std::thread worker;

  void set_state(int value) {
    std::lock_guard lock(mutex);
    state = value;
    changed.notify_all();
  }
  int settled_state() {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return state != IN_PROGRESS; });
    return state;
  }

  void work() {
    int joined = join(server, member, problem);
    {
      std::lock_guard lock(mutex);
      socket = joined;
      state = joined >= 0 ? SUCCESS : INVALID_USAGE;
      changed.notify_all();
      if (joined < 0) return;
    }
    while (std::vector<Collective>* group = next_group()) {
      set_state(SUCCESS);
      for (Collective& one : *group)
        if (!exchange(one)) {
          set_state(REMOTE_ERROR);
          return;
        }
      std::lock_guard lock(mutex);
      groups.pop_front();
      changed.notify_all();
    }
  }

  std::vector<Collective>* next_group() {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return ends || !groups.empty(); });
    return ends ? nullptr : &groups.front();
  }

  bool exchange(Collective& one) {
    std::vector<char> got(received_bytes(one.request, member.ranks));
    if (!send_all(socket, &one.request, sizeof one.request) || !send_all(socket, one.sent.data(), one.sent.size()) ||
        !receive_all(socket, got.data(), got.size()))
      return false;
    auto turn = take_turn();
    if (!got.empty()) {
      memcpy(one.to, got.data(), got.size());
      checks::writes(reinterpret_cast<uintptr_t>(one.to), got.size());
    }
    pending::finish(*one.work);
    return true;
  }

  // Ends what is under way; its streams go on. False if the thread still waits for the others to join: it keeps the communicator.
  bool end() {
    bool joins;
    {
      std::lock_guard lock(mutex);
      ends = true;
      joins = state == IN_PROGRESS && socket < 0;
      if (socket >= 0) shutdown(socket, SHUT_RDWR);
      changed.notify_all();
    }
    if (joins) return worker.detach(), false;
    worker.join();
    auto turn = take_turn();
    for (auto& group : groups)
      for (Collective& one : group) pending::finish(*one.work);
    if (socket >= 0) close(socket);
    return true;
  }
};

thread_local int group_depth = 0;
thread_local std::vector<std::pair<Communicator*, Collective>> grouped;

// Gives the collectives to their streams, and to the thread that does them.
void start(Communicator& communicator, std::vector<Collective> group) {
  {
    auto turn = take_turn();
    for (Collective& one : group) {
      graph::require_not_recording(one.stream, one.name);
      auto from = reinterpret_cast<uintptr_t>(one.from), to = reinterpret_cast<uintptr_t>(one.to);
      size_t sent = sent_bytes(one.request, communicator.member.rank, communicator.member.ranks);
      size_t received = received_bytes(one.request, communicator.member.ranks);
      if (sent) require_allocated(one.name, from, sent);
      if (received) require_allocated(one.name, to, received);
      std::vector<order::Use> uses;
      if (sent) uses.push_back({from, false});
      if (received) uses.push_back({to, true});
      order::work(one.name, one.stream, uses);
      if (sent) checks::reads(one.name, from, sent);
      statistics().collectives.calls++;
      statistics().collectives.bytes += sent;
      one.sent.assign(static_cast<const char*>(one.from), static_cast<const char*>(one.from) + sent);
    }
    for (Collective& one : group) {
      one.work = std::make_shared<pending::Work>();
      pending::add(one.stream, one.work);
    }
  }
  std::lock_guard lock(communicator.mutex);
  if (!communicator.blocking) communicator.state = IN_PROGRESS;
  communicator.groups.push_back(std::move(group));
  communicator.changed.notify_all();
}

int end_group() {
  std::vector<Communicator*> communicators;
  for (auto& [communicator, one] : grouped)
    if (std::find(communicators.begin(), communicators.end(), communicator) == communicators.end()) communicators.push_back(communicator);
  bool blocking = true;
  for (Communicator* communicator : communicators) {
    std::vector<Collective> own;
    for (auto& [of, one] : grouped)
      if (of == communicator) own.push_back(std::move(one));
    start(*communicator, std::move(own));
    blocking &= communicator->blocking;
  }
  grouped.clear();
  return blocking ? SUCCESS : IN_PROGRESS;
}

int enqueue(Communicator* communicator, Collective one) {
  if (!communicator || size_of(one.request) == 0) return INVALID_ARGUMENT;
  if (one.request.count && (!one.from || !one.to)) return INVALID_ARGUMENT;
  if (one.request.root < 0 || one.request.root >= communicator->member.ranks) return INVALID_ARGUMENT;
  {
    std::lock_guard lock(communicator->mutex);
    if (communicator->state != SUCCESS) return communicator->state == IN_PROGRESS ? INVALID_USAGE : communicator->state;
  }
  grouped.emplace_back(communicator, std::move(one));
  return group_depth == 0 ? end_group() : SUCCESS;
}

struct UniqueId { char text[128]; };

// The first fields of ncclConfig_t, which all versions have.
struct Config { size_t size; unsigned magic, version; int blocking; };

}  // namespace
}  // namespace emulator::nccl

using namespace emulator;
using namespace emulator::nccl;

extern "C" {

int ncclGetVersion(int* version) { return *version = VERSION, SUCCESS; }

int ncclGetUniqueId(UniqueId* id) {
  std::string name = start_server();
  if (name.empty() || name.size() >= sizeof id->text) return SYSTEM_ERROR;
  memset(id, 0, sizeof *id);
  memcpy(id->text, name.data(), name.size());
  return SUCCESS;
}

int ncclCommInitRankConfig(Communicator** result, int ranks, UniqueId id, int rank, Config* config) {
  if (config && config->magic != 0xcafebeef) return INVALID_ARGUMENT;
  if (rank < 0 || rank >= ranks) return INVALID_ARGUMENT;
  auto* communicator = new Communicator;
  communicator->member = {rank, ranks, current_device()};
  communicator->server = std::string(id.text, strnlen(id.text, sizeof id.text));
  communicator->blocking = !config || config->blocking != 0;
  communicator->worker = std::thread([=] { communicator->work(); });
  *result = communicator;
  return communicator->blocking ? communicator->settled_state() : IN_PROGRESS;
}
int ncclCommInitRank(Communicator** result, int ranks, UniqueId id, int rank) { return ncclCommInitRankConfig(result, ranks, id, rank, nullptr); }

int ncclCommGetAsyncError(Communicator* communicator, int* state) {
  std::lock_guard lock(communicator->mutex);
  return *state = communicator->state, SUCCESS;
}
int ncclCommAbort(Communicator* communicator) {
  if (communicator->end()) delete communicator;
  return SUCCESS;
}
int ncclCommDestroy(Communicator* communicator) {
  {
    std::unique_lock lock(communicator->mutex);
    communicator->changed.wait(lock, [&] { return communicator->groups.empty() || communicator->state == REMOTE_ERROR; });
  }
  return ncclCommAbort(communicator);
}
int ncclCommCount(Communicator* communicator, int* ranks) { return *ranks = communicator->member.ranks, SUCCESS; }
int ncclCommUserRank(Communicator* communicator, int* rank) { return *rank = communicator->member.rank, SUCCESS; }

const char* ncclGetErrorString(int result) {
  switch (result) {
    case SUCCESS: return "no error";
    case SYSTEM_ERROR: return "unhandled system error";
    case INVALID_ARGUMENT: return "invalid argument";
    case INVALID_USAGE: return "invalid usage";
    case REMOTE_ERROR: return "remote process exited or there was a network error";
    case IN_PROGRESS: return "NCCL operation in progress";
    default: return "unknown result code";
  }
}
const char* ncclGetLastError(Communicator* communicator) { return communicator ? communicator->problem.c_str() : ""; }

int ncclGroupStart() { return group_depth++, SUCCESS; }
int ncclGroupEnd() {
  if (group_depth == 0) return INVALID_USAGE;
  return --group_depth == 0 ? end_group() : SUCCESS;
}

int ncclAllReduce(const void* from, void* to, size_t count, int type, int reduction, Communicator* communicator, CUstream stream) {
  return enqueue(communicator, {"ncclAllReduce", {Kind::all_reduce, type, reduction, 0, count}, from, to, stream, {}, {}});
}
int ncclReduceScatter(const void* from, void* to, size_t count, int type, int reduction, Communicator* communicator, CUstream stream) {
  return enqueue(communicator, {"ncclReduceScatter", {Kind::reduce_scatter, type, reduction, 0, count}, from, to, stream, {}, {}});
}
int ncclAllGather(const void* from, void* to, size_t count, int type, Communicator* communicator, CUstream stream) {
  return enqueue(communicator, {"ncclAllGather", {Kind::all_gather, type, 0, 0, count}, from, to, stream, {}, {}});
}
int ncclBroadcast(const void* from, void* to, size_t count, int type, int root, Communicator* communicator, CUstream stream) {
  return enqueue(communicator, {"ncclBroadcast", {Kind::broadcast, type, 0, root, count}, from, to, stream, {}, {}});
}

}  // extern "C"
