// Running top-k over tiles of a similarity matrix: what a bare matrix product needs beside it for an exact k-NN search.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <vector>

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

namespace {

constexpr int64_t LANES = 16;  // compared at once: most groups hold no candidate, and cost one vector comparison

// Put (value, index) into a list sorted by value, best first; among equals the earlier comer stays in front.
void insert(float* values, int32_t* indices, int64_t k, float value, int32_t index) {
  int64_t place = k - 1;
  for (; place > 0 && values[place - 1] < value; --place) {
    values[place] = values[place - 1];
    indices[place] = indices[place - 1];
  }
  values[place] = value;
  indices[place] = index;
}

void check(const Tensor& values, const Tensor& indices, const Tensor& tile, int64_t first_row, int64_t rows) {
  STD_TORCH_CHECK(values.dim() == 2 && values.scalar_type() == ScalarType::Float && values.is_contiguous() &&
          values.size(1) > 0, "merge_top_k: values must be contiguous float32 of shape (N, k), k > 0");
  STD_TORCH_CHECK(indices.dim() == 2 && indices.scalar_type() == ScalarType::Int && indices.is_contiguous() &&
          indices.size(0) == values.size(0) && indices.size(1) == values.size(1),
      "merge_top_k: indices must be contiguous int32 of the shape of values");
  STD_TORCH_CHECK(tile.dim() == 2 && tile.scalar_type() == ScalarType::Float && tile.is_contiguous(),
      "merge_top_k: tile must be contiguous float32 with two dimensions");
  STD_TORCH_CHECK(first_row >= 0 && first_row + rows <= values.size(0), "merge_top_k: the tile's rows ", first_row, "..",
      first_row + rows, " are not rows of values (", values.size(0), ")");
}

void merge_top_k(Tensor values, Tensor indices, const Tensor& tile, int64_t first_row, int64_t first_column) {
  const int64_t R = tile.size(0), C = tile.size(1), k = values.size(1);
  check(values, indices, tile, first_row, R);
  float* v = values.mutable_data_ptr<float>() + first_row * k;
  int32_t* n = indices.mutable_data_ptr<int32_t>() + first_row * k;
  const float* t = tile.const_data_ptr<float>();
  torch::stable::parallel_for(0, R, 16, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const float* row = t + r * C;
      float worst = v[r * k + k - 1];
      const auto offer = [&](int64_t c) {
        if (row[c] > worst) {
          insert(v + r * k, n + r * k, k, row[c], int32_t(first_column + c));
          worst = v[r * k + k - 1];
        }
      };
      int64_t c = 0;
      for (; c + LANES <= C; c += LANES) {
        int any = 0;
        for (int u = 0; u < LANES; ++u) any |= row[c + u] > worst;
        if (any)
          for (int u = 0; u < LANES; ++u) offer(c + u);
      }
      for (; c < C; ++c) offer(c);
    }
  });
}

// The same tile read by columns: column c offers its entries to row first_row + c of the lists, as the symmetric half of
// a matrix that is computed once.
void merge_top_k_columns(Tensor values, Tensor indices, const Tensor& tile, int64_t first_row, int64_t first_column) {
  const int64_t R = tile.size(0), C = tile.size(1), k = values.size(1);
  check(values, indices, tile, first_row, C);
  float* v = values.mutable_data_ptr<float>() + first_row * k;
  int32_t* n = indices.mutable_data_ptr<int32_t>() + first_row * k;
  const float* t = tile.const_data_ptr<float>();
  torch::stable::parallel_for(0, C, 64, [&](int64_t begin, int64_t end) {
    std::vector<float> worst(end - begin);
    for (int64_t c = begin; c < end; ++c) worst[c - begin] = v[c * k + k - 1];
    for (int64_t r = 0; r < R; ++r) {
      const float* row = t + r * C + begin;
      const auto offer = [&](int64_t c) {
        if (row[c] > worst[c]) {
          insert(v + (begin + c) * k, n + (begin + c) * k, k, row[c], int32_t(first_column + r));
          worst[c] = v[(begin + c) * k + k - 1];
        }
      };
      int64_t c = 0;
      for (; c + LANES <= end - begin; c += LANES) {
        int any = 0;
        for (int u = 0; u < LANES; ++u) any |= row[c + u] > worst[c + u];
        if (any)
          for (int u = 0; u < LANES; ++u) offer(c + u);
      }
      for (; c < end - begin; ++c) offer(c);
    }
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(gcl_fast, m) {
  m.def("merge_top_k(Tensor(a!) values, Tensor(b!) indices, Tensor tile, int first_row, int first_column) -> ()");
  m.def("merge_top_k_columns(Tensor(a!) values, Tensor(b!) indices, Tensor tile, int first_row, int first_column) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(gcl_fast, CPU, m) {
  m.impl("merge_top_k", TORCH_BOX(&merge_top_k));
  m.impl("merge_top_k_columns", TORCH_BOX(&merge_top_k_columns));
}
