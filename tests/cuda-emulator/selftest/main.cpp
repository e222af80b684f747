// Tests of the emulated driver: main none|access|address, for the checks with which it was built.
#include "harness.h"

extern "C" {
void emulated_cuda_reset_statistics();
size_t emulated_cuda_statistics(char* text, size_t capacity);
}

void test_statistics() {
  DeviceArray<float> before(100);
  emulated_cuda_reset_statistics();
  {
    DeviceArray<unsigned> counter(std::vector<unsigned>{0}), other(2);
    for (int i = 0; i < 3; i++) REQUIRE((Launch{{2, 1, 1}, {8, 1, 1}})("count", counter.address));
    REQUIRE(cuMemsetD8_v2(other.address, 1, 8));
    REQUIRE(cuMemcpyDtoD_v2(other.address, counter.address, 4));
    REQUIRE(cuStreamSynchronize(nullptr));
    counter.read();
  }
  std::string text(emulated_cuda_statistics(nullptr, 0), ' ');
  emulated_cuda_statistics(text.data(), text.size());
  text.pop_back();
  std::string want =
      R"({"launches":3,"launches_by_kernel":{"count":3},"host_to_device":{"calls":1,"bytes":4},"host_to_device_from_pageable":{"calls":1,"bytes":4},"device_to_host":{"calls":1,"bytes":4},)"
      R"("device_to_device":{"calls":1,"bytes":4},"memsets":{"calls":1,"bytes":8},"collectives":{"calls":0,"bytes":0},"graphs":0,"synchronisations":1,"allocations":{"calls":2,"bytes":12},)"
      R"("frees":2,"memory_bytes":400,"peak_memory_bytes":412})";
  expect(text == want, "statistics: expected " + want + ", got " + text);
}

int main(int count, char** arguments) {
  std::string check = count == 2 ? arguments[1] : "";
  if (check != "none" && check != "access" && check != "address") {
    fprintf(stderr, "usage: %s none|access|address\n", arguments[0]);
    return 2;
  }
  REQUIRE(cuInit(0));
  test_correct();
  test_products();
  test_epilogues();
  test_tensor();
  test_statistics();
  test_collectives();
  test_faults(check);
  printf("emulated CUDA driver, checks `%s`: %d passed, %d failed\n", check.c_str(), passed, failures);
  return failures != 0;
}
