// CPU kernel of merge_top_k: running lists of the k largest entries, merged with one tile of a matrix after the other. The
// definition is in kernels/merge_top_k.py.
#include <limits>
#include <vector>

#include "checks.h"

namespace gcl {
namespace {

constexpr int64_t LANES =
    16;  // entries compared together: most groups hold no candidate and cost one vector comparison

// Puts (value, index) into a list sorted by value, best first. Among equal values the earlier one stays in front.
void insert(float* values, int32_t* indices, int64_t k, float value, int32_t index) {
  int64_t place = k - 1;
  for (; place > 0 && values[place - 1] < value; --place) {
    values[place] = values[place - 1];
    indices[place] = indices[place - 1];
  }
  values[place] = value;
  indices[place] = index;
}

struct Lists {  // k entries each
  float* values;
  int32_t* indices;
  int64_t k;
};

// Merges the lists begin..end-1 with their entries of a tile. The tile lies in memory as `lines` of `length` numbers:
// one for each list, or (ACROSS) one for each candidate, with an entry for every list. Candidates come in their order.
template <bool ACROSS>
void merge(
    Lists lists, const float* tile, int64_t lines, int64_t length, int32_t first_index, int64_t begin, int64_t end) {
  std::vector<float> worst(end - begin);  // of each list: what a candidate must exceed
  for (int64_t list = begin; list < end; ++list) worst[list - begin] = lists.values[(list + 1) * lists.k - 1];
  const int64_t first_line = ACROSS ? 0 : begin, last_line = ACROSS ? lines : end;
  const int64_t from = ACROSS ? begin : 0, to = ACROSS ? end : length;
  for (int64_t line = first_line; line < last_line; ++line) {
    const float* entry = tile + line * length;
    float* const limit = ACROSS ? worst.data() : worst.data() + line - begin;
    const auto limit_of = [&](int64_t at) -> float& { return limit[ACROSS ? at - begin : 0]; };
    const auto offer = [&](int64_t at) {
      if (!(entry[at] > limit_of(at))) return;  // NaN enters no list
      const int64_t list = ACROSS ? at : line, candidate = ACROSS ? line : at;
      insert(lists.values + list * lists.k, lists.indices + list * lists.k, lists.k, entry[at],
          first_index + int32_t(candidate));
      limit_of(at) = lists.values[(list + 1) * lists.k - 1];
    };
    int64_t at = from;
    for (; at + LANES <= to; at += LANES) {
      int any = 0;
      for (int u = 0; u < LANES; ++u) any |= entry[at + u] > limit_of(at + u);
      if (any)
        for (int u = 0; u < LANES; ++u) offer(at + u);
    }
    for (; at < to; ++at) offer(at);
  }
}

void merge_top_k(Tensor values, Tensor indices, const Tensor& tile, int64_t first_row, int64_t first_column) {
  STD_TORCH_CHECK(is_array(values, ScalarType::Float, 2) && values.size(1) > 0,
      "merge_top_k: values must be contiguous float32 of shape (N, k), k > 0");
  STD_TORCH_CHECK(
      is_array(indices, ScalarType::Int, 2) && indices.size(0) == values.size(0) && indices.size(1) == values.size(1),
      "merge_top_k: indices must be contiguous int32 of the shape of values");
  STD_TORCH_CHECK(tile.dim() == 2 && tile.scalar_type() == ScalarType::Float,
      "merge_top_k: tile must be float32 with two dimensions");
  const int64_t R = tile.size(0), C = tile.size(1), k = values.size(1);
  const bool across = !tile.is_contiguous();
  STD_TORCH_CHECK(!across || (tile.stride(0) == 1 && tile.stride(1) == R),
      "merge_top_k: tile, or its transpose, must be contiguous");
  STD_TORCH_CHECK(is_part(first_row, R, values.size(0)), "merge_top_k: first_row is ", first_row,
      ", which leaves no room for the tile's ", R, " rows in the ", values.size(0), " of values");
  STD_TORCH_CHECK(is_part(first_column, C, std::numeric_limits<int32_t>::max()), "merge_top_k: first_column is ",
      first_column, ", and the tile's ", C, " columns from there on must be int32");
  const Lists lists{
      values.mutable_data_ptr<float>() + first_row * k, indices.mutable_data_ptr<int32_t>() + first_row * k, k};
  const float* t = tile.const_data_ptr<float>();
  torch::stable::parallel_for(0, R, across ? 64 : 16, [&](int64_t begin, int64_t end) {
    if (across) merge<true>(lists, t, C, R, int32_t(first_column), begin, end);
    else merge<false>(lists, t, R, C, int32_t(first_column), begin, end);
  });
}

}  // namespace
}  // namespace gcl

STABLE_TORCH_LIBRARY_FRAGMENT(gcl_fast, m) {
  m.def("merge_top_k(Tensor(a!) values, Tensor(b!) indices, Tensor tile, int first_row, int first_column) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(gcl_fast, CPU, m) { m.impl("merge_top_k", TORCH_BOX(&gcl::merge_top_k)); }
