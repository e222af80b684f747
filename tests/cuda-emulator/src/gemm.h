// A matrix product fast enough for tests: operands are widened and laid out once, the inner loop is vectorised.
#pragma once

#include <cstddef>

namespace emulator {

enum class Type { f32, f64, f16, bf16 };
constexpr size_t size_of(Type t) { return t == Type::f64 ? 8 : t == Type::f32 ? 4 : 2; }

// A matrix of `rows` x `columns` whose element (i, j) is element i * row_stride + j * column_stride of `data`.
struct Matrix {
  void* data;
  Type type;
  size_t rows, columns, row_stride, column_stride;
};

// c = alpha a b + beta c, summed in f64 for f64 and in f32 else. Where beta is 0, c is not read.
void gemm(const Matrix& a, const Matrix& b, const Matrix& c, double alpha, double beta);

double load(Type, const void* data, size_t index);
void store(Type, void* data, size_t index, float value);

}  // namespace emulator
