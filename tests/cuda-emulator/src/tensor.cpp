// Instructions that a warp executes as one. Every lane leaves what it brings and waits; the first that goes on does the work
// of all 32; each takes its results.
#include <cstring>

#include "checks.h"
#include "report.h"
#include "scheduler.h"
#include "shared.h"

namespace emulator {
namespace {

constexpr unsigned LANES = 32;

// Of one instruction: what the lanes of each warp bring, how many have come, and how often it was executed.
template <class Lane> struct Meeting {
  Lane lanes[1024];
  unsigned arrived[1024 / LANES], executed[1024 / LANES];
};

// Returns what the running lane has left, with its results.
template <class Lane, class Work> const Lane& together(const char* instruction, Meeting<Lane>& meeting, const Lane& own, Work work) {
  unsigned thread = running_thread(), warp = thread / LANES;
  Lane& lane = meeting.lanes[thread];
  lane = own;
  meeting.arrived[warp]++;
  unsigned before = meeting.executed[warp];
  meet_warp();
  if (meeting.executed[warp] != before) return lane;
  if (meeting.arrived[warp] != LANES) fail("tensor instruction", "%u lanes of the warp take part in %s, expected all 32", meeting.arrived[warp], instruction);
  meeting.arrived[warp] = 0;
  meeting.executed[warp]++;
  work(meeting.lanes + warp * LANES);
  return lane;
}

struct Product {
  float d[4];
  uint32_t a[4], b[2];
};
Meeting<Product> products;

double low_bf16(uint32_t pair) {
  float value;
  pair <<= 16;
  memcpy(&value, &pair, sizeof value);
  return value;
}
double high_bf16(uint32_t pair) { return low_bf16(pair >> 16); }

typedef double Row __attribute__((vector_size(8 * sizeof(double))));

// m16n8k16, fragments as the PTX ISA lays them out.
void multiply(Product* lanes) {
  double a[16][16];
  Row b[16];
  for (unsigned lane = 0; lane < LANES; lane++) {
    unsigned group = lane / 4, pair = lane % 4 * 2;
    for (unsigned i = 0; i < 4; i++) {
      double* to = &a[group + i % 2 * 8][pair + i / 2 * 8];
      to[0] = low_bf16(lanes[lane].a[i]);
      to[1] = high_bf16(lanes[lane].a[i]);
    }
    for (unsigned i = 0; i < 2; i++) {
      b[pair + i * 8][group] = low_bf16(lanes[lane].b[i]);
      b[pair + i * 8 + 1][group] = high_bf16(lanes[lane].b[i]);
    }
  }
  for (unsigned row = 0; row < 16; row++) {
    Row sums = {};
    for (unsigned k = 0; k < 16; k++) sums += a[row][k] * b[k];
    for (unsigned column = 0; column < 8; column++) {
      float& d = lanes[row % 8 * 4 + column / 2].d[row / 8 * 2 + column % 2];
      d = float(d + sums[column]);
    }
  }
}

struct Load {
  unsigned matrices;
  bool transposed;
  uint16_t row[8];
  uint32_t results[4];
};
Meeting<Load> loads;

// Hands the 8 x 8 matrices out: two elements of each a lane.
void distribute(Load* lanes) {
  for (unsigned lane = 0; lane < LANES; lane++) {
    Load& to = lanes[lane];
    if (to.matrices != lanes[0].matrices || to.transposed != lanes[0].transposed)
      fail("tensor instruction", "the lanes of the warp execute different kinds of ldmatrix");
    unsigned group = lane / 4, pair = lane % 4 * 2;
    for (unsigned i = 0; i < to.matrices; i++) {
      const Load* rows = lanes + 8 * i;
      uint32_t first = to.transposed ? rows[pair].row[group] : rows[group].row[pair];
      uint32_t second = to.transposed ? rows[pair + 1].row[group] : rows[group].row[pair + 1];
      to.results[i] = first | second << 16;
    }
  }
}

}  // namespace
}  // namespace emulator

using namespace emulator;

extern "C" {

void emulated_mma_bf16(float* d, const uint32_t* a, const uint32_t* b) {
  Product own;
  memcpy(own.d, d, sizeof own.d);
  memcpy(own.a, a, sizeof own.a);
  memcpy(own.b, b, sizeof own.b);
  memcpy(d, together("mma", products, own, multiply).d, sizeof own.d);
}

void emulated_ldmatrix(uint32_t* r, unsigned matrices, const void* row, bool transposed) {
  Load own{matrices, transposed, {}, {}};
  if (running_thread() % LANES < 8 * matrices) {
    require_shared("ldmatrix", row);
    checks::kernel_reads(row, sizeof own.row);
    memcpy(own.row, row, sizeof own.row);
  }
  memcpy(r, together("ldmatrix", loads, own, distribute).results, matrices * sizeof *r);
}

}  // extern "C"
