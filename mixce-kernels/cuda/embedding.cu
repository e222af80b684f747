// Token embeddings, with or without those of positions, and dropout: one block a token forward, one block a distinct row of a table
// backward.
#include "common.cuh"

// x_t = (tokens[id_t] + positions[position_t]) * factor; NaN where an id is outside its table. No positions when their table is null.
extern "C" __global__ void __launch_bounds__(THREADS)
    mixce_embedding(const float* tokens, const float* positions, const uint32_t* ids, const uint32_t* position_ids, float* x,
                    size_t rows, unsigned c, unsigned vocabulary, unsigned table_positions, DROPOUT_PARAMETERS) {
  const Dropout dropout = DROPOUT;
  for (size_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const uint32_t token = ids[row], position = positions ? position_ids[row] : 0;
    const bool inside = token < vocabulary && (!positions || position < table_positions);
    for (unsigned i = threadIdx.x; i < c; i += blockDim.x) {
      const float of_position = inside && positions ? positions[(size_t)position * c + i] : 0.0f;
      const float sum = inside ? tokens[(size_t)token * c + i] + of_position : NAN;
      x[row * c + i] = sum * dropout.factor(row * c + i);
    }
  }
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
    for (unsigned i = threadIdx.x; i < c; i += blockDim.x) {
      float sum = sums[i];
      for (uint32_t k = first; k < end; k++) {
        const size_t at = (size_t)g.order[k] * c + i;
        sum += dx[at] * dropout.factor(at);
      }
      sums[i] = sum;
    }
  }
}
