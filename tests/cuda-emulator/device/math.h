// Device functions that CUDA's headers declare for device code only.
#pragma once

using std::isfinite; using std::isinf; using std::isnan; using std::max; using std::min; using std::signbit;

// Integers and bits.
template <class To, class From> static inline To emulated_bits(From from) {
  static_assert(sizeof(To) == sizeof(From), "the same bits");
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}
static inline unsigned __float_as_uint(float v) { return emulated_bits<unsigned>(v); }
static inline int __float_as_int(float v) { return emulated_bits<int>(v); }
static inline float __uint_as_float(unsigned v) { return emulated_bits<float>(v); }
static inline float __int_as_float(int v) { return emulated_bits<float>(v); }
static inline long long __double_as_longlong(double v) { return emulated_bits<long long>(v); }
static inline double __longlong_as_double(long long v) { return emulated_bits<double>(v); }
static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned long long)a * b >> 32; }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) { return (unsigned __int128)a * b >> 64; }
static inline int __mulhi(int a, int b) { return (long long)a * b >> 32; }
static inline int __mul24(int a, int b) { return (int)((unsigned)((int)((unsigned)a << 8) >> 8) * (unsigned)((int)((unsigned)b << 8) >> 8)); }
static inline unsigned __umul24(unsigned a, unsigned b) { return (a & 0xffffffu) * (b & 0xffffffu); }
static inline int __popc(unsigned v) { return __builtin_popcount(v); }
static inline int __popcll(unsigned long long v) { return __builtin_popcountll(v); }
static inline int __clz(int v) { return v ? __builtin_clz(v) : 32; }
static inline int __ffs(int v) { return __builtin_ffs(v); }
static inline unsigned __brev(unsigned v) {
  unsigned reversed = 0;
  for (int i = 0; i < 32; i++) reversed |= (v >> i & 1) << (31 - i);
  return reversed;
}
// Four of the bytes 0 to 3 of `a` and 4 to 7 of `b`, chosen by the nibbles of `selector`; bit 3 repeats the byte's sign.
static inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  unsigned long long bytes = (unsigned long long)b << 32 | a;
  unsigned result = 0;
  for (int i = 0; i < 4; i++) {
    unsigned nibble = selector >> 4 * i & 15, byte = bytes >> 8 * (nibble & 7) & 255;
    result |= (nibble & 8 ? (byte & 128 ? 255u : 0u) : byte) << 8 * i;
  }
  return result;
}

// One kind of address for all memory.
static inline size_t __cvta_generic_to_shared(const void* p) { return (size_t)p; }
static inline size_t __cvta_generic_to_global(const void* p) { return (size_t)p; }
static inline void* __cvta_shared_to_generic(size_t p) { return (void*)p; }

// Loads with a cache hint are loads.
template <class T> static inline T __ldg(const T* p) { return *p; }
template <class T> static inline T __ldcs(const T* p) { return *p; }
template <class T> static inline T __ldcg(const T* p) { return *p; }
template <class T> static inline void __stcs(T* p, T v) { *p = v; }
template <class T> static inline void __stcg(T* p, T v) { *p = v; }

// Functions of lower precision on a GPU; here they are the precise ones.
#define __expf(x) expf(x)
#define __exp2f(x) exp2f(x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)
#define __powf(x, y) powf((x), (y))
#define __tanhf(x) tanhf(x)
static inline float __fdividef(float a, float b) { return a / b; }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline float __frcp_rn(float a) { return 1.0f / a; }
static inline float __fsqrt_rn(float a) { return sqrtf(a); }
static inline float __frsqrt_rn(float a) { return 1.0f / sqrtf(a); }
static inline int __float2int_rn(float a) { return (int)nearbyintf(a); }
static inline float __int2float_rn(int a) { return (float)a; }
static inline float __uint2float_rn(unsigned a) { return (float)a; }
static inline float rsqrtf(float a) { return 1.0f / sqrtf(a); }
static inline double rsqrt(double a) { return 1.0 / sqrt(a); }
static inline float __saturatef(float a) { return a > 1.0f ? 1.0f : a > 0.0f ? a : 0.0f; }
static inline float normcdff(float a) { return 0.5f * erfcf(-a * 0.70710678f); }
static inline double normcdf(double a) { return 0.5 * erfc(-a * 0.7071067811865476); }

#define EMULATED_HALF_FUNCTION(name, function)                                                                 \
  static inline __half name(__half v) { return __float2half(function(__half2float(v))); }                      \
  static inline __nv_bfloat16 name(__nv_bfloat16 v) { return __float2bfloat16(function(__bfloat162float(v))); }
EMULATED_HALF_FUNCTION(hexp, expf)
EMULATED_HALF_FUNCTION(hlog, logf)
EMULATED_HALF_FUNCTION(hsin, sinf)
EMULATED_HALF_FUNCTION(hcos, cosf)
EMULATED_HALF_FUNCTION(hsqrt, sqrtf)
EMULATED_HALF_FUNCTION(hrsqrt, rsqrtf)
EMULATED_HALF_FUNCTION(hrcp, __frcp_rn)
