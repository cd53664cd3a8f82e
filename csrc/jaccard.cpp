// flags: -ffp-contract=off
// CPU kernels of reciprocal_weights, expand_queries and jaccard_rows (Zhong et al. 2017, sec. 3); the definitions are in
// kernels/ under these names.
// Nothing here is N x N; each op takes a range of rows, so that ranks can share the work.
#include <array>

#include "sparse_rows.h"

namespace gcl {
namespace {

// softmax of -(2 - 2 f_i.f_j) over the members j, by the very functions that plain PyTorch calls. Rows with equal
// neighbourhoods have a distance of exactly zero or of one rounding error, depending on the last bit of these weights, and
// the rho rule counts the zeros: a dot product and an exponential of our own moved its eps by 1e-3.
Tensor softmax_weights(const Tensor& features, int64_t i, const std::vector<int32_t>& members) {
  const int64_t D = features.size(1);
  const float* f = features.const_data_ptr<float>();
  Tensor rows = torch::stable::new_empty(features, {int64_t(members.size()), D});
  float* row = rows.mutable_data_ptr<float>();
  for (const int32_t j : members) row = std::copy_n(f + j * D, D, row);
  Tensor closeness = torch::stable::matmul(rows, torch::stable::select(features, 0, i));
  float* c = closeness.mutable_data_ptr<float>();
  for (size_t e = 0; e < members.size(); ++e) c[e] = -(2.0f - 2.0f * c[e]);
  std::array<StableIValue, 3> stack{torch::stable::detail::from(closeness), torch::stable::detail::from(int64_t{0}),
      torch::stable::detail::from(false)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::_softmax", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

// For each row i those of its first k neighbours whose own first k hold i; in the order of rank.
struct ReciprocalSets {
  std::vector<int32_t> member;  // (N, k), the first `count` of each row valid
  std::vector<int32_t> count;
  int64_t k;

  ReciprocalSets(const int32_t* neighbours, int64_t rows, int64_t width, int64_t k_)
      : member(rows * k_), count(rows), k(k_) {
    torch::stable::parallel_for(0, rows, 256, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        for (int64_t r = 0; r < k; ++r) {
          const int32_t j = neighbours[i * width + r];
          const int32_t* back = neighbours + j * width;
          if (std::find(back, back + k, int32_t(i)) != back + k) member[i * k + count[i]++] = j;
        }
      }
    });
  }

  const int32_t* begin(int64_t i) const { return member.data() + i * k; }
  const int32_t* end(int64_t i) const { return begin(i) + count[i]; }
};

SparseTensors reciprocal_weights(
    const Tensor& features, const Tensor& neighbours, int64_t half, int64_t begin, int64_t end) {
  STD_TORCH_CHECK(is_array(features, ScalarType::Float, 2),
      "reciprocal_weights: features must be contiguous float32 of shape (N, D)");
  check_neighbours("reciprocal_weights", neighbours, features.size(0));
  const int64_t N = features.size(0), K = neighbours.size(1);
  check_range("reciprocal_weights", begin, end, N);
  STD_TORCH_CHECK(neighbours.size(0) == N && 0 < half && half <= K,
      "reciprocal_weights: needs one row of neighbours per feature and 0 < half <= k");
  const int32_t* n = neighbours.const_data_ptr<int32_t>();
  const ReciprocalSets full(n, N, K, K), halves(n, N, K, half);

  return build_rows(features, begin, end, [&] {
    return [&, expanded = std::vector<int32_t>()](int64_t i, RowBlock& block) mutable {
      const int32_t *own = full.begin(i), *own_end = full.end(i);
      expanded.assign(own, own_end);
      for (const int32_t* candidate = own; candidate != own_end; ++candidate) {
        const int32_t *theirs = halves.begin(*candidate), *theirs_end = halves.end(*candidate);
        const int64_t shared =
            std::count_if(theirs, theirs_end, [&](int32_t j) { return std::find(own, own_end, j) != own_end; });
        if (3 * shared > 2 * (theirs_end - theirs)) expanded.insert(expanded.end(), theirs, theirs_end);
      }
      std::sort(expanded.begin(), expanded.end());
      expanded.erase(std::unique(expanded.begin(), expanded.end()), expanded.end());

      if (expanded.empty()) return;  // a row with more duplicates than neighbours may miss every list
      const Tensor weights = softmax_weights(features, i, expanded);
      const float* weight = weights.const_data_ptr<float>();
      for (size_t e = 0; e < expanded.size(); ++e) block.put(expanded[e], weight[e]);
    };
  });
}

SparseTensors expand_queries(const Tensor& start, const Tensor& column, const Tensor& value, const Tensor& neighbours,
    int64_t begin, int64_t end) {
  check_sparse("expand_queries", start, column, value);
  const SparseRows V(start, column, value);
  check_neighbours("expand_queries", neighbours, V.rows);
  check_range("expand_queries", begin, end, neighbours.size(0));
  const int32_t* n = neighbours.const_data_ptr<int32_t>();
  const int64_t k = neighbours.size(1);

  return build_rows(value, begin, end, [&] {
    return [&, sum = RowAccumulator(V.rows)](int64_t i, RowBlock& block) mutable {
      for (int64_t r = 0; r < k; ++r)
        for (int64_t e = V.start[n[i * k + r]]; e < V.start[n[i * k + r] + 1]; ++e) sum.add(V.column[e], V.value[e]);
      sum.drain(0.0f, [&](int32_t j, float total) { block.put(j, total / float(k)); });
    };
  });
}

// The columns of a square sparse matrix as rows. One pass counts and one fills, so entries ascend as the rows do.
struct Transposed {
  std::vector<int64_t> start;
  std::vector<int32_t> column;
  std::vector<float> value;

  explicit Transposed(const SparseRows& rows) : start(rows.rows + 1, 0) {
    const int64_t entries = rows.start[rows.rows];
    column.resize(entries);
    value.resize(entries);
    for (int64_t e = 0; e < entries; ++e) ++start[rows.column[e] + 1];
    for (int64_t j = 0; j < rows.rows; ++j) start[j + 1] += start[j];
    std::vector<int64_t> next(start.begin(), start.end() - 1);
    for (int64_t i = 0; i < rows.rows; ++i) {
      for (int64_t e = rows.start[i]; e < rows.start[i + 1]; ++e) {
        const int64_t place = next[rows.column[e]]++;
        column[place] = int32_t(i);
        value[place] = rows.value[e];
      }
    }
  }
};

SparseTensors jaccard_rows(
    const Tensor& start, const Tensor& column, const Tensor& value, double min_similarity, int64_t begin, int64_t end) {
  check_sparse("jaccard_rows", start, column, value);
  const SparseRows V(start, column, value);
  check_range("jaccard_rows", begin, end, V.rows);
  STD_TORCH_CHECK(0 <= min_similarity && min_similarity <= 1, "jaccard_rows: min_similarity must lie within 0..1, not ",
      min_similarity);
  const Transposed inverted(V);
  const float least = float(2.0 * min_similarity / (1.0 + min_similarity));  // s / (2 - s) >= min_similarity

  return build_rows(value, begin, end, [&] {
    return [&, shared = RowAccumulator(V.rows)](int64_t i, RowBlock& block) mutable {
      for (int64_t e = V.start[i]; e < V.start[i + 1]; ++e) {
        const int32_t j = V.column[e];
        for (int64_t x = inverted.start[j]; x < inverted.start[j + 1]; ++x)
          shared.add(inverted.column[x], std::min(V.value[e], inverted.value[x]));
      }
      shared.drain(least, [&](int32_t k, float s) {
        if (s > 0) block.put(k, std::min(s / (2.0f - s), 1.0f));
      });
    };
  });
}

}  // namespace
}  // namespace gcl

STABLE_TORCH_LIBRARY_FRAGMENT(gcl_fast, m) {
  m.def(
      "reciprocal_weights(Tensor features, Tensor neighbours, int half, int begin, int end) -> (Tensor, Tensor, Tensor)");
  m.def("expand_queries(Tensor start, Tensor column, Tensor value, Tensor neighbours, int begin, int end)"
        " -> (Tensor, Tensor, Tensor)");
  m.def("jaccard_rows(Tensor start, Tensor column, Tensor value, float min_similarity, int begin, int end)"
        " -> (Tensor, Tensor, Tensor)");
}
STABLE_TORCH_LIBRARY_IMPL(gcl_fast, CPU, m) {
  m.impl("reciprocal_weights", TORCH_BOX(&gcl::reciprocal_weights));
  m.impl("expand_queries", TORCH_BOX(&gcl::expand_queries));
  m.impl("jaccard_rows", TORCH_BOX(&gcl::jaccard_rows));
}
