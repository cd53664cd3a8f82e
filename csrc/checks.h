// The checks that several ops share. An op checks everything that it indexes with, and its error names the op.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace gcl {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Whether t is contiguous, of this type, and has this number of dimensions.
inline bool is_array(const Tensor& t, ScalarType type, int64_t dimensions) {
  return t.dim() == dimensions && t.scalar_type() == type && t.is_contiguous();
}

// Whether an image's channels lie side by side: rows of C numbers, one for each pixel. x: (B, C, H, W).
inline bool is_channels_last(const Tensor& x) {
  if (x.dim() != 4 || x.numel() == 0) return x.dim() == 4;
  const int64_t C = x.size(1), H = x.size(2), W = x.size(3);
  return (C == 1 || x.stride(1) == 1) && (W == 1 || x.stride(3) == C) && (H == 1 || x.stride(2) == W * C) &&
      (x.size(0) == 1 || x.stride(0) == H * W * C);
}

// Whether y is a channels-last image batch of x's type and of the shape (B, C, H, W).
inline bool is_image_batch(const Tensor& y, const Tensor& x, int64_t B, int64_t C, int64_t H, int64_t W) {
  return is_channels_last(y) && y.scalar_type() == x.scalar_type() && y.size(0) == B && y.size(1) == C &&
      y.size(2) == H && y.size(3) == W;
}

// `index` is contiguous int64 (B,), and every entry names one of N rows.
inline void check_index(const char* op, const Tensor& index, int64_t N) {
  STD_TORCH_CHECK(is_array(index, ScalarType::Long, 1), op, ": index must be contiguous int64 of shape (B,)");
  const int64_t *i = index.const_data_ptr<int64_t>(), B = index.size(0);
  for (int64_t b = 0; b < B; ++b)
    STD_TORCH_CHECK(0 <= i[b] && i[b] < N, op, ": index ", i[b], " lies outside 0..", N - 1);
}

// begin..end is a range of `rows` rows.
inline void check_range(const char* op, int64_t begin, int64_t end, int64_t rows) {
  STD_TORCH_CHECK(
      0 <= begin && begin <= end && end <= rows, op, ": begin and end name rows ", begin, "..", end, " of ", rows);
}

// `count` of `total` things, from `first` on. No sum of the three is taken, which could overflow.
inline bool is_part(int64_t first, int64_t count, int64_t total) {
  return 0 <= first && count <= total && first <= total - count;
}

// A number that the kernels take as float32 is finite there.
inline void check_finite(const char* op, const char* name, double value) {
  STD_TORCH_CHECK(std::isfinite(float(value)), op, ": ", name, " must be finite, not ", value);
}

// No two rows of a matrix that is written share memory.
inline bool has_separate_rows(const Tensor& t) { return t.size(0) < 2 || t.stride(0) >= t.size(1); }

// `neighbours` is contiguous int32 (N, k), and every entry names one of `rows` rows.
inline void check_neighbours(const char* op, const Tensor& neighbours, int64_t rows) {
  STD_TORCH_CHECK(is_array(neighbours, ScalarType::Int, 2) && neighbours.size(1) > 0, op,
      ": neighbours must be contiguous int32 of shape (N, k), k > 0");
  const int32_t* n = neighbours.const_data_ptr<int32_t>();
  const bool valid = std::all_of(n, n + neighbours.numel(), [&](int32_t j) { return 0 <= j && j < rows; });
  STD_TORCH_CHECK(valid, op, ": neighbours: a neighbour lies outside 0..", rows - 1);
}

// The three arrays are a square sparse matrix in compressed rows.
inline void check_sparse(const char* op, const Tensor& start, const Tensor& column, const Tensor& value) {
  STD_TORCH_CHECK(is_array(start, ScalarType::Long, 1) && start.size(0) > 0, op,
      ": start must be contiguous int64 of shape (rows + 1)");
  STD_TORCH_CHECK(is_array(column, ScalarType::Int, 1), op, ": column must be contiguous int32 of shape (entries)");
  STD_TORCH_CHECK(is_array(value, ScalarType::Float, 1), op, ": value must be contiguous float32 of shape (entries)");
  const int64_t *s = start.const_data_ptr<int64_t>(), rows = start.size(0) - 1, entries = s[rows];
  STD_TORCH_CHECK(column.size(0) == entries && value.size(0) == entries, op, ": start ends at ", entries,
      ", but there are ", column.size(0), " columns and ", value.size(0), " values");
  STD_TORCH_CHECK(s[0] == 0 && std::is_sorted(s, s + rows + 1), op, ": start must begin at 0 and never fall");
  const int32_t* c = column.const_data_ptr<int32_t>();
  int32_t lowest = 0, highest = -1;
  for (int64_t e = 0; e < entries; ++e) lowest = std::min(lowest, c[e]), highest = std::max(highest, c[e]);
  STD_TORCH_CHECK(lowest >= 0 && highest < rows, op, ": a column lies outside 0..", rows - 1);
}

}  // namespace gcl
