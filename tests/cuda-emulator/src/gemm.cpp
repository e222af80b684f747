#include "gemm.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <vector>

namespace emulator {
namespace {

template <class T> T read(Type type, const void* data, size_t i) {
  switch (type) {
    case Type::f32: return static_cast<const float*>(data)[i];
    case Type::f64: return T(static_cast<const double*>(data)[i]);
    case Type::f16: return __half2float(static_cast<const __half*>(data)[i]);
    case Type::bf16: return __bfloat162float(static_cast<const __nv_bfloat16*>(data)[i]);
  }
  return 0;
}

template <class T> void write(Type type, void* data, size_t i, T value) {
  switch (type) {
    case Type::f32: static_cast<float*>(data)[i] = value; break;
    case Type::f64: static_cast<double*>(data)[i] = value; break;
    case Type::f16: static_cast<__half*>(data)[i] = __float2half(value); break;
    case Type::bf16: static_cast<__nv_bfloat16*>(data)[i] = __float2bfloat16(value); break;
  }
}

constexpr size_t ROWS = 4, COLUMNS = 32;  // of a tile of c, whose sums stay in registers

size_t rounded_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

// Row by row, in the type of the sums, with zeros up to a full tile.
template <class T> std::vector<T> pack(const Matrix& m, size_t rows, size_t columns) {
  std::vector<T> packed(rows * columns);
  for (size_t i = 0; i < m.rows; i++)
    for (size_t j = 0; j < m.columns; j++) packed[i * columns + j] = read<T>(m.type, m.data, i * m.row_stride + j * m.column_stride);
  return packed;
}

template <class T> void multiply(const Matrix& a, const Matrix& b, const Matrix& c, T alpha, T beta) {
  size_t inner = a.columns, stride = rounded_up(b.columns, COLUMNS);
  std::vector<T> left = pack<T>(a, rounded_up(a.rows, ROWS), inner), right = pack<T>(b, inner, stride);
  for (size_t j0 = 0; j0 < b.columns; j0 += COLUMNS)
    for (size_t i0 = 0; i0 < a.rows; i0 += ROWS) {
      T sums[ROWS][COLUMNS] = {};
      for (size_t k = 0; k < inner; k++)
        for (size_t i = 0; i < ROWS; i++)
          for (size_t j = 0; j < COLUMNS; j++) sums[i][j] += left[(i0 + i) * inner + k] * right[k * stride + j0 + j];
      for (size_t i = i0; i < std::min(i0 + ROWS, a.rows); i++)
        for (size_t j = j0; j < std::min(j0 + COLUMNS, b.columns); j++) {
          size_t at = i * c.row_stride + j * c.column_stride;
          T value = alpha * sums[i - i0][j - j0];
          write<T>(c.type, c.data, at, beta == 0 ? value : value + beta * read<T>(c.type, c.data, at));
        }
    }
}

}  // namespace

double load(Type type, const void* data, size_t index) { return read<double>(type, data, index); }
void store(Type type, void* data, size_t index, float value) { write<float>(type, data, index, value); }

void gemm(const Matrix& a, const Matrix& b, const Matrix& c, double alpha, double beta) {
  if (c.type == Type::f64) multiply<double>(a, b, c, alpha, beta);
  else multiply<float>(a, b, c, alpha, beta);
}

}  // namespace emulator
