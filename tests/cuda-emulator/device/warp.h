// Shuffles and votes: every lane of the mask shows its value, waits, reads, and waits again before anybody may show
// another one.
#pragma once

static inline unsigned emulated_lane() {
  return (threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) & 31u;
}

// `from` is a lane of the own warp. A lane that does not exist because the block ends before it shows zeros.
template <class T> static inline T emulated_exchange(unsigned mask, T value, unsigned from) {
  static_assert(sizeof(T) <= 16, "a shuffle moves at most 16 bytes");
  memcpy(emulated_lane_slot(mask, emulated_lane()), &value, sizeof value);
  emulated_warp_barrier(mask);
  T result;
  memcpy(&result, emulated_lane_slot(mask, from), sizeof result);
  emulated_warp_barrier(mask);
  return result;
}

// Lane `to` if it lies in the own segment of `width` lanes, else the own one.
static inline unsigned emulated_in_segment(int to, int width) {
  int lane = emulated_lane(), start = lane & ~(width - 1);
  return to >= start && to < start + width ? to : lane;
}

template <class T> static inline T __shfl_sync(unsigned mask, T v, int source, int width = 32) {
  return emulated_exchange(mask, v, (emulated_lane() & ~(width - 1)) | (source & (width - 1)));
}
template <class T> static inline T __shfl_xor_sync(unsigned mask, T v, int lanes, int width = 32) {
  int to = emulated_lane() ^ lanes;  // earlier segments may be read, later ones not
  return emulated_exchange(mask, v, to < (int)(emulated_lane() & ~(width - 1)) + width ? to : emulated_lane());
}
template <class T> static inline T __shfl_down_sync(unsigned mask, T v, unsigned delta, int width = 32) {
  return emulated_exchange(mask, v, emulated_in_segment(emulated_lane() + delta, width));
}
template <class T> static inline T __shfl_up_sync(unsigned mask, T v, unsigned delta, int width = 32) {
  return emulated_exchange(mask, v, emulated_in_segment((int)emulated_lane() - (int)delta, width));
}

static inline void __syncwarp(unsigned mask = ~0u) { emulated_warp_barrier(mask); }
static inline unsigned __ballot_sync(unsigned mask, int predicate) {
  memcpy(emulated_lane_slot(mask, emulated_lane()), &predicate, sizeof predicate);
  emulated_warp_barrier(mask);
  unsigned ballot = 0;
  for (unsigned lane = 0; lane < 32; lane++) {
    int other = 0;
    if ((mask >> lane & 1) && emulated_lane_exists(lane)) memcpy(&other, emulated_lane_slot(mask, lane), sizeof other);
    ballot |= (unsigned)(other != 0) << lane;
  }
  emulated_warp_barrier(mask);
  return ballot;
}
static inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
static inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, !predicate) == 0; }
