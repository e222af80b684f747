// The operands and results of the libraries' matrix products: column-major, with a leading dimension, as cuBLAS has them.
#pragma once

#include <cublas_v2.h>

#include "gemm.h"
#include "order.h"

namespace emulator {

// Ends the process for a type that is not emulated.
Type type_of(cudaDataType_t);

struct Operand {
  const void* data;
  Type type;
  long long leading;
  long long stride;  // from one matrix of the batch to the next

  // op(m) of the batch's matrix `index`: `rows` x `columns` after the operation.
  Matrix matrix(cublasOperation_t op, size_t rows, size_t columns, int index) const;
  order::Use use(bool writes) const { return {reinterpret_cast<uintptr_t>(data), writes}; }
};

// Ends the process unless a product `what` may read, or write, all elements.
void require_readable(const char* what, const Matrix&);
void require_writable(const char* what, const Matrix&);
// A product has written all elements.
void written(const Matrix&);

}  // namespace emulator
