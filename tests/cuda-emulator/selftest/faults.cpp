// Every fault is caught by the checks that claim it, with the kernel's name, and its right twin passes.
#include <algorithm>
#include <thread>
#include <vector>

#include "harness.h"

namespace {

// What the message must contain, for each check that catches the fault; null where it does not.
struct Fault {
  const char *kernel, *always, *access, *address;
  bool written = true;  // the data, before the launch
  unsigned blocks = 1;
};

constexpr const char* ASAN = "AddressSanitizer: use-after-poison";
const Fault FAULTS[] = {
    {"write_out_of_bounds", nullptr, "out of bounds", ASAN},
    {"read_out_of_bounds", nullptr, "out of bounds", ASAN},
    {"write_far_out_of_bounds", nullptr, "out of bounds", ASAN},
    {"null_pointer", nullptr, "out of bounds", "null pointer"},
    {"shared_out_of_bounds", nullptr, nullptr, "out of bounds for type"},
    {"dynamic_shared_out_of_bounds", nullptr, "out of bounds", ASAN},
    {"misaligned", nullptr, "misaligned access", "misaligned address"},
    {"misaligned_double", nullptr, "misaligned access", "misaligned address"},
    {"missing_barrier", nullptr, "uninitialised read", nullptr},
    {"missing_barrier_between_warps", nullptr, "race", nullptr},
    {"write_after_read", nullptr, "race", nullptr},
    {"race_in_shared", nullptr, "race", nullptr},
    {"race_in_global", nullptr, "race", nullptr},
    {"race_of_atomic_and_plain", nullptr, "race", nullptr},
    {"race_of_blocks", nullptr, "race", nullptr, true, 2},
    {"uninitialised_global", nullptr, "uninitialised read", nullptr, false},
    {"uninitialised_shared", nullptr, "uninitialised read", nullptr},
    {"barrier_in_a_branch", "barrier divergence", nullptr, nullptr},
    {"barrier_of_two_kinds", "barrier divergence", nullptr, nullptr},
    {"shuffle_without_its_lanes", "shuffle", nullptr, nullptr},
    {"trap", "trap", nullptr, nullptr},
    {"product_by_half_a_warp", "tensor instruction", nullptr, nullptr},
    {"misaligned_matrix", "misaligned access", nullptr, nullptr},
    {"matrix_in_global", "out of bounds", nullptr, nullptr},
    {"matrix_out_of_bounds", "out of bounds", nullptr, nullptr},
    {"matrix_without_a_barrier", nullptr, "race", nullptr},
    {"matrix_of_other_lanes_without_a_barrier", nullptr, "race", nullptr},
    {"copy_used_without_a_wait", nullptr, "missing wait", ASAN},
    {"copy_used_without_a_barrier", nullptr, "race", nullptr},
    {"copy_over_what_is_read", nullptr, "race", nullptr},
    {"copy_never_waited_for", "missing wait", nullptr, nullptr},
    {"copy_of_changed_memory", "race", nullptr, nullptr},
    {"copy_misaligned", "misaligned access", nullptr, nullptr},
    {"copy_from_out_of_bounds", nullptr, "out of bounds", "out of bounds"},
    {"copy_from_shared", "out of bounds", nullptr, nullptr},
    {"copy_of_too_many_bytes", "cp.async", nullptr, nullptr},
    {"copy_of_uninitialised", nullptr, "uninitialised read", nullptr, false},
};

void run(const Fault& fault, int faulty) {
  std::vector<float> zeros(64);
  DeviceArray<float> data(64);
  if (fault.written) REQUIRE(cuMemcpyHtoD_v2(data.address, zeros.data(), 64 * sizeof(float)));
  Launch launch;
  launch.grid[0] = fault.blocks;
  launch.dynamic_shared = 64 * sizeof(float);
  REQUIRE(launch(fault.kernel, data.address, 64, faulty));
}

void expect_death(const std::string& name, const char* message, bool names_kernel, const std::function<void()>& body) {
  std::string text = death_of(body);
  expect(text.find(message) != std::string::npos, name + " must be reported as `" + message + "`, got `" + text + "`");
  if (names_kernel) expect(text.find("kernel `" + name + "`") != std::string::npos, name + " must be named, got `" + text + "`");
}

// Faults of the program rather than of a kernel.
void test_host_faults(bool sees_writes) {
  expect_death("a copy beyond the end", "cuMemcpyHtoD wants 260 bytes at byte 0 of an allocation of 256 bytes", false, [] {
    std::vector<float> values(65);
    DeviceArray<float> data(64);
    cuMemcpyHtoD_v2(data.address, values.data(), 260);
  });
  expect_death("a second free", "free", false, [] {
    DeviceArray<float> data(64);
    cuMemFree_v2(data.address);
  });
  expect_death("a use after free", "out of bounds", false, [] {
    DeviceArray<float> data(64);
    cuMemFree_v2(data.address);
    cuMemsetD8_v2(data.address, 0, 4);
  });
  expect_death("a kernel that the module has with other parameters", "stale kernel", false, [] { function("trap", 2); });
  if (!sees_writes) return;
  expect_death("a copy of what was never written", "uninitialised read", false, [] { DeviceArray<float>(64).read(); });
  expect_death("a copy of a copy of what was never written", "uninitialised read", false, [] {
    DeviceArray<float> data(64), copy(64);
    REQUIRE(cuMemcpyDtoD_v2(copy.address, data.address, 256));
    copy.read();
  });
}

CUstream new_stream() {
  CUstream stream;
  REQUIRE(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
  return stream;
}

// What a stream must not do while it records, and a graph that does not free what it allocates.
void test_faults_of_graphs() {
  auto recording = [](const std::function<void(CUstream)>& body) {
    return [body] {
      CUstream stream = new_stream();
      CUdeviceptr before;
      REQUIRE(cuMemAllocAsync(&before, 64, stream));
      REQUIRE(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
      body(stream);
      cuMemFreeAsync(before, stream);
    };
  };
  expect_death("a wait", "a synchronisation on a stream that records", false, recording([](CUstream stream) { cuStreamSynchronize(stream); }));
  expect_death("a memset", "cuMemsetD8Async on a stream that records", false, recording([](CUstream stream) { cuMemsetD8Async(64, 0, 4, stream); }));
  expect_death("loading a module", "loading a module while a stream records", false, recording([](CUstream) { function("count", 1); }));
  expect_death("a free", "a graph frees memory that it did not allocate", false, recording([](CUstream) {}));
  expect_death("memory that stays", "does not free all memory", false, recording([](CUstream stream) {
    CUdeviceptr memory;
    CUgraph graph;
    CUgraphExec exec;
    REQUIRE(cuMemAllocAsync(&memory, 64, stream));
    REQUIRE(cuStreamEndCapture(stream, &graph));
    REQUIRE(cuGraphInstantiateWithFlags(&exec, graph, 0));
    cuGraphLaunch(exec, stream);
  }));
}

// Memory that is written on one stream and then used on another, with `between` in between.
template <class Between, class Use> void on_two_streams(Between between, Use use) {
  CUstream first = new_stream(), second = new_stream();
  CUdeviceptr data;
  REQUIRE(cuMemAllocAsync(&data, 64, first));
  REQUIRE(cuMemsetD8Async(data, 1, 64, first));
  between(first, second);
  use(data, second);
}

void test_unordered_streams() {
  auto nothing = [](CUstream, CUstream) {};
  auto read = [](CUdeviceptr data, CUstream stream) {
    char bytes[64];
    REQUIRE(cuMemcpyDtoHAsync_v2(bytes, data, 64, stream));
  };
  auto write = [](CUdeviceptr data, CUstream stream) { REQUIRE(cuMemsetD8Async(data, 2, 64, stream)); };
  auto free = [](CUdeviceptr data, CUstream stream) { REQUIRE(cuMemFreeAsync(data, stream)); };
  auto event = [](CUstream first, CUstream second) {
    CUevent event;
    REQUIRE(cuEventCreate(&event, 0));
    REQUIRE(cuEventRecord(event, first));
    REQUIRE(cuStreamWaitEvent(second, event, 0));
  };
  auto too_early = [&](CUstream first, CUstream second) {
    event(second, first);  // the wrong way round
  };
  auto synchronise = [](CUstream first, CUstream) { REQUIRE(cuStreamSynchronize(first)); };
  const char* message = "unordered streams";
  expect_death("a read on another stream", message, false, [&] { on_two_streams(nothing, read); });
  expect_death("a write on another stream", message, false, [&] { on_two_streams(nothing, write); });
  expect_death("a free on another stream", message, false, [&] { on_two_streams(nothing, free); });
  expect_death("an event of the other stream", message, false, [&] { on_two_streams(too_early, read); });
  for (auto [name, text] : {std::pair{"an event", death_of([&] { on_two_streams(event, read); })},
                            {"a synchronisation", death_of([&] { on_two_streams(synchronise, write); })},
                            {"an event before a free", death_of([&] { on_two_streams(event, free); })}})
    expect(text.empty(), std::string(name) + " must order two streams, got `" + text + "`");

  // Two threads that both use `CU_STREAM_PER_THREAD` use two streams.
  auto by_threads = [&](bool ordered) {
    CUdeviceptr data;
    REQUIRE(cuMemAlloc_v2(&data, 64));
    std::thread([&] {
      REQUIRE(cuMemsetD8Async(data, 1, 64, CU_STREAM_PER_THREAD));
      if (ordered) REQUIRE(cuStreamSynchronize(CU_STREAM_PER_THREAD));
    }).join();
    read(data, CU_STREAM_PER_THREAD);
  };
  expect_death("a thread's own stream", message, false, [&] { by_threads(false); });
  expect(death_of([&] { by_threads(true); }).empty(), "a thread that waits for its own stream must be enough");

  // A kernel that only reads needs no order beside one that only reads, and one before a write.
  auto kernels = [&](bool writes_at_the_end) {
    DeviceArray<float> in(std::vector<float>(64, 1.0f)), outs[] = {DeviceArray<float>(1), DeviceArray<float>(1)};
    REQUIRE(cuCtxSynchronize());
    CUstream streams[] = {new_stream(), new_stream()};
    for (int i : {0, 1}) {
      unsigned n = 64;
      void* arguments[] = {&in.address, &outs[i].address, &n};
      REQUIRE(cuLaunchKernel(function("sum", 3), 1, 1, 1, 1024, 1, 1, 0, streams[i], arguments, nullptr));
    }
    if (writes_at_the_end) write(in.address, streams[0]);
    REQUIRE(cuCtxSynchronize());
  };
  expect(death_of([&] { kernels(false); }).empty(), "two readers need no order");
  expect_death("a write beside a reader", message, false, [&] { kernels(true); });
}

// Page-locked memory that a copy reads, with `before` in the time before the host waits, and `after` behind that.
template <class Before, class After> std::string death_of_copy(Before before, After after) {
  return death_of([&] {
    CUstream stream = new_stream();
    CUdeviceptr data;
    void* memory;
    REQUIRE(cuMemAllocAsync(&data, 64, stream));
    REQUIRE(cuMemHostAlloc(&memory, 256, 0));
    auto* bytes = static_cast<char*>(memory);
    std::fill(bytes, bytes + 256, 1);
    REQUIRE(cuMemcpyHtoDAsync_v2(data, bytes + 64, 64, stream));
    before(bytes, data, stream);
    CUevent event;
    REQUIRE(cuEventCreate(&event, 0));
    REQUIRE(cuEventRecord(event, stream));
    REQUIRE(cuEventSynchronize(event));
    after(bytes);
    REQUIRE(cuMemFreeHost(memory));
  });
}

void test_page_locked_memory() {
  auto change = [](int place) { return [=](char* bytes, auto...) { bytes[place] = 2; }; };
  auto nothing = [](char*, auto...) {};
  auto expect_fault = [](const std::string& name, const std::string& text, const char* message) {
    expect(text.find(message) != std::string::npos, name + " must be reported as `" + message + "`, got `" + text + "`");
  };
  expect_fault("a change before the wait", death_of_copy(change(64 + 7), nothing), "byte 7 of 64 has changed before the host waited for `cuMemcpyHtoDAsync`");
  // Long before the host waits at all.
  auto copy_again = [](char* bytes, CUdeviceptr data, CUstream stream) {
    bytes[127] = 2;
    cuMemcpyHtoDAsync_v2(data, bytes + 120, 8, stream);
    _exit(0);
  };
  expect_fault("a second copy of changed memory", death_of_copy(copy_again, nothing), "byte 63 of 64 has changed");
  auto release = [](char* bytes, auto...) { cuMemFreeHost(bytes); };
  expect_fault("a free before the wait", death_of_copy(release, nothing), "freed before the host has waited");
  auto query_another = [](char* bytes, CUdeviceptr, CUstream) {
    REQUIRE(cuStreamQuery(new_stream()));
    bytes[64] = 2;
  };
  expect_fault("a wait for another stream", death_of_copy(query_another, nothing), "byte 0 of 64 has changed");

  auto query = [](char* bytes, CUdeviceptr, CUstream stream) {
    REQUIRE(cuStreamQuery(stream));
    bytes[64] = 2;
  };
  for (auto [name, text] : {std::pair{"a change after the wait", death_of_copy(nothing, change(64))},
                            {"a change after a query", death_of_copy(query, nothing)},
                            {"a change beside the copy, before it", death_of_copy(change(63), nothing)},
                            {"a change beside the copy, behind it", death_of_copy(change(128), nothing)}})
    expect(text.empty(), std::string(name) + " must be right, got `" + text + "`");
}

}  // namespace

void test_faults(const std::string& check) {
  for (const Fault& fault : FAULTS) {
    const char* message = fault.always ? fault.always : check == "access" ? fault.access : check == "address" ? fault.address : nullptr;
    std::string clean = death_of([&] { run(fault, 0); });
    expect(clean.empty(), std::string("the right twin of ") + fault.kernel + " must pass, got `" + clean + "`");
    if (message) expect_death(fault.kernel, message, check != "address" || fault.always, [&] { run(fault, 1); });
  }
  test_host_faults(check == "access");
  test_faults_of_graphs();
  test_unordered_streams();
  test_page_locked_memory();
}
