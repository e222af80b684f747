// Token embeddings, with or without those of positions, and dropout: forward row by row, backward one block a distinct row of a table.
#include "common.cuh"

// x_t = (tokens[id_t] + positions[position_t]) * factor; NaN where an id is outside its table. No positions when their table is null.
extern "C" __global__ void __launch_bounds__(THREADS)
    mixce_embedding(const float* tokens, const float* positions, const uint32_t* ids, const uint32_t* position_ids, float* x,
                    size_t rows, unsigned c, unsigned vocabulary, unsigned table_positions, DROPOUT_PARAMETERS) {
  const Dropout dropout = DROPOUT;
  for_packs<4>(rows, c, [=](size_t row, size_t i, size_t left) {
    const uint32_t token = ids[row], position = positions ? position_ids[row] : 0;
    const bool inside = token < vocabulary && (!positions || position < table_positions);
    Floats<4> sum = {{NAN, NAN, NAN, NAN}}, of_position = {};
    if (inside) sum = load_pack<4>(tokens + (size_t)token * c + i, left);
    if (inside && positions) of_position = load_pack<4>(positions + (size_t)position * c + i, left);
    const Floats<4> factors = dropout.factors(row * c + i);
    for (int k = 0; k < 4; k++) sum.x[k] = (sum.x[k] + of_position.x[k]) * factors.x[k];
    store_pack(x + row * c + i, left, sum);
  });
}

// Rows of a batch sorted by the table's row that they take: group g is `order[offsets[g]..offsets[g + 1]]`.
struct Groups {
  const uint32_t *ids, *order, *offsets;
  float* dtable;
};

// dtable[id] += sum of the gradients of the rows that took it, in their order. Blocks take the groups of the tokens first, then
// those of the positions, of which there may be none.
extern "C" __global__ void __launch_bounds__(THREADS)
    mixce_embedding_backward(const float* dx, const uint32_t* ids, const uint32_t* order, const uint32_t* offsets,
                             unsigned groups, float* dtokens, const uint32_t* position_ids, const uint32_t* position_order,
                             const uint32_t* position_offsets, unsigned position_groups, float* dpositions, unsigned c,
                             DROPOUT_PARAMETERS) {
  const Dropout dropout = DROPOUT;
  for (unsigned block = blockIdx.x; block < groups + position_groups; block += gridDim.x) {
    const bool of_tokens = block < groups;
    const unsigned group = of_tokens ? block : block - groups;
    const Groups g = of_tokens ? Groups{ids, order, offsets, dtokens}
                               : Groups{position_ids, position_order, position_offsets, dpositions};
    const uint32_t first = g.offsets[group], end = g.offsets[group + 1];
    float* sums = g.dtable + (size_t)g.ids[g.order[first]] * c;
    for (size_t i = 4 * threadIdx.x; i < c; i += 4 * blockDim.x) {
      Floats<4> sum = load_pack<4>(sums + i, c - i);
      with_whole(has_whole_packs<4>(dx, c) && dropout.draws_whole_packs(), [&](auto whole) {
#pragma unroll 4
        for (uint32_t taken = first; taken < end; taken++) {
          const size_t at = (size_t)g.order[taken] * c + i;
          const Floats<4> gradient = load_pack<4>(dx + at, c - i, whole), factors = dropout.factors(at, whole);
          for (int k = 0; k < 4; k++) sum.x[k] += gradient.x[k] * factors.x[k];
        }
      });
      store_pack(sums + i, c - i, sum);
    }
  }
}
