// Tensor-core instructions, asynchronous copies and large shared memory against plain loops.
#include <cuda_bf16.h>

#include <cmath>

#include "harness.h"

namespace {

// Small multiples of 1/8 with no symmetry: all sums are exact.
std::vector<__nv_bfloat16> operand(size_t n, unsigned seed) {
  std::vector<__nv_bfloat16> values(n);
  for (size_t i = 0; i < n; i++) values[i] = __nv_bfloat16(float((i * 2654435761u + seed * 40503u) >> 9 & 63) / 8 - 4);
  return values;
}

void test_fragments() {
  auto a = operand(512, 1), b = operand(256, 2);
  std::vector<float> d(256), want(256);
  for (unsigned i = 0; i < 256; i++) {
    unsigned warp = i / 128, row = i / 8 % 16, column = i % 8;
    want[i] = d[i] = i / 4.0f;
    for (unsigned k = 0; k < 16; k++) want[i] += float(a[warp * 256 + row * 16 + k]) * float(b[warp * 128 + k * 8 + column]);
  }
  DeviceArray<__nv_bfloat16> device_a(a), device_b(b);
  DeviceArray<float> device_d(d);
  REQUIRE(Launch{}("fragments", device_a.address, device_b.address, device_d.address));
  expect(device_d.read() == want, "the product of fragments");
}

void test_matrices() {
  std::vector<uint16_t> in(256);
  for (unsigned i = 0; i < 256; i++) in[i] = i * 257 + 3;
  std::vector<uint32_t> want;
  for (unsigned lane = 0; lane < 32; lane++)
    for (unsigned i = 0; i < 10; i++) {
      const uint16_t* matrix = &in[64 * (i < 8 ? i % 4 : i - 8)];
      unsigned row = lane / 4, pair = lane % 4 * 2;
      want.push_back(i < 4 ? matrix[row * 8 + pair] | matrix[row * 8 + pair + 1] << 16 : matrix[pair * 8 + row] | matrix[(pair + 1) * 8 + row] << 16);
    }
  DeviceArray<uint16_t> device_in(in);
  DeviceArray<uint32_t> out(320);
  REQUIRE((Launch{{1, 1, 1}, {32, 1, 1}})("matrices", device_in.address, out.address));
  expect(out.read() == want, "matrices loaded plain and transposed");
}

void test_tensor_product() {
  struct { unsigned m, n, k; } sizes[] = {{64, 64, 64}, {1, 1, 8}, {100, 70, 136}, {65, 129, 40}};
  for (auto [m, n, k] : sizes) {
    auto a = operand(size_t(m) * k, 3), b = operand(size_t(n) * k, 4);
    std::vector<float> want(size_t(m) * n);
    for (unsigned row = 0; row < m; row++)
      for (unsigned column = 0; column < n; column++)
        for (unsigned i = 0; i < k; i++) want[size_t(row) * n + column] += float(a[size_t(row) * k + i]) * float(b[size_t(column) * k + i]);
    DeviceArray<__nv_bfloat16> device_a(a), device_b(b);
    DeviceArray<float> c(want.size());
    Launch launch{{(n + 63) / 64, (m + 63) / 64, 1}, {128, 1, 1}, 2 * 3 * 64 * 40 * 2};
    REQUIRE(launch("tensor_product", device_a.address, device_b.address, c.address, m, n, k));
    expect(c.read() == want, "a product with copies ahead, " + std::to_string(m) + " x " + std::to_string(n) + " x " + std::to_string(k));
  }
}

void test_partial_copies() {
  std::vector<unsigned char> in(17 * 16), want(17 * 16);
  for (unsigned i = 0; i < in.size(); i++) {
    in[i] = i * 7 + 1;
    want[i] = i % 16 < i / 16 ? in[i] : 0;
  }
  DeviceArray<unsigned char> device_in(in), out(want.size());
  REQUIRE((Launch{{1, 1, 1}, {17, 1, 1}})("partial_copies", device_in.address, out.address));
  expect(out.read() == want, "copies that are filled with zeros");
}

void test_large_shared_memory() {
  constexpr unsigned DEFAULT = 48 * 1024, MOST = 227 * 1024;
  CUfunction f = function("shared_memory_end", 2);
  DeviceArray<unsigned> out(1);
  auto launched = [&](unsigned bytes) { return Launch{{1, 1, 1}, {1, 1, 1}, bytes}("shared_memory_end", out.address, bytes / 4); };
  auto allowed = [&](int bytes) { return cuFuncSetAttribute(f, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, bytes); };
  expect(launched(DEFAULT) == CUDA_SUCCESS, "48 KiB of dynamic shared memory");
  expect(launched(DEFAULT + 4) == CUDA_ERROR_INVALID_VALUE, "more without the attribute are refused");
  expect(allowed(MOST + 1) == CUDA_ERROR_INVALID_VALUE, "an attribute beyond 227 KiB is refused");
  expect(allowed(MOST) == CUDA_SUCCESS && launched(MOST) == CUDA_SUCCESS && out.read()[0] == 7, "227 KiB with the attribute");
  expect(launched(MOST + 4) == CUDA_ERROR_INVALID_VALUE, "more than 227 KiB are refused");
  int value = 0;
  expect(cuFuncGetAttribute(&value, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, f) == CUDA_SUCCESS && value == int(MOST), "the attribute can be read");
}

void test_device_functions() {
  DeviceArray<float> in(std::vector<float>{1.00390625f, -2.5f, 3.0f, 0.1f}), out(14);
  REQUIRE((Launch{{1, 1, 1}, {1, 1, 1}})("device_functions", out.address, in.address));
  expect(out.read() == std::vector<float>{1.0f, -2.5f, -2.5f, 1.0f, 1, 1, 1, 2, -15, 15, -1, 8, 1, 0.10009765625f}, "device functions and pairs of bf16");
}

}  // namespace

void test_tensor() {
  test_fragments();
  test_matrices();
  test_tensor_product();
  test_partial_copies();
  test_large_shared_memory();
  test_device_functions();
}
