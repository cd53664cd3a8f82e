// Sparse matrices in compressed rows: a view of one, and building one in parallel where no row's length is known before.
#pragma once

#include <tuple>
#include <vector>

#include "checks.h"

namespace gcl {

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

// Sums up sparse contributions to one row, in a dense accumulator with a list of the touched columns. A column is listed
// again where its total was zero, which the drain sorts out: so any values are summed, though they should be positive.
class RowAccumulator {
 public:
  explicit RowAccumulator(int64_t columns) : total_(columns, 0.0f), bits_((columns + 63) / 64, 0) {}

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
    if (touched_.size() * 8 > bits_.size()) {  // walking a bit set sorts for free, at one step per 64 columns
      for (const int32_t column : touched_) bits_[column >> 6] |= uint64_t{1} << (column & 63);
      for (size_t w = 0; w < bits_.size(); ++w)
        for (uint64_t& word = bits_[w]; word; word &= word - 1) take(int32_t(w * 64 + __builtin_ctzll(word)));
    } else {
      std::sort(touched_.begin(), touched_.end());
      touched_.erase(std::unique(touched_.begin(), touched_.end()), touched_.end());
      for (const int32_t column : touched_) take(column);
    }
    touched_.clear();
  }

 private:
  std::vector<float> total_;
  std::vector<uint64_t> bits_;  // all zero between calls
  std::vector<int32_t> touched_;
};

// The entries of consecutive rows, which one worker writes.
struct RowBlock {
  std::vector<int32_t> column;
  std::vector<float> value;
  std::vector<int64_t> end;  // of each row, within this block

  void put(int32_t c, float v) {
    column.push_back(c);
    value.push_back(v);
  }
};

// Builds the rows begin..end-1 of a sparse matrix in parallel. make_worker() makes the scratch memory of one thread and returns
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

}  // namespace gcl
