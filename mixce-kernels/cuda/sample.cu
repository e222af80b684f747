// Chooses the next token of every row of v logits: one block a row.
//
// The weight of a token is exp((z - max) / temperature), rounded down to a multiple of 2^-44 and kept as an integer: sums of integers are
// exact, so the token depends neither on the threads nor on the other rows. Nothing is sorted: a threshold is found by histograms of the
// logits' bits, each of which narrows it to one of BINS parts.
#include "common.cuh"

constexpr int SAMPLE_THREADS = 1024;
constexpr int SAMPLE_WARPS = SAMPLE_THREADS / WARP;
// Tokens whose weights have a sum of their own.
constexpr unsigned CHUNK = 256;
constexpr unsigned BINS = 2048;
constexpr int BIN_BITS = 11;
// The weight 1.
constexpr float ONE = 17592186044416.0f;
// Instead of a token where a logit is not finite.
constexpr uint32_t BROKEN = 0xffffffffu;

// Integers in the order of the logits; both zeros have the same.
static __device__ __forceinline__ uint32_t key_of(float z) {
  const uint32_t bits = __float_as_uint(z + 0.0f);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}

static __device__ __forceinline__ float logit_of(uint32_t key) { return __uint_as_float(key >> 31 ? key & 0x7fffffffu : ~key); }

static __device__ __forceinline__ bool is_finite(float z) { return (__float_as_uint(z) & 0x7f800000u) != 0x7f800000u; }

static __device__ __forceinline__ uint64_t warp_total(uint64_t x) {
  for (int distance = WARP / 2; distance > 0; distance /= 2) x += __shfl_xor_sync(ALL_LANES, x, distance);
  return x;
}

struct Row {
  const float* logits;
  unsigned v;
  float max, scale;

  __device__ __forceinline__ uint64_t weight(float z) const {
    // The scale may be 0 or infinite, and the difference too large for f32: no product may be NaN.
    return z == max ? (uint64_t)ONE : (uint64_t)(expf(fmaxf(z - max, -3.4028235e38f) * scale) * ONE);
  }
};

struct Place {
  unsigned index;
  uint64_t before;
};

// The first of n values that makes the sum of all up to it exceed `target`, and the sum before it. For all lanes of one warp.
template <class Value>
static __device__ __forceinline__ Place locate(unsigned n, uint64_t target, Value value) {
  const unsigned lane = threadIdx.x % WARP;
  uint64_t before = 0;
  for (unsigned first = 0; first < n; first += WARP) {
    const uint64_t own = first + lane < n ? value(first + lane) : 0;
    uint64_t sum = own;
    for (unsigned distance = 1; distance < WARP; distance *= 2) {
      const uint64_t other = __shfl_up_sync(ALL_LANES, sum, distance);
      if (lane >= distance) sum += other;
    }
    const unsigned reached = __ballot_sync(ALL_LANES, before + sum > target);
    if (reached) {
      const int at = __ffs((int)reached) - 1;
      return {first + at, before + __shfl_sync(ALL_LANES, sum - own, at)};
    }
    before += __shfl_sync(ALL_LANES, sum, WARP - 1);
  }
  return {n, before};
}

// The sum of all values; those of the chunks go to `sums`.
template <class Value>
static __device__ __forceinline__ uint64_t add_chunks(unsigned v, uint64_t* sums, Value value) {
  const unsigned chunks = (v + CHUNK - 1) / CHUNK, lane = threadIdx.x % WARP;
  __syncthreads();
  for (unsigned chunk = threadIdx.x / WARP; chunk < chunks; chunk += SAMPLE_WARPS) {
    uint64_t sum = 0;
#pragma unroll
    for (unsigned i = 0; i < CHUNK / WARP; i++) {
      const unsigned at = chunk * CHUNK + i * WARP + lane;
      if (at < v) sum += value(at);
    }
    sum = warp_total(sum);
    if (lane == 0) sums[chunk] = sum;
  }
  __syncthreads();
  uint64_t total = 0;
  for (unsigned chunk = lane; chunk < chunks; chunk += WARP) total += sums[chunk];
  return warp_total(total);
}

// The first token whose value makes the sum of all up to it exceed `target`, given the sums of the chunks.
template <class Value>
static __device__ __forceinline__ unsigned find(unsigned v, const uint64_t* sums, uint64_t target, unsigned* found, Value value) {
  if (threadIdx.x < WARP) {
    const Place chunk = locate((v + CHUNK - 1) / CHUNK, target, [=](unsigned i) { return sums[i]; });
    const unsigned first = chunk.index * CHUNK, rest = v - first;
    const Place token =
        locate(rest < CHUNK ? rest : CHUNK, target - chunk.before, [=](unsigned i) { return value(first + i); });
    if (threadIdx.x == 0) *found = first + token.index;
  }
  __syncthreads();
  return *found;
}

// Sums of values by the keys of their tokens, in two words each.
struct Histogram {
  uint32_t low[BINS], high[BINS];

  __device__ __forceinline__ uint64_t at(unsigned bin) const { return low[bin] | (uint64_t)high[bin] << 32; }

  __device__ __forceinline__ void add(unsigned bin, uint64_t value) {
    const uint32_t part = (uint32_t)value, old = atomicAdd(&low[bin], part);
    const uint32_t carried = (uint32_t)(value >> 32) + (old + part < old ? 1u : 0u);
    if (carried) atomicAdd(&high[bin], carried);
  }
};

struct Threshold {
  uint64_t key;
  // Sums of the values of tokens with a lesser key and with this one.
  uint64_t below, own;
};

// The least key from `lo` to `hi` for which the values of the tokens from `lo` up to it sum to more than `target`.
template <class Value>
static __device__ __forceinline__ Threshold select(const Row& row, uint32_t lo, uint32_t hi, uint64_t target, Histogram* histogram,
                                                   Threshold* found, Value value) {
  uint64_t below = 0;
  for (;;) {
    const int bits = WARP - __clz((int)(hi - lo)), shift = bits > BIN_BITS ? bits - BIN_BITS : 0;
    for (unsigned bin = threadIdx.x; bin < BINS; bin += SAMPLE_THREADS) histogram->low[bin] = histogram->high[bin] = 0;
    __syncthreads();
    for (unsigned i = threadIdx.x; i < row.v; i += SAMPLE_THREADS) {
      const float z = row.logits[i];
      const uint32_t key = key_of(z);
      if (key >= lo && key <= hi) histogram->add((key - lo) >> shift, value(z));
    }
    __syncthreads();
    if (threadIdx.x < WARP) {
      const Place bin = locate(BINS, target - below, [=](unsigned i) { return histogram->at(i); });
      if (threadIdx.x == 0) *found = {lo + (bin.index << shift), below + bin.before, histogram->at(bin.index % BINS)};
    }
    __syncthreads();
    lo = (uint32_t)found->key;
    below = found->below;
    if (shift == 0) return {lo, below, found->own};
    const uint32_t end = lo + ((1u << shift) - 1u);
    hi = hi < end ? hi : end;
  }
}

// The most likely token: its key, and its index (the first of equals) inverted, in one number; all ones where a logit is not finite.
// And the least key.
struct Extremes {
  uint64_t most;
  uint32_t least;

  __device__ __forceinline__ void join(uint64_t other_most, uint32_t other_least) {
    most = most > other_most ? most : other_most;
    least = least < other_least ? least : other_least;
  }
};

static __device__ __forceinline__ Extremes extremes(const float* logits, unsigned v, Extremes* of_warps) {
  Extremes own = {0, 0xffffffffu};
#pragma unroll 4
  for (unsigned i = threadIdx.x; i < v; i += SAMPLE_THREADS) {
    const float z = logits[i];
    const uint32_t key = key_of(z);
    own.join(is_finite(z) ? (uint64_t)key << 32 | (uint32_t)~i : ~(uint64_t)0, key);
  }
  for (int distance = WARP / 2; distance > 0; distance /= 2)
    own.join(__shfl_xor_sync(ALL_LANES, own.most, distance), __shfl_xor_sync(ALL_LANES, own.least, distance));
  if (threadIdx.x % WARP == 0) of_warps[threadIdx.x / WARP] = own;
  __syncthreads();
  for (int warp = 0; warp < SAMPLE_WARPS; warp++) own.join(of_warps[warp].most, of_warps[warp].least);
  return own;
}

// tokens[row] from the first v numbers of rows of `stride`. Unless greedy: of the tokens whose logit is not below the k-th largest one
// those are kept that remain when the least likely are dropped, of equals the last first, as long as they sum to at most the share
// `dropped` of the weights; of these the one at quantile u by weight, where u is number `lengths - starts` of the row's stream. Shared
// memory: one number a chunk.
extern "C" __global__ void __launch_bounds__(SAMPLE_THREADS, 1)
    mixce_sample(const float* logits, const uint64_t* labels, const uint32_t* starts, const uint32_t* lengths, uint32_t* tokens,
                 unsigned v, unsigned stride, uint64_t key, float scale, unsigned top_k, double dropped, int greedy) {
  extern __shared__ uint64_t sums[];
  __shared__ Histogram histogram;
  __shared__ Extremes of_warps[SAMPLE_WARPS];
  __shared__ Threshold selected;
  __shared__ unsigned found;
  const float* own = logits + (size_t)blockIdx.x * stride;
  const Extremes ends = extremes(own, v, of_warps);
  const uint32_t most = (uint32_t)(ends.most >> 32), likeliest = ~(uint32_t)ends.most;
  if (ends.most == ~(uint64_t)0 || greedy) {
    if (threadIdx.x == 0) tokens[blockIdx.x] = ends.most == ~(uint64_t)0 ? BROKEN : likeliest;
    return;
  }
  const Row row = {own, v, own[likeliest], scale};
  // Tokens with greater keys are kept, and those with this one up to index `last`.
  uint32_t threshold = ends.least;
  unsigned last = v;
  if (top_k < v)
    threshold = (uint32_t)select(row, ends.least, most, v - top_k, &histogram, &selected, [](float) { return (uint64_t)1; }).key;
  if (dropped > 0.0) {
    const uint64_t total = add_chunks(v, sums, [=](unsigned i) {
      return key_of(row.logits[i]) >= threshold ? row.weight(row.logits[i]) : (uint64_t)0;
    });
    const uint64_t share = (uint64_t)(dropped * (double)total), droppable = share < total ? share : total - 1;
    const Threshold least =
        select(row, threshold, most, droppable, &histogram, &selected, [=](float z) { return row.weight(z); });
    threshold = (uint32_t)least.key;
    const uint64_t weight = row.weight(logit_of(threshold)), more = (droppable - least.below) / weight;
    if (more > 0) {
      const auto equal = [=](unsigned i) { return (uint64_t)(key_of(row.logits[i]) == threshold); };
      add_chunks(v, sums, equal);
      last = find(v, sums, least.own / weight - more - 1, &found, equal);
    }
  }
  const auto kept = [=](unsigned i) {
    const float z = row.logits[i];
    const uint32_t key = key_of(z);
    return key > threshold || (key == threshold && i <= last) ? row.weight(z) : (uint64_t)0;
  };
  const uint64_t total = add_chunks(v, sums, kept);
  const unsigned number = lengths[blockIdx.x] - starts[blockIdx.x];
  const Words words = philox(number / 2, labels[blockIdx.x], key);
  const uint64_t bits = number % 2 ? words.word[2] | (uint64_t)words.word[3] << 32 : words.word[0] | (uint64_t)words.word[1] << 32;
  // The 53 bits of `Stream::uniform`.
  const unsigned token = find(v, sums, __umul64hi(bits >> 11 << 11, total), &found, kept);
  if (threadIdx.x == 0) tokens[blockIdx.x] = token;
}
