// Every fault is caught by the checks that claim it, with the kernel's name, and its right twin passes.
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
    {"misaligned", nullptr, nullptr, "misaligned address"},  // the compiler writes the four words one by one
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

}  // namespace

void test_faults(const std::string& check) {
  for (const Fault& fault : FAULTS) {
    const char* message = fault.always ? fault.always : check == "access" ? fault.access : check == "address" ? fault.address : nullptr;
    std::string clean = death_of([&] { run(fault, 0); });
    expect(clean.empty(), std::string("the right twin of ") + fault.kernel + " must pass, got `" + clean + "`");
    if (message) expect_death(fault.kernel, message, check != "address" || fault.always, [&] { run(fault, 1); });
  }
  test_host_faults(check == "access");
}
