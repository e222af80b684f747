// Right kernels give the right results, and the driver refuses what a GPU's driver refuses.
#include <cuda_fp16.h>

#include "harness.h"

namespace {

void test_indices() {
  DeviceArray<unsigned> out(2 * 3 * 2 * 5 * 2 * 3);
  Launch launch{{2, 3, 2}, {5, 2, 3}};
  REQUIRE(launch("indices", out.address));
  std::vector<unsigned> values = out.read();
  bool right = true;
  for (size_t i = 0; i < values.size(); i++) right &= values[i] == i / 30 * 1000 + i % 30;
  expect(right, "indices of three dimensions");
}

void test_parameters() {
  struct Pair { float first; double second; };
  DeviceArray<double> out(7);
  Launch launch{{1, 1, 1}, {1, 1, 1}};
  REQUIRE(launch("parameters", out.address, (unsigned char)200, (short)-300, __float2half(1.5f), 0.25f, Pair{2.5f, 1e-9}, 1ll << 40));
  expect(out.read() == std::vector<double>{200, -300, 1.5, 0.25, 2.5, 1e-9, double(1ll << 40)}, "parameters of all sizes");
}

void test_sum() {
  for (unsigned n : {1u, 31u, 33u, 1000u, 5000u}) {
    std::vector<float> in(n);
    for (unsigned i = 0; i < n; i++) in[i] = float(i % 7);
    float want = 0;
    for (float v : in) want += v;
    DeviceArray<float> input(in), out(1);
    Launch launch{{1, 1, 1}, {1024, 1, 1}};
    REQUIRE(launch("sum", input.address, out.address, n));
    expect(out.read()[0] == want, "the sum of " + std::to_string(n));
  }
}

void test_reverse() {
  std::vector<int> in(200), turned(200);
  for (int i = 0; i < 200; i++) turned[199 - i] = in[i] = i * i;
  DeviceArray<int> input(in), out(200);
  Launch launch{{1, 1, 1}, {200, 1, 1}, 800};
  REQUIRE(launch("reverse", input.address, out.address));
  expect(out.read() == turned, "dynamic shared memory");
}

void test_lanes() {
  DeviceArray<int> out(32 * 8);
  Launch launch{{1, 1, 1}, {32, 1, 1}};
  REQUIRE(launch("lanes", out.address));
  std::vector<int> got = out.read(), want;
  for (int lane = 0; lane < 32; lane++)
    for (int v : {5, lane < 3 ? lane : lane - 3, lane > 28 ? lane : lane + 3, lane / 8 * 8 + 1, int(0xaaaaaaaa), 1, 10, lane < 16 ? lane ^ 1 : -1})
      want.push_back(v);
  expect(got == want, "shuffles and votes");
}

// What a stream records is done by each launch of the graph, with the memory that it allocated then.
void test_graphs() {
  CUstream stream;
  REQUIRE(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
  CUdeviceptr counter;
  REQUIRE(cuMemAllocAsync(&counter, 4, stream));
  REQUIRE(cuMemsetD8Async(counter, 0, 4, stream));
  CUfunction counting = function("count", 1);
  auto count = [&](CUdeviceptr to) {
    void* arguments[] = {&to};
    REQUIRE(cuLaunchKernel(counting, 2, 1, 1, 8, 1, 1, 0, stream, arguments, nullptr));
  };
  auto value = [&] {
    unsigned value;
    REQUIRE(cuMemcpyDtoHAsync_v2(&value, counter, 4, stream));
    REQUIRE(cuStreamSynchronize(stream));
    return value;
  };
  CUstreamCaptureStatus status;
  REQUIRE(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
  REQUIRE(cuStreamIsCapturing(stream, &status));
  expect(status == CU_STREAM_CAPTURE_STATUS_ACTIVE, "a stream that records");
  CUdeviceptr other;
  REQUIRE(cuMemAllocAsync(&other, 4, stream));
  count(counter);
  REQUIRE(cuMemFreeAsync(other, stream));
  CUgraph graph;
  CUgraphExec exec;
  REQUIRE(cuStreamEndCapture(stream, &graph));
  REQUIRE(cuStreamIsCapturing(stream, &status));
  expect(status == CU_STREAM_CAPTURE_STATUS_NONE, "a stream that records no more");
  REQUIRE(cuGraphInstantiateWithFlags(&exec, graph, 0));
  expect(value() == 0, "nothing is done while a stream records");
  for (unsigned launches = 1; launches <= 3; launches++) {
    REQUIRE(cuGraphLaunch(exec, stream));
    expect(value() == 16 * launches, "a launch of a graph");
  }
  REQUIRE(cuGraphExecDestroy(exec));
  REQUIRE(cuGraphDestroy(graph));
  REQUIRE(cuMemFreeAsync(counter, stream));
}

void test_order() {
  DeviceArray<int> turns(32);
  REQUIRE((Launch{{1, 1, 1}, {32, 1, 1}})("turns_in_a_warp", turns.address));
  expect(turns.read()[31] == 2 && turns.read()[0] == 3, "turns in a warp");
  DeviceArray<unsigned> counter(std::vector<unsigned>{5});
  REQUIRE((Launch{{7, 1, 1}, {100, 1, 1}})("count", counter.address));
  expect(counter.read()[0] == 705, "atomics of many blocks");
  DeviceArray<float> data(64), out(48);
  REQUIRE(Launch{}("hand_over", data.address, out.address));
  expect(out.read()[47] == 15, "a barrier after some threads have ended");
}

void test_refusals() {
  DeviceArray<unsigned> out(1);
  auto refused = [&](Launch launch) { return launch("count", out.address) == CUDA_ERROR_INVALID_VALUE; };
  expect(refused({{0, 1, 1}, {1, 1, 1}}), "a grid without blocks is refused");
  expect(refused({{1, 65536, 1}, {1, 1, 1}}), "too high a grid is refused");
  expect(refused({{1, 1, 1}, {1025, 1, 1}}), "too large a block is refused");
  expect(refused({{1, 1, 1}, {32, 32, 2}}), "too large a block of three dimensions is refused");
  Launch much_shared{{1, 1, 1}, {1, 1, 1}, 48 * 1024 + 1};
  expect(refused(much_shared), "more than 48 KiB of dynamic shared memory are refused");
  CUfunction count = function("count", 1);
  REQUIRE(cuMemsetD8_v2(out.address, 0, 4));
  REQUIRE(cuFuncSetAttribute(count, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 48 * 1024 + 1));
  expect(much_shared("count", out.address) == CUDA_SUCCESS, "unless they were asked for");
  CUmodule module;
  REQUIRE(cuModuleLoadData(&module, ".visible .entry other()"));
  CUfunction f;
  expect(cuModuleGetFunction(&f, module, "count") == CUDA_ERROR_NOT_FOUND, "a name that the module lacks is not found");
  CUdeviceptr address;
  expect(cuMemAlloc_v2(&address, size_t{1} << 50) == CUDA_ERROR_OUT_OF_MEMORY, "too much memory is refused");
  CUdevice device;
  expect(cuDeviceGet(&device, 1) == CUDA_ERROR_INVALID_DEVICE, "there is one device");
  setenv("EMULATED_CUDA_DEVICES", "2", 1);
  expect(cuDeviceGet(&device, 1) == CUDA_SUCCESS, "unless there are to be more");
  unsetenv("EMULATED_CUDA_DEVICES");
}

}  // namespace

void test_correct() {
  test_indices();
  test_parameters();
  test_sum();
  test_reverse();
  test_lanes();
  test_graphs();
  test_order();
  test_refusals();
}
