// libcublas: the products that candle and cudarc ask for. Matrices are column-major, as cuBLAS has them.
#include <cublas_v2.h>

#include "driver.h"
#include "graph.h"
#include "operand.h"
#include "order.h"
#include "statistics.h"

namespace emulator {
namespace {

// alpha and beta come in the type in which the product is computed.
Type scalar_type(cublasComputeType_t compute) {
  if (compute == CUBLAS_COMPUTE_16F || compute == CUBLAS_COMPUTE_16F_PEDANTIC) return Type::f16;
  if (compute == CUBLAS_COMPUTE_64F || compute == CUBLAS_COMPUTE_64F_PEDANTIC) return Type::f64;
  return Type::f32;
}

// A handle of the library.
struct Handle { CUstream stream = nullptr; };

struct Product {
  cublasHandle_t handle;
  const char* name;
  cublasOperation_t op_a, op_b;
  int m, n, k;
  double alpha, beta;
  Operand a, b, c;
  int batch;

  bool is_valid() const {
    bool sizes = m >= 0 && n >= 0 && k >= 0 && batch >= 0;
    auto most = [](int x, int y) { return x > y ? x : y; };
    return sizes && a.leading >= most(1, op_a == CUBLAS_OP_N ? m : k) && b.leading >= most(1, op_b == CUBLAS_OP_N ? k : n) && c.leading >= most(1, m);
  }

  // Operands are of one type, and the result of the same or, from half precision, of f32.
  bool is_supported() const { return a.type == b.type && (c.type == a.type || (c.type == Type::f32 && size_of(a.type) == 2)); }

  cublasStatus_t run() const {
    if (!is_valid()) return CUBLAS_STATUS_INVALID_VALUE;
    if (!is_supported()) return CUBLAS_STATUS_NOT_SUPPORTED;
    auto turn = take_turn();
    CUstream stream = reinterpret_cast<Handle*>(handle)->stream;
    if (!graph::records(stream, [product = *this, stream] { product.multiply(stream); })) multiply(stream);
    return CUBLAS_STATUS_SUCCESS;
  }

  void multiply(CUstream stream) const {
    statistics().launches[name]++;
    order::work(name, stream, {a.use(false), b.use(false), c.use(true)});
    for (int i = 0; i < batch; i++) {
      Matrix left = a.matrix(op_a, m, k, i), right = b.matrix(op_b, k, n, i), result = c.matrix(CUBLAS_OP_N, m, n, i);
      require_readable(name, left);
      require_readable(name, right);
      if (beta != 0) require_readable(name, result);
      require_writable(name, result);
      gemm(left, right, result, alpha, beta);
      written(result);
    }
  }
};

template <class T>
cublasStatus_t plain(cublasHandle_t handle, const char* name, Type type, cublasOperation_t op_a, cublasOperation_t op_b, int m, int n, int k, const T* alpha, const T* a,
                     int lda, long long stride_a, const T* b, int ldb, long long stride_b, const T* beta, T* c, int ldc, long long stride_c, int batch) {
  return Product{handle, name, op_a, op_b, m, n, k, *alpha, *beta, {a, type, lda, stride_a}, {b, type, ldb, stride_b}, {c, type, ldc, stride_c}, batch}.run();
}

}  // namespace
}  // namespace emulator

using namespace emulator;

extern "C" {

cublasStatus_t cublasCreate_v2(cublasHandle_t* handle) {
  *handle = reinterpret_cast<cublasHandle_t>(new Handle);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasDestroy_v2(cublasHandle_t handle) {
  delete reinterpret_cast<Handle*>(handle);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetStream_v2(cublasHandle_t handle, cudaStream_t stream) {
  reinterpret_cast<Handle*>(handle)->stream = stream;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetMathMode(cublasHandle_t, cublasMath_t) { return CUBLAS_STATUS_SUCCESS; }

cublasStatus_t cublasGemmStridedBatchedEx(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, int m, int n, int k, const void* alpha,
                                          const void* a, cudaDataType_t type_a, int lda, long long stride_a, const void* b, cudaDataType_t type_b,
                                          int ldb, long long stride_b, const void* beta, void* c, cudaDataType_t type_c, int ldc,
                                          long long stride_c, int batch, cublasComputeType_t compute, cublasGemmAlgo_t) {
  Type scalar = scalar_type(compute);
  return Product{handle, "cublasGemmStridedBatchedEx", op_a, op_b, m, n, k, load(scalar, alpha, 0), load(scalar, beta, 0),
                 {a, type_of(type_a), lda, stride_a}, {b, type_of(type_b), ldb, stride_b}, {c, type_of(type_c), ldc, stride_c}, batch}
      .run();
}
cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, int m, int n, int k, const void* alpha, const void* a,
                            cudaDataType_t type_a, int lda, const void* b, cudaDataType_t type_b, int ldb, const void* beta, void* c,
                            cudaDataType_t type_c, int ldc, cublasComputeType_t compute, cublasGemmAlgo_t) {
  Type scalar = scalar_type(compute);
  return Product{handle, "cublasGemmEx", op_a, op_b, m, n, k, load(scalar, alpha, 0), load(scalar, beta, 0),
                 {a, type_of(type_a), lda, 0}, {b, type_of(type_b), ldb, 0}, {c, type_of(type_c), ldc, 0}, 1}
      .run();
}

cublasStatus_t cublasSgemm_v2(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, int m, int n, int k, const float* alpha,
                              const float* a, int lda, const float* b, int ldb, const float* beta, float* c, int ldc) {
  return plain(handle, "cublasSgemm", Type::f32, op_a, op_b, m, n, k, alpha, a, lda, 0, b, ldb, 0, beta, c, ldc, 0, 1);
}
cublasStatus_t cublasDgemm_v2(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, int m, int n, int k, const double* alpha,
                              const double* a, int lda, const double* b, int ldb, const double* beta, double* c, int ldc) {
  return plain(handle, "cublasDgemm", Type::f64, op_a, op_b, m, n, k, alpha, a, lda, 0, b, ldb, 0, beta, c, ldc, 0, 1);
}
cublasStatus_t cublasSgemmStridedBatched(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, int m, int n, int k, const float* alpha,
                                         const float* a, int lda, long long stride_a, const float* b, int ldb, long long stride_b,
                                         const float* beta, float* c, int ldc, long long stride_c, int batch) {
  return plain(handle, "cublasSgemmStridedBatched", Type::f32, op_a, op_b, m, n, k, alpha, a, lda, stride_a, b, ldb, stride_b, beta, c, ldc, stride_c, batch);
}
cublasStatus_t cublasDgemmStridedBatched(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, int m, int n, int k, const double* alpha,
                                         const double* a, int lda, long long stride_a, const double* b, int ldb, long long stride_b,
                                         const double* beta, double* c, int ldc, long long stride_c, int batch) {
  return plain(handle, "cublasDgemmStridedBatched", Type::f64, op_a, op_b, m, n, k, alpha, a, lda, stride_a, b, ldb, stride_b, beta, c, ldc, stride_c, batch);
}

}  // extern "C"
