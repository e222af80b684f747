// libcublasLt: products that add a bias, or apply GELU to the sum with it, before they store their result. What cublasLt demands and
// does not itself report is a fault here: it would compute something else, or another program would fail.
#include <cublasLt.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "checks.h"
#include "driver.h"
#include "graph.h"
#include "memory.h"
#include "operand.h"
#include "report.h"
#include "statistics.h"

namespace emulator {
namespace {

constexpr const char* NAME = "cublasLtMatmul";
// Of a bias and of the auxiliary matrix.
constexpr uintptr_t EPILOGUE_ALIGNMENT = 16;
constexpr size_t ALGORITHM_WORKSPACE = 1 << 20;

struct Description {
  cublasComputeType_t compute;
  cudaDataType_t scale;
  int32_t op_a = CUBLAS_OP_N, op_b = CUBLAS_OP_N;
  uint32_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  const void* bias = nullptr;
  void* aux = nullptr;
  int64_t aux_leading = 0;
  int32_t bias_type = -1, aux_type = -1;

  bool has_bias() const { return epilogue & 4; }
  bool has_gelu() const { return epilogue & 32; }
  bool has_aux() const { return epilogue & 128; }
};

struct Layout {
  cudaDataType_t type;
  uint64_t rows, columns;
  int64_t leading;
};

// Bytes of which the addresses of A, B, C and D are multiples.
struct Preference {
  uint64_t workspace = 0;
  uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_MASK;
  uint32_t alignment[4] = {256, 256, 256, 256};
};

// What lies in a cublasLtMatmulAlgo_t: the problem that the algorithm is for, and what it relies on.
struct Algorithm {
  uint64_t problem, workspace;
  uint32_t alignment[4], bias_alignment, aux_alignment;
};
static_assert(sizeof(Algorithm) <= sizeof(cublasLtMatmulAlgo_t));

Description& of(cublasLtMatmulDesc_t d) { return *reinterpret_cast<Description*>(d); }
Layout& of(cublasLtMatrixLayout_t l) { return *reinterpret_cast<Layout*>(l); }
Preference& of(cublasLtMatmulPreference_t p) { return *reinterpret_cast<Preference*>(p); }

template <class T> cublasStatus_t set(T& value, const void* from, size_t bytes) {
  if (!from || bytes != sizeof(T)) return CUBLAS_STATUS_INVALID_VALUE;
  return memcpy(&value, from, bytes), CUBLAS_STATUS_SUCCESS;
}

bool is_aligned(const void* address, uintptr_t bytes) { return reinterpret_cast<uintptr_t>(address) % bytes == 0; }
uint32_t epilogue_alignment(const void* address) { return is_aligned(address, EPILOGUE_ALIGNMENT) ? EPILOGUE_ALIGNMENT : 1; }

struct Shape {
  uint64_t m, n, k;
};

struct Problem {
  Description description;
  Layout a, b, c, d;

  Shape shape() const { return {d.rows, d.columns, description.op_a == CUBLAS_OP_N ? a.columns : a.rows}; }

  // Sizes and types that cublasLt refuses.
  cublasStatus_t status() const {
    auto [m, n, k] = shape();
    auto is = [](const Layout& l, int32_t op, uint64_t rows, uint64_t columns) {
      return op == CUBLAS_OP_N ? l.rows == rows && l.columns == columns : l.rows == columns && l.columns == rows;
    };
    bool sizes = is(a, description.op_a, m, k) && is(b, description.op_b, k, n) && is(c, CUBLAS_OP_N, m, n) && m && n && k;
    for (const Layout* l : {&a, &b, &c, &d}) sizes &= l->leading >= int64_t(l->rows);
    if (!sizes) return CUBLAS_STATUS_INVALID_VALUE;
    bool half = size_of(type_of(a.type)) == 2;
    bool types = a.type == b.type && c.type == d.type && (d.type == a.type || (half && d.type == CUDA_R_32F));
    return types ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
  }

  void require_epilogue() const {
    const Description& x = description;
    if (x.compute != CUBLAS_COMPUTE_32F || x.scale != CUDA_R_32F) fail("not emulated", "%s with other sums than of f32", NAME);
    const uint32_t all[] = {CUBLASLT_EPILOGUE_DEFAULT, CUBLASLT_EPILOGUE_BIAS,     CUBLASLT_EPILOGUE_GELU,
                            CUBLASLT_EPILOGUE_GELU_AUX, CUBLASLT_EPILOGUE_GELU_BIAS, CUBLASLT_EPILOGUE_GELU_AUX_BIAS};
    if (std::find(std::begin(all), std::end(all), x.epilogue) == std::end(all)) fail("not emulated", "%s with epilogue %u", NAME, x.epilogue);
    if (x.has_bias()) {
      if (!x.bias) fail("cublasLt", "epilogue %u needs CUBLASLT_MATMUL_DESC_BIAS_POINTER", x.epilogue);
      if (!is_aligned(x.bias, EPILOGUE_ALIGNMENT)) fail("cublasLt", "a bias that is not aligned to 16 bytes");
      if (x.bias_type != -1 && x.bias_type != int32_t(d.type)) fail("cublasLt", "a bias of another type than the result");
    }
    if (x.has_aux()) {
      if (!x.aux) fail("cublasLt", "epilogue %u needs CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER", x.epilogue);
      if (!is_aligned(x.aux, EPILOGUE_ALIGNMENT)) fail("cublasLt", "an auxiliary matrix that is not aligned to 16 bytes");
      if (x.aux_leading % 8 || x.aux_leading < int64_t(d.rows))
        fail("cublasLt", "a leading dimension %lld of the auxiliary matrix, no multiple of 8 that is %llu or more", (long long)x.aux_leading,
             (unsigned long long)d.rows);
      if (x.aux_type != -1 && x.aux_type != int32_t(d.type)) fail("cublasLt", "an auxiliary matrix of another type than the result");
    }
  }

  // Of all that an algorithm depends on but addresses.
  uint64_t digest() const {
    uint64_t sum = 14695981039346656037u;
    auto mix = [&](uint64_t value) { sum = (sum ^ value) * 1099511628211u; };
    const Description& x = description;
    for (uint64_t value : {uint64_t(x.op_a), uint64_t(x.op_b), uint64_t(x.epilogue), uint64_t(x.aux_leading)}) mix(value);
    for (const Layout* l : {&a, &b, &c, &d})
      for (uint64_t value : {uint64_t(l->type), l->rows, l->columns, uint64_t(l->leading)}) mix(value);
    return sum;
  }
};

// With the hyperbolic tangent.
float gelu(float x) { return 0.5f * x * (1.0f + std::tanh(0.7978846f * (x + 0.044715f * x * x * x))); }

struct Product {
  Problem problem;
  float alpha, beta;
  const void *a, *b, *c;
  void *d, *workspace;
  size_t workspace_bytes;

  void require(const Algorithm& algorithm) const {
    if (algorithm.problem != problem.digest()) fail("cublasLt", "an algorithm of another problem");
    const void* addresses[] = {a, b, c, d};
    for (int i = 0; i < 4; i++)
      if (!is_aligned(addresses[i], algorithm.alignment[i]))
        fail("cublasLt", "matrix %c is not aligned to the %u bytes that the algorithm was chosen for", "ABCD"[i], algorithm.alignment[i]);
    const Description& x = problem.description;
    if ((x.has_bias() && !is_aligned(x.bias, algorithm.bias_alignment)) || (x.has_aux() && !is_aligned(x.aux, algorithm.aux_alignment)))
      fail("cublasLt", "the epilogue's operands are not aligned as when the algorithm was chosen");
    if (workspace_bytes < algorithm.workspace)
      fail("cublasLt", "a workspace of %zu bytes, the algorithm needs %llu", workspace_bytes, (unsigned long long)algorithm.workspace);
    if (algorithm.workspace && !is_aligned(workspace, 16)) fail("cublasLt", "a workspace that is not aligned to 16 bytes");
    if (algorithm.workspace) require_allocated(NAME, reinterpret_cast<uintptr_t>(workspace), algorithm.workspace);
  }

  void multiply(CUstream stream) const {
    const Description& x = problem.description;
    auto [m, n, k] = problem.shape();
    auto operand = [](const void* data, const Layout& l) { return Operand{data, type_of(l.type), l.leading, 0}; };
    Operand left = operand(a, problem.a), right = operand(b, problem.b), added = operand(c, problem.c), result = operand(d, problem.d);
    Operand bias{x.bias, result.type, int64_t(m), 0}, aux{x.aux, result.type, x.aux_leading, 0};
    statistics().launches[NAME]++;
    order::work(NAME, stream, {left.use(false), right.use(false), added.use(false), result.use(true), bias.use(false), aux.use(true),
                               {reinterpret_cast<uintptr_t>(workspace), true}});
    Matrix from_a = left.matrix(cublasOperation_t(x.op_a), m, k, 0), from_b = right.matrix(cublasOperation_t(x.op_b), k, n, 0);
    Matrix to = result.matrix(CUBLAS_OP_N, m, n, 0), pre_activation = aux.matrix(CUBLAS_OP_N, m, n, 0);
    require_readable(NAME, from_a);
    require_readable(NAME, from_b);
    if (beta != 0) require_readable(NAME, added.matrix(CUBLAS_OP_N, m, n, 0));
    if (x.has_bias()) require_readable(NAME, bias.matrix(CUBLAS_OP_N, m, 1, 0));
    if (x.has_aux()) require_writable(NAME, pre_activation);
    require_writable(NAME, to);
    std::vector<float> sums(m * n);
    gemm(from_a, from_b, {sums.data(), Type::f32, m, n, 1, m}, alpha, 0);
    for (size_t j = 0; j < n; j++)
      for (size_t i = 0; i < m; i++) {
        float value = sums[j * m + i];
        if (beta != 0) value += beta * float(load(added.type, c, j * added.leading + i));
        if (x.has_bias()) value += float(load(bias.type, x.bias, i));
        if (x.has_aux()) store(aux.type, x.aux, j * aux.leading + i, value);
        store(result.type, d, j * result.leading + i, x.has_gelu() ? gelu(value) : value);
      }
    if (x.has_aux()) written(pre_activation);
    written(to);
  }
};

}  // namespace
}  // namespace emulator

using namespace emulator;

extern "C" {

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  *handle = reinterpret_cast<cublasLtHandle_t>(new char);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  delete reinterpret_cast<char*>(handle);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* description, cublasComputeType_t compute, cudaDataType_t scale) {
  auto* created = new Description;
  created->compute = compute;
  created->scale = scale;
  *description = reinterpret_cast<cublasLtMatmulDesc_t>(created);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t description) { return delete &of(description), CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t description, cublasLtMatmulDescAttributes_t attribute, const void* from, size_t bytes) {
  Description& d = of(description);
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA: return set(d.op_a, from, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB: return set(d.op_b, from, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE: return set(d.epilogue, from, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER: return set(d.bias, from, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE: return set(d.bias_type, from, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER: return set(d.aux, from, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD: return set(d.aux_leading, from, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE: return set(d.aux_type, from, bytes);
    default: fail("not emulated", "attribute %d of a product of cublasLt", int(attribute));
  }
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type, uint64_t rows, uint64_t columns, int64_t leading) {
  *layout = reinterpret_cast<cublasLtMatrixLayout_t>(new Layout{type, rows, columns, leading});
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) { return delete &of(layout), CUBLAS_STATUS_SUCCESS; }

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  *preference = reinterpret_cast<cublasLtMatmulPreference_t>(new Preference);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) { return delete &of(preference), CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t attribute, const void* from,
                                                    size_t bytes) {
  Preference& p = of(preference);
  switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES: return set(p.workspace, from, bytes);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK: return set(p.reductions, from, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES: return set(p.alignment[0], from, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES: return set(p.alignment[1], from, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES: return set(p.alignment[2], from, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES: return set(p.alignment[3], from, bytes);
    default: fail("not emulated", "preference %d of cublasLt", int(attribute));
  }
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t description, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d, cublasLtMatmulPreference_t preference, int requested,
                                              cublasLtMatmulHeuristicResult_t results[], int* found) {
  *found = 0;
  if (requested <= 0) return CUBLAS_STATUS_INVALID_VALUE;
  Problem problem{of(description), of(a), of(b), of(c), of(d)};
  if (auto status = problem.status()) return status;
  problem.require_epilogue();
  const Preference& p = of(preference);
  // A result half as wide as the sums must not be what parts of a sum are kept in.
  if ((p.reductions & (CUBLASLT_REDUCTION_SCHEME_INPLACE | CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE)) && size_of(type_of(problem.d.type)) == 2)
    fail("cublasLt", "parts of sums may be rounded to the type of the result (reduction schemes %u)", p.reductions);
  if (getenv("EMULATED_CUDA_NO_EPILOGUES")) return CUBLAS_STATUS_NOT_SUPPORTED;
  const Description& x = problem.description;
  Algorithm algorithm{problem.digest(), std::min<uint64_t>(p.workspace, ALGORITHM_WORKSPACE), {}, epilogue_alignment(x.bias), epilogue_alignment(x.aux)};
  std::copy(p.alignment, p.alignment + 4, algorithm.alignment);
  results[0] = {};
  memcpy(&results[0].algo, &algorithm, sizeof algorithm);
  results[0].workspaceSize = algorithm.workspace;
  results[0].state = CUBLAS_STATUS_SUCCESS;
  results[0].wavesCount = 1;
  *found = 1;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t description, const void* alpha, const void* a, cublasLtMatrixLayout_t a_layout,
                              const void* b, cublasLtMatrixLayout_t b_layout, const void* beta, const void* c, cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* algo, void* workspace, size_t workspace_bytes,
                              cudaStream_t stream) {
  Problem problem{of(description), of(a_layout), of(b_layout), of(c_layout), of(d_layout)};
  if (auto status = problem.status()) return status;
  problem.require_epilogue();
  if (!algo) fail("not emulated", "%s without an algorithm", NAME);
  Product product{problem, *static_cast<const float*>(alpha), *static_cast<const float*>(beta), a, b, c, d, workspace, workspace_bytes};
  Algorithm algorithm;
  memcpy(&algorithm, algo, sizeof algorithm);
  auto turn = take_turn();
  product.require(algorithm);
  if (!graph::records(stream, [product, stream] { product.multiply(stream); })) product.multiply(stream);
  return CUBLAS_STATUS_SUCCESS;
}

}  // extern "C"
