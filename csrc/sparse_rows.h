// Sparse matrices in compressed rows: reading one, and building one in parallel when no row's length is known before.
#pragma once
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <tuple>
#include <vector>

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

using SparseTensors = std::tuple<Tensor, Tensor, Tensor>;  // start (rows + 1) int64, column int32, value float32

// A view of the three arrays. Columns ascend within a row.
struct SparseRows {
  const int64_t* start;
  const int32_t* column;
  const float* value;
  int64_t rows;

  SparseRows(const Tensor& start_, const Tensor& column_, const Tensor& value_)
      : start(start_.const_data_ptr<int64_t>()), column(column_.const_data_ptr<int32_t>()),
        value(value_.const_data_ptr<float>()), rows(start_.size(0) - 1) {}
};

// Of a square matrix: everything that the ops index with lies within it.
inline void check_sparse(const char* op, const Tensor& start, const Tensor& column, const Tensor& value) {
  STD_TORCH_CHECK(start.dim() == 1 && start.size(0) > 0 && start.scalar_type() == ScalarType::Long && start.is_contiguous(),
      op, ": start must be contiguous int64 of shape (rows + 1)");
  STD_TORCH_CHECK(column.dim() == 1 && column.scalar_type() == ScalarType::Int && column.is_contiguous(),
      op, ": column must be contiguous int32 of shape (entries)");
  STD_TORCH_CHECK(value.dim() == 1 && value.scalar_type() == ScalarType::Float && value.is_contiguous(),
      op, ": value must be contiguous float32 of shape (entries)");
  const int64_t entries = start.const_data_ptr<int64_t>()[start.size(0) - 1];
  STD_TORCH_CHECK(column.size(0) == entries && value.size(0) == entries, op, ": start ends at ", entries, ", but there are ",
      column.size(0), " columns and ", value.size(0), " values");
  const int64_t *s = start.const_data_ptr<int64_t>(), rows = start.size(0) - 1;
  STD_TORCH_CHECK(s[0] == 0 && std::is_sorted(s, s + rows + 1), op, ": start must begin at 0 and never fall");
  const int32_t* c = column.const_data_ptr<int32_t>();
  int32_t least = 0, most = -1;
  for (int64_t e = 0; e < entries; ++e) least = std::min(least, c[e]), most = std::max(most, c[e]);
  STD_TORCH_CHECK(least >= 0 && most < rows, op, ": a column lies outside 0..", rows - 1);
}

// Sum of positive sparse contributions to one row: a dense accumulator and the list of what was touched.
class RowAccumulator {
 public:
  explicit RowAccumulator(int64_t columns) : total_(columns, 0.0f), kept_((columns + 63) / 64, 0) {}

  void add(int32_t column, float value) {
    if (total_[column] == 0.0f) touched_.push_back(column);
    total_[column] += value;
  }

  // Calls visit(column, total) for every total of at least `least`, in ascending order of column, and empties itself.
  template <class Visit>
  void drain(float least, Visit visit) {
    const auto small = [&](int32_t column) {
      const bool drop = total_[column] < least;
      if (drop) total_[column] = 0.0f;
      return drop;
    };
    touched_.erase(std::remove_if(touched_.begin(), touched_.end(), small), touched_.end());
    const auto take = [&](int32_t column) {
      visit(column, total_[column]);
      total_[column] = 0.0f;
    };
    if (touched_.size() * 8 > kept_.size()) {  // walking a bit set sorts for free, at one step per 64 columns
      for (const int32_t column : touched_) kept_[column >> 6] |= uint64_t{1} << (column & 63);
      for (size_t w = 0; w < kept_.size(); ++w)
        for (uint64_t& word = kept_[w]; word; word &= word - 1) take(int32_t(w * 64 + __builtin_ctzll(word)));
    } else {
      std::sort(touched_.begin(), touched_.end());
      for (const int32_t column : touched_) take(column);
    }
    touched_.clear();
  }

 private:
  std::vector<float> total_;
  std::vector<uint64_t> kept_;  // all zero between calls
  std::vector<int32_t> touched_;
};

// Entries of consecutive rows, as one worker writes them.
struct RowBlock {
  std::vector<int32_t> column;
  std::vector<float> value;
  std::vector<int64_t> end;  // of each row, within this block

  void put(int32_t c, float v) {
    column.push_back(c);
    value.push_back(v);
  }
};

// Rows begin..end of a sparse matrix, in parallel. make_worker() makes the scratch memory of one thread and returns
// worker(row, block), which appends that row's entries. The result does not depend on the number of threads.
template <class MakeWorker>
SparseTensors build_rows(const Tensor& like, int64_t begin, int64_t end, MakeWorker make_worker) {
  const int64_t block_rows = 64, rows = end - begin, num_blocks = (rows + block_rows - 1) / block_rows;
  std::vector<RowBlock> blocks(num_blocks);
  torch::stable::parallel_for(0, num_blocks, 1, [&](int64_t first, int64_t last) {
    auto worker = make_worker();
    for (int64_t b = first; b < last; ++b) {
      const int64_t stop = std::min(end, begin + (b + 1) * block_rows);
      for (int64_t row = begin + b * block_rows; row < stop; ++row) {
        worker(row, blocks[b]);
        blocks[b].end.push_back(int64_t(blocks[b].column.size()));
      }
    }
  });

  Tensor start = torch::stable::new_empty(like, {rows + 1}, ScalarType::Long);
  int64_t* s = start.mutable_data_ptr<int64_t>();
  int64_t entries = *s++ = 0;
  for (const RowBlock& block : blocks) {
    for (const int64_t row_end : block.end) *s++ = entries + row_end;
    entries += int64_t(block.column.size());
  }
  Tensor column = torch::stable::new_empty(like, {entries}, ScalarType::Int);
  Tensor value = torch::stable::new_empty(like, {entries}, ScalarType::Float);
  int32_t* c = column.mutable_data_ptr<int32_t>();
  float* v = value.mutable_data_ptr<float>();
  for (RowBlock& block : blocks) {
    c = std::copy(block.column.begin(), block.column.end(), c);
    v = std::copy(block.value.begin(), block.value.end(), v);
    block = RowBlock();  // give its memory back now, so that the peak stays near one copy
  }
  return {start, column, value};
}
