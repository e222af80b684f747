// libcurand: other numbers than a GPU's, from a generator of the standard library; the same ones for the same seed.
#include <curand.h>

#include <random>

#include "checks.h"
#include "driver.h"
#include "memory.h"
#include "order.h"
#include "statistics.h"

namespace emulator {
namespace {

struct Generator {
  std::mt19937_64 numbers;
  CUstream stream = nullptr;
};

template <class T, class Distribution> curandStatus_t fill(const char* what, curandGenerator_t generator, T* out, size_t count, Distribution distribution) {
  auto turn = take_turn();
  auto address = reinterpret_cast<uintptr_t>(out);
  require_allocated(what, address, count * sizeof(T));
  statistics().launches[what]++;
  auto* from = reinterpret_cast<Generator*>(generator);
  order::work(what, from->stream, {{address, true}});
  for (size_t i = 0; i < count; i++) out[i] = distribution(from->numbers);
  checks::writes(address, count * sizeof(T));
  return CURAND_STATUS_SUCCESS;
}

// As cuRAND does it: above 0, and 1 included.
template <class T> struct Uniform {
  T operator()(std::mt19937_64& g) { return T(1) - std::uniform_real_distribution<T>(0, 1)(g); }
};

}  // namespace
}  // namespace emulator

using namespace emulator;

extern "C" {

curandStatus_t curandCreateGenerator(curandGenerator_t* generator, curandRngType_t) {
  *generator = reinterpret_cast<curandGenerator_t>(new Generator);
  return CURAND_STATUS_SUCCESS;
}
curandStatus_t curandDestroyGenerator(curandGenerator_t generator) {
  delete reinterpret_cast<Generator*>(generator);
  return CURAND_STATUS_SUCCESS;
}
curandStatus_t curandSetPseudoRandomGeneratorSeed(curandGenerator_t generator, unsigned long long seed) {
  reinterpret_cast<Generator*>(generator)->numbers.seed(seed);
  return CURAND_STATUS_SUCCESS;
}
curandStatus_t curandSetStream(curandGenerator_t generator, cudaStream_t stream) {
  reinterpret_cast<Generator*>(generator)->stream = stream;
  return CURAND_STATUS_SUCCESS;
}
curandStatus_t curandGenerateUniform(curandGenerator_t g, float* out, size_t n) { return fill("curandGenerateUniform", g, out, n, Uniform<float>()); }
curandStatus_t curandGenerateUniformDouble(curandGenerator_t g, double* out, size_t n) { return fill("curandGenerateUniformDouble", g, out, n, Uniform<double>()); }
// The pseudo-random generators of cuRAND make normal numbers in pairs, and refuse an odd count.
curandStatus_t curandGenerateNormal(curandGenerator_t g, float* out, size_t n, float mean, float deviation) {
  if (n % 2) return CURAND_STATUS_LENGTH_NOT_MULTIPLE;
  return fill("curandGenerateNormal", g, out, n, std::normal_distribution<float>(mean, deviation));
}
curandStatus_t curandGenerateNormalDouble(curandGenerator_t g, double* out, size_t n, double mean, double deviation) {
  if (n % 2) return CURAND_STATUS_LENGTH_NOT_MULTIPLE;
  return fill("curandGenerateNormalDouble", g, out, n, std::normal_distribution<double>(mean, deviation));
}

}  // extern "C"
