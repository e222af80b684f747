// cublasLt's products with a bias and GELU against loops in f64, and what it demands of a caller.
#include <cublasLt.h>
#include <cuda_bf16.h>

#include <cmath>

#include "harness.h"

namespace {

using bf16 = __nv_bfloat16;

std::vector<bf16> values(size_t n, unsigned seed) {
  std::vector<bf16> v(n);
  for (size_t i = 0; i < n; i++) v[i] = bf16(float((i * 2654435761u + seed * 40503u) >> 7 & 63) / 16 - 2);
  return v;
}

constexpr size_t WORKSPACE = 4 << 20;

// A product of bf16 of m x n with sums over k, and what a faulty program changes of it.
struct Call {
  int m = 24, n = 5, k = 16;
  bool ta = true, tb = false;
  uint32_t epilogue = CUBLASLT_EPILOGUE_GELU_AUX_BIAS;
  // Elements by which a matrix or vector lies behind the beginning of its allocation.
  size_t shift_b = 0, shift_bias = 0, shift_aux = 0;
  int64_t aux_leading = 32;
  bool bias = true, aux = true;
  int32_t bias_type = -1;
  uint64_t workspace = WORKSPACE;
  size_t given_workspace = WORKSPACE, shift_workspace = 0;
  uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
  // The sizes for which the algorithm is chosen.
  int chosen_m = 0;
};

struct Layouts {
  cublasLtMatrixLayout_t a, b, d;
  Layouts(const Call& x, int m) {
    auto of = [](cublasLtMatrixLayout_t* l, bool transposed, int rows, int columns, int padding) {
      REQUIRE(cublasLtMatrixLayoutCreate(l, CUDA_R_16BF, transposed ? columns : rows, transposed ? rows : columns, (transposed ? columns : rows) + padding));
    };
    of(&a, x.ta, m, x.k, 8);
    of(&b, x.tb, x.k, x.n, 0);
    of(&d, false, m, x.n, 8);
  }
  ~Layouts() {
    for (auto l : {a, b, d}) REQUIRE(cublasLtMatrixLayoutDestroy(l));
  }
};

template <class Attribute, class T> void set(cublasLtMatmulDesc_t d, Attribute attribute, T value) {
  REQUIRE(cublasLtMatmulDescSetAttribute(d, attribute, &value, sizeof value));
}
template <class Attribute, class T> void set(cublasLtMatmulPreference_t p, Attribute attribute, T value) {
  REQUIRE(cublasLtMatmulPreferenceSetAttribute(p, attribute, &value, sizeof value));
}

struct Results {
  int found = 0;
  std::vector<bf16> d, aux;
};

Results run(const Call& x, cublasLtHandle_t handle) {
  int m = x.m, n = x.n, k = x.k;
  int lda = (x.ta ? k : m) + 8, ldb = x.tb ? n : k, ldd = m + 8;
  DeviceArray<bf16> a(values(size_t(lda) * (x.ta ? m : k), 1)), b(values(size_t(ldb) * (x.tb ? k : n) + x.shift_b, 2)), d(values(size_t(ldd) * n, 3));
  DeviceArray<bf16> bias(values(m + x.shift_bias, 4)), aux(values(size_t(40) * n + x.shift_aux, 5));
  DeviceArray<char> workspace(WORKSPACE + 16);
  cublasLtMatmulDesc_t description;
  REQUIRE(cublasLtMatmulDescCreate(&description, CUBLAS_COMPUTE_32F, CUDA_R_32F));
  set(description, CUBLASLT_MATMUL_DESC_TRANSA, int32_t(x.ta ? CUBLAS_OP_T : CUBLAS_OP_N));
  set(description, CUBLASLT_MATMUL_DESC_TRANSB, int32_t(x.tb ? CUBLAS_OP_T : CUBLAS_OP_N));
  set(description, CUBLASLT_MATMUL_DESC_EPILOGUE, x.epilogue);
  if (x.bias) set(description, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias.address + x.shift_bias * sizeof(bf16));
  if (x.aux) set(description, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, aux.address + x.shift_aux * sizeof(bf16));
  set(description, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, x.aux_leading);
  set(description, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, x.bias_type);
  cublasLtMatmulPreference_t preference;
  REQUIRE(cublasLtMatmulPreferenceCreate(&preference));
  set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, x.workspace);
  set(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, x.reductions);
  for (auto alignment : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                         CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
    set(preference, alignment, uint32_t(16));
  Layouts of_problem(x, m), chosen(x, x.chosen_m ? x.chosen_m : m);
  cublasLtMatmulHeuristicResult_t result;
  Results results;
  cublasLtMatmulAlgoGetHeuristic(handle, description, chosen.a, chosen.b, chosen.d, chosen.d, preference, 1, &result, &results.found);
  float one = 1, zero = 0;
  void* to = (void*)d.address;
  if (results.found)
    REQUIRE(cublasLtMatmul(handle, description, &one, (void*)a.address, of_problem.a, (void*)(b.address + x.shift_b * sizeof(bf16)), of_problem.b, &zero, to,
                           of_problem.d, to, of_problem.d, &result.algo, (void*)(workspace.address + x.shift_workspace), x.given_workspace, nullptr));
  REQUIRE(cublasLtMatmulPreferenceDestroy(preference));
  REQUIRE(cublasLtMatmulDescDestroy(description));
  results.d = d.read();
  results.aux = aux.read();
  return results;
}

double gelu(double x) { return 0.5 * x * (1 + std::tanh(0.7978845608 * (x + 0.044715 * x * x * x))); }

// Sums are exact in f32, so results are rounded once; what lies between columns keeps its values.
void test(const Call& x, cublasLtHandle_t handle, const std::string& name) {
  Results got = run(x, handle);
  int lda = (x.ta ? x.k : x.m) + 8, ldb = x.tb ? x.n : x.k, ldd = x.m + 8;
  auto a = values(size_t(lda) * (x.ta ? x.m : x.k), 1), b = values(size_t(ldb) * (x.tb ? x.k : x.n), 2), bias = values(x.m, 4);
  auto d = values(size_t(ldd) * x.n, 3), aux = values(size_t(40) * x.n, 5);
  for (int j = 0; j < x.n; j++)
    for (int i = 0; i < x.m; i++) {
      double sum = x.epilogue & 4 ? double(float(bias[i])) : 0;
      for (int l = 0; l < x.k; l++) sum += double(float(a[x.ta ? i * lda + l : l * lda + i])) * double(float(b[x.tb ? l * ldb + j : j * ldb + l]));
      if (x.epilogue & 128) aux[j * x.aux_leading + i] = bf16(float(sum));
      d[j * ldd + i] = bf16(float(x.epilogue & 32 ? gelu(sum) : sum));
    }
  auto are_close = [](const std::vector<bf16>& x, const std::vector<bf16>& y) {
    bool close = x.size() == y.size();
    for (size_t i = 0; close && i < x.size(); i++) close = std::fabs(float(x[i]) - float(y[i])) <= std::fabs(float(y[i])) / 128 + 1e-6f;
    return close;
  };
  expect(got.found == 1 && are_close(got.d, d) && are_close(got.aux, aux), "epilogue " + std::to_string(x.epilogue) + " of cublasLt, " + name);
}

void expect_fault(const char* message, cublasLtHandle_t handle, const std::function<void(Call&)>& change) {
  Call call;
  change(call);
  std::string text = death_of([&] { run(call, handle); });
  expect(text.find(message) != std::string::npos, "cublasLt must report `" + std::string(message) + "`, got `" + text + "`");
}

void test_faults_of_epilogues(cublasLtHandle_t handle) {
  expect_fault("needs CUBLASLT_MATMUL_DESC_BIAS_POINTER", handle, [](Call& x) { x.bias = false; });
  expect_fault("a bias that is not aligned to 16 bytes", handle, [](Call& x) { x.shift_bias = 4; });
  expect_fault("a bias of another type than the result", handle, [](Call& x) { x.bias_type = CUDA_R_32F; });
  expect_fault("needs CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER", handle, [](Call& x) { x.aux = false; });
  expect_fault("an auxiliary matrix that is not aligned to 16 bytes", handle, [](Call& x) { x.shift_aux = 4; });
  expect_fault("a leading dimension 28 of the auxiliary matrix", handle, [](Call& x) { x.aux_leading = 28; });
  expect_fault("a leading dimension 16 of the auxiliary matrix", handle, [](Call& x) { x.aux_leading = 16; });
  expect_fault("matrix B is not aligned to the 16 bytes", handle, [](Call& x) { x.shift_b = 4; });
  expect_fault("a workspace of 64 bytes, the algorithm needs 1048576", handle, [](Call& x) { x.given_workspace = 64; });
  expect_fault("a workspace that is not aligned to 16 bytes", handle, [](Call& x) { x.shift_workspace = 8; });
  expect_fault("an algorithm of another problem", handle, [](Call& x) { x.chosen_m = 32; });
  expect_fault("may be rounded to the type of the result", handle, [](Call& x) { x.reductions = CUBLASLT_REDUCTION_SCHEME_MASK; });
  expect_fault("with epilogue 192", handle, [](Call& x) { x.epilogue = CUBLASLT_EPILOGUE_DGELU; });
  expect_fault("cublasLtMatmul wants", handle, [](Call& x) { x.n = 6, x.aux_leading = 64; });
}

}  // namespace

void test_epilogues() {
  cublasLtHandle_t handle;
  REQUIRE(cublasLtCreate(&handle));
  for (uint32_t epilogue : {CUBLASLT_EPILOGUE_DEFAULT, CUBLASLT_EPILOGUE_BIAS, CUBLASLT_EPILOGUE_GELU, CUBLASLT_EPILOGUE_GELU_AUX,
                            CUBLASLT_EPILOGUE_GELU_BIAS, CUBLASLT_EPILOGUE_GELU_AUX_BIAS})
    for (bool ta : {false, true})
      for (bool tb : {false, true}) {
        Call call;
        call.epilogue = epilogue, call.ta = ta, call.tb = tb;
        test(call, handle, std::string(ta ? "left transposed" : "left as it is") + (tb ? ", right transposed" : ""));
      }
  Call without;
  without.workspace = without.given_workspace = 0;
  test(without, handle, "without a workspace");
  Call rows;
  rows.aux_leading = 24;
  test(rows, handle, "columns of the auxiliary matrix one behind the other");
  setenv("EMULATED_CUDA_NO_EPILOGUES", "1", 1);
  expect(run(Call(), handle).found == 0, "EMULATED_CUDA_NO_EPILOGUES: no algorithm is found");
  unsetenv("EMULATED_CUDA_NO_EPILOGUES");
  cublasLtMatmulDesc_t description;
  REQUIRE(cublasLtMatmulDescCreate(&description, CUBLAS_COMPUTE_32F, CUDA_R_32F));
  int64_t wide = 4;
  expect(cublasLtMatmulDescSetAttribute(description, CUBLASLT_MATMUL_DESC_EPILOGUE, &wide, sizeof wide) == CUBLAS_STATUS_INVALID_VALUE,
         "an attribute of another size is refused");
  REQUIRE(cublasLtMatmulDescDestroy(description));
  test_faults_of_epilogues(handle);
  REQUIRE(cublasLtDestroy(handle));
}
