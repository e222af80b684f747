#include "operand.h"

#include "checks.h"
#include "memory.h"
#include "report.h"

namespace emulator {
namespace {

// Each stored column of the matrix, for the checks.
template <class F> void for_each_column(const Matrix& m, F visit) {
  bool transposed = m.column_stride == 1 && m.row_stride != 1;
  size_t length = transposed ? m.columns : m.rows, count = transposed ? m.rows : m.columns;
  size_t step = transposed ? m.row_stride : m.column_stride;
  for (size_t j = 0; j < count; j++)
    visit(reinterpret_cast<uintptr_t>(m.data) + j * step * size_of(m.type), length * size_of(m.type));
}

}  // namespace

Type type_of(cudaDataType_t type) {
  switch (type) {
    case CUDA_R_32F: return Type::f32;
    case CUDA_R_64F: return Type::f64;
    case CUDA_R_16F: return Type::f16;
    case CUDA_R_16BF: return Type::bf16;
    default: fail("not emulated", "a matrix product of cudaDataType %d", int(type));
  }
}

Matrix Operand::matrix(cublasOperation_t op, size_t rows, size_t columns, int index) const {
  char* start = static_cast<char*>(const_cast<void*>(data)) + index * stride * static_cast<long long>(size_of(type));
  size_t step = leading;
  if (op == CUBLAS_OP_N) return {start, type, rows, columns, 1, step};
  return {start, type, rows, columns, step, 1};
}

void require_readable(const char* what, const Matrix& m) {
  for_each_column(m, [&](uintptr_t column, size_t bytes) {
    require_allocated(what, column, bytes);
    checks::reads(what, column, bytes);
  });
}

void require_writable(const char* what, const Matrix& m) {
  for_each_column(m, [&](uintptr_t column, size_t bytes) { require_allocated(what, column, bytes); });
}

void written(const Matrix& m) {
  for_each_column(m, [&](uintptr_t column, size_t bytes) { checks::writes(column, bytes); });
}

}  // namespace emulator
