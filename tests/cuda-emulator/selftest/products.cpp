// The matrix products against three loops in f64: every type, transposition, leading dimension and batch stride.
#include <cublas_v2.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>

#include "harness.h"

namespace {

cublasHandle_t handle() {
  static const cublasHandle_t one = [] {
    cublasHandle_t handle;
    REQUIRE(cublasCreate_v2(&handle));
    return handle;
  }();
  return one;
}

float value(size_t i, unsigned seed) { return float((i * 2654435761u + seed * 40503u) >> 7 & 63) / 16 - 2; }

template <class T> std::vector<T> values(size_t n, unsigned seed) {
  std::vector<T> v(n);
  for (size_t i = 0; i < n; i++) v[i] = T(value(i, seed));
  return v;
}

struct Shape { int m, n, k, batch; };

// All values are small multiples of 1/16, so sums are exact in f32 and only the result is rounded.
template <class T, class Result = T>
void test(const char* name, cudaDataType_t type, cudaDataType_t type_of_result, cublasComputeType_t compute, double tolerance, Shape s, bool ta, bool tb,
          float beta) {
  int lda = (ta ? s.k : s.m) + 3, ldb = (tb ? s.n : s.k) + 1, ldc = s.m + 2;
  size_t size_a = lda * size_t(ta ? s.m : s.k) + 5, size_b = ldb * size_t(tb ? s.k : s.n), size_c = ldc * size_t(s.n) + 1;
  auto a = values<T>(size_a * s.batch, 1), b = values<T>(size_b * s.batch, 2);
  auto c = values<Result>(size_c * s.batch, 3);
  DeviceArray<T> da(a), db(b);
  DeviceArray<Result> dc(c);
  float alpha = 0.5f;
  double alpha64 = alpha, beta64 = beta;
  bool wide = type == CUDA_R_64F;
  auto op = [](bool transposed) { return transposed ? CUBLAS_OP_T : CUBLAS_OP_N; };
  REQUIRE(cublasGemmStridedBatchedEx(handle(), op(ta), op(tb), s.m, s.n, s.k, wide ? (void*)&alpha64 : &alpha, (void*)da.address, type, lda, size_a,
                                     (void*)db.address, type, ldb, size_b, wide ? (void*)&beta64 : &beta, (void*)dc.address, type_of_result, ldc,
                                     size_c, s.batch, compute, CUBLAS_GEMM_DEFAULT));
  auto got = dc.read();
  bool right = true;
  for (int batch = 0; batch < s.batch; batch++)
    for (int j = 0; j < s.n; j++)
      for (int i = 0; i < ldc; i++) {
        size_t at = batch * size_c + size_t(j) * ldc + i;
        double want = double(c[at]);
        if (i < s.m) {
          double sum = 0;
          for (int l = 0; l < s.k; l++)
            sum += double(a[batch * size_a + (ta ? size_t(i) * lda + l : size_t(l) * lda + i)]) *
                   double(b[batch * size_b + (tb ? size_t(l) * ldb + j : size_t(j) * ldb + l)]);
          want = alpha * sum + (beta ? beta * want : 0);
        }
        right &= std::fabs(double(got[at]) - want) <= tolerance * std::fabs(want);
      }
  expect(right, std::string(name) + " product " + std::to_string(s.m) + " x " + std::to_string(s.n) + " x " + std::to_string(s.k) +
                    (ta ? ", left transposed" : "") + (tb ? ", right transposed" : "") + (beta ? ", added" : ""));
}

}  // namespace

void test_products() {
  for (Shape s : {Shape{1, 1, 1, 1}, {3, 5, 2, 2}, {33, 7, 65, 1}, {64, 32, 16, 3}, {5, 40, 0, 1}})
    for (bool ta : {false, true})
      for (bool tb : {false, true})
        for (float beta : {0.0f, 2.0f}) {
          test<float>("f32", CUDA_R_32F, CUDA_R_32F, CUBLAS_COMPUTE_32F, 1e-6, s, ta, tb, beta);
          test<double>("f64", CUDA_R_64F, CUDA_R_64F, CUBLAS_COMPUTE_64F, 1e-15, s, ta, tb, beta);
          test<__half>("f16", CUDA_R_16F, CUDA_R_16F, CUBLAS_COMPUTE_32F, 1.0 / 2048, s, ta, tb, beta);
          test<__nv_bfloat16>("bf16", CUDA_R_16BF, CUDA_R_16BF, CUBLAS_COMPUTE_32F, 1.0 / 256, s, ta, tb, beta);
          test<__nv_bfloat16, float>("bf16 into f32", CUDA_R_16BF, CUDA_R_32F, CUBLAS_COMPUTE_32F, 1e-6, s, ta, tb, beta);
        }
  float one = 1;
  DeviceArray<float> c(4);
  expect(cublasSgemm_v2(handle(), CUBLAS_OP_N, CUBLAS_OP_N, 2, 2, 2, &one, nullptr, 1, nullptr, 2, &one, (float*)c.address, 2) ==
             CUBLAS_STATUS_INVALID_VALUE,
         "too small a leading dimension is refused");
  DeviceArray<float> operands(8);
  void* address = (void*)operands.address;
  expect(cublasGemmEx(handle(), CUBLAS_OP_N, CUBLAS_OP_N, 2, 2, 2, &one, address, CUDA_R_16BF, 2, address, CUDA_R_32F, 2, &one, (void*)c.address, CUDA_R_32F,
                      2, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT) == CUBLAS_STATUS_NOT_SUPPORTED,
         "operands of two types are refused");
}
