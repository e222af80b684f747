// Collectives between processes: their results, that they are pending until all ranks have called them, and what goes wrong with them.
#include <cuda_bf16.h>

#include <csignal>
#include <cstring>

#include "harness.h"

struct UniqueId { char text[128]; };
struct Config { size_t size = 24; unsigned magic = 0xcafebeef, version = 21400; int blocking = 0, unused = 0; };
struct Communicator;

extern "C" {
int ncclGetUniqueId(UniqueId*);
int ncclCommInitRank(Communicator**, int, UniqueId, int);
int ncclCommInitRankConfig(Communicator**, int, UniqueId, int, Config*);
int ncclCommGetAsyncError(Communicator*, int*);
int ncclCommAbort(Communicator*);
int ncclCommDestroy(Communicator*);
int ncclGroupStart();
int ncclGroupEnd();
int ncclAllReduce(const void*, void*, size_t, int, int, Communicator*, CUstream);
int ncclReduceScatter(const void*, void*, size_t, int, int, Communicator*, CUstream);
int ncclAllGather(const void*, void*, size_t, int, Communicator*, CUstream);
int ncclBroadcast(const void*, void*, size_t, int, int, Communicator*, CUstream);
const char* ncclGetLastError(Communicator*);
}

namespace {

constexpr int FLOAT32 = 7, BFLOAT16 = 9, SUM = 0, MEAN = 4, INVALID_USAGE = 5, REMOTE_ERROR = 6, IN_PROGRESS = 7;

void* pointer(CUdeviceptr address) { return reinterpret_cast<void*>(address); }

// What a rank must find: the process ends with a failure otherwise.
void require(bool holds, const char* what) {
  if (holds) return;
  fprintf(stderr, "rank: %s\n", what);
  _exit(1);
}

void take_device(int number) {
  CUcontext context;
  REQUIRE(cuDevicePrimaryCtxRetain(&context, number));
  REQUIRE(cuCtxSetCurrent(context));
}

// Starts the server of a communicator in a process of its own: a process with a thread must not fork, for the thread may hold
// a lock of the allocator that its children would wait for.
pid_t serve(UniqueId& id) {
  int ends[2];
  REQUIRE(pipe(ends));
  fflush(nullptr);
  pid_t server = fork();
  if (server == 0) {
    REQUIRE(ncclGetUniqueId(&id));
    require(write(ends[1], &id, sizeof id) == sizeof id, "to send the id");
    while (true) pause();
  }
  close(ends[1]);
  require(read(ends[0], &id, sizeof id) == sizeof id, "the id of a server");
  close(ends[0]);
  return server;
}

// Runs the ranks of a communicator, each in a process with a device of its own; whether all ended well, and the server with them.
bool run_ranks(int ranks, const std::function<void(int, UniqueId)>& body) {
  UniqueId id;
  pid_t server = serve(id);
  std::vector<pid_t> children;
  for (int rank = 0; rank < ranks; rank++) {
    pid_t child = fork();
    if (child == 0) {
      take_device(rank);
      body(rank, id);
      _exit(0);
    }
    children.push_back(child);
  }
  bool well = true;
  for (pid_t child : children) {
    int status = 0;
    waitpid(child, &status, 0);
    well &= WIFEXITED(status) && WEXITSTATUS(status) == 0;
  }
  well &= waitpid(server, nullptr, WNOHANG) == 0;
  kill(server, SIGKILL);
  waitpid(server, nullptr, 0);
  return well;
}

Communicator* started(int rank, int ranks, UniqueId id) {
  Communicator* communicator;
  REQUIRE(ncclCommInitRank(&communicator, ranks, id, rank));
  return communicator;
}

void test_results() {
  constexpr int RANKS = 3;
  bool well = run_ranks(RANKS, [](int rank, UniqueId id) {
    Communicator* communicator = started(rank, RANKS, id);
    CUstream stream = nullptr;
    for (size_t n : {size_t{0}, size_t{1}, size_t{1000003}}) {
      DeviceArray<float> values(std::vector<float>(n, rank + 0.5f)), means(std::vector<float>(n, float(rank)));
      REQUIRE(ncclGroupStart());
      REQUIRE(ncclAllReduce(pointer(values.address), pointer(values.address), n, FLOAT32, SUM, communicator, stream));
      REQUIRE(ncclAllReduce(pointer(means.address), pointer(means.address), n, FLOAT32, MEAN, communicator, stream));
      REQUIRE(ncclGroupEnd());
      REQUIRE(cuStreamSynchronize(stream));
      require(values.read() == std::vector<float>(n, 4.5f) && means.read() == std::vector<float>(n, 1.0f), "sums in place");
    }
    DeviceArray<__nv_bfloat16> halves(std::vector<__nv_bfloat16>(5, __float2bfloat16(256.0f + 2 * rank)));
    REQUIRE(ncclAllReduce(pointer(halves.address), pointer(halves.address), 5, BFLOAT16, SUM, communicator, stream));
    REQUIRE(cuStreamSynchronize(stream));
    // 774, rounded to 8 bits.
    require(__bfloat162float(halves.read()[4]) == 776.0f, "a sum in bf16");

    DeviceArray<float> own(std::vector<float>{1.0f * rank, 10.0f, 100.0f * rank, 5.0f, 6.0f, 7.0f}), share(2), all(6), first(2);
    REQUIRE(ncclReduceScatter(pointer(own.address), pointer(share.address), 2, FLOAT32, SUM, communicator, stream));
    REQUIRE(ncclAllGather(pointer(share.address), pointer(all.address), 2, FLOAT32, communicator, stream));
    REQUIRE(ncclBroadcast(pointer(share.address), pointer(first.address), 2, FLOAT32, 1, communicator, stream));
    REQUIRE(cuStreamSynchronize(stream));
    require(all.read() == std::vector<float>{3, 30, 300, 15, 18, 21}, "a reduce-scatter and an all-gather");
    require(first.read() == std::vector<float>{300, 15}, "a broadcast");
    REQUIRE(ncclCommDestroy(communicator));
  });
  expect(well, "collectives of three ranks");
}

// Without blocking: calls return at once, an event comes when all ranks have called.
void test_pending() {
  int go[2];
  REQUIRE(pipe(go));
  bool well = run_ranks(2, [&](int rank, UniqueId id) {
    Config config;
    Communicator* communicator;
    require(ncclCommInitRankConfig(&communicator, 2, id, rank, &config) == IN_PROGRESS, "a start that does not wait");
    auto settle = [&] {
      int state = IN_PROGRESS;
      while (state == IN_PROGRESS) REQUIRE(ncclCommGetAsyncError(communicator, &state));
      REQUIRE(state);
    };
    settle();
    DeviceArray<float> values(std::vector<float>{1, 2});
    char byte;
    if (rank == 1) require(read(go[0], &byte, 1) == 1, "a signal");
    require(ncclAllReduce(pointer(values.address), pointer(values.address), 2, FLOAT32, SUM, communicator, nullptr) == IN_PROGRESS, "a call that does not wait");
    settle();
    CUevent event;
    REQUIRE(cuEventCreate(&event, 0));
    REQUIRE(cuEventRecord(event, nullptr));
    if (rank == 0) {
      require(cuEventQuery(event) == CUDA_ERROR_NOT_READY && cuStreamQuery(nullptr) == CUDA_ERROR_NOT_READY, "it is pending");
      require(write(go[1], "!", 1) == 1, "to signal");
    }
    // Whatever comes after it on the stream waits for it.
    require(values.read() == std::vector<float>{2, 4}, "the sum");
    require(cuEventQuery(event) == CUDA_SUCCESS, "it is done");
    REQUIRE(ncclCommDestroy(communicator));
  });
  expect(well, "a collective that waits for a rank");
}

void test_abort() {
  bool well = run_ranks(2, [](int rank, UniqueId id) {
    Communicator* communicator = started(rank, 2, id);
    if (rank == 1) _exit(0);
    DeviceArray<float> values(std::vector<float>{1, 2});
    REQUIRE(ncclAllReduce(pointer(values.address), pointer(values.address), 2, FLOAT32, SUM, communicator, nullptr));
    usleep(100000);
    int state;
    REQUIRE(ncclCommGetAsyncError(communicator, &state));
    require(state == 0 && cuStreamQuery(nullptr) == CUDA_ERROR_NOT_READY, "a rank that has died is waited for");
    REQUIRE(ncclCommAbort(communicator));
    REQUIRE(cuStreamSynchronize(nullptr));
  });
  expect(well, "an abort");
}

void test_duplicate_device() {
  bool well = run_ranks(2, [](int rank, UniqueId id) {
    take_device(0);
    if (rank == 1) usleep(300000);
    Config config;
    Communicator* communicator;
    ncclCommInitRankConfig(&communicator, 2, id, rank, &config);
    int state = IN_PROGRESS;
    for (int i = 0; i < 100 && state == IN_PROGRESS; i++) {
      usleep(10000);
      REQUIRE(ncclCommGetAsyncError(communicator, &state));
    }
    if (rank == 1) require(state == INVALID_USAGE && strstr(ncclGetLastError(communicator), "Duplicate GPU"), "a device of two ranks");
    else require(state == IN_PROGRESS, "the first of them waits");
    REQUIRE(ncclCommAbort(communicator));
  });
  expect(well, "two ranks on a device are refused");
}

// The process that made the unique id ends: a rank elsewhere hears of it.
void test_lost_server() {
  int to_child[2], ready[2];
  REQUIRE(pipe(to_child));
  REQUIRE(pipe(ready));
  pid_t server = fork();
  if (server == 0) {
    UniqueId id;
    REQUIRE(ncclGetUniqueId(&id));
    require(write(to_child[1], &id, sizeof id) == sizeof id, "to send the id");
    started(0, 2, id);
    char byte;
    require(read(ready[0], &byte, 1) == 1, "a signal");
    _exit(0);
  }
  UniqueId id;
  expect(read(to_child[0], &id, sizeof id) == sizeof id, "the id");
  std::string death = death_of([&] {
    take_device(1);
    Communicator* communicator = started(1, 2, id);
    DeviceArray<float> values(std::vector<float>{1, 2});
    REQUIRE(ncclAllReduce(pointer(values.address), pointer(values.address), 2, FLOAT32, SUM, communicator, nullptr));
    require(write(ready[1], "!", 1) == 1, "to signal");
    int state = 0;
    for (int i = 0; i < 500 && state == 0; i++) {
      usleep(10000);
      REQUIRE(ncclCommGetAsyncError(communicator, &state));
    }
    require(state == REMOTE_ERROR, "a remote error");
    REQUIRE(ncclCommAbort(communicator));
  });
  expect(death.empty(), "a lost server: " + death);
  waitpid(server, nullptr, 0);
}

void test_mismatch() {
  std::string death = death_of([] {
    run_ranks(2, [](int rank, UniqueId id) {
      Communicator* communicator = started(rank, 2, id);
      DeviceArray<float> values(std::vector<float>(8));
      REQUIRE(ncclAllReduce(pointer(values.address), pointer(values.address), 4 + rank, FLOAT32, SUM, communicator, nullptr));
      int state = 0;
      for (int i = 0; i < 500 && state == 0; i++) {
        usleep(10000);
        REQUIRE(ncclCommGetAsyncError(communicator, &state));
      }
      _exit(0);
    });
  });
  expect(death.find("collectives") != std::string::npos && death.find("of 5 elements") != std::string::npos, "ranks that differ: " + death);
}

}  // namespace

void test_collectives() {
  setenv("EMULATED_CUDA_DEVICES", "3", 1);
  test_results();
  test_pending();
  test_abort();
  test_duplicate_device();
  test_lost_server();
  test_mismatch();
  unsetenv("EMULATED_CUDA_DEVICES");
}
