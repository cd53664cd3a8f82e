// CPU kernel of csr_dbscan; the definition is in kernels/csr_dbscan.py. The graph is symmetric and distance = 1 - similarity.
// Pairs that are not stored are farther apart than any radius. A point is its own neighbour.
#include <numeric>

#include "sparse_rows.h"

namespace gcl {
namespace {

// Union-find whose root is the lowest index of the set, so that clusters can be numbered in order of their first member.
struct Sets {
  std::vector<int32_t> parent;

  explicit Sets(int64_t size) : parent(size) { std::iota(parent.begin(), parent.end(), 0); }

  int32_t find(int32_t i) {
    while (parent[i] != i) i = parent[i] = parent[parent[i]];
    return i;
  }

  void join(int32_t a, int32_t b) {
    a = find(a), b = find(b);
    if (a < b) parent[b] = a;
    else parent[a] = b;
  }
};

// Cluster = connected component of core points (>= min_samples neighbours within eps, itself counted), numbered by its
// lowest core point. A point that is no core but has core neighbours joins the lowest-numbered of their clusters
// (scikit-learn's order of expansion has the same outcome); everything else is -1.
Tensor csr_dbscan(const Tensor& start, const Tensor& column, const Tensor& value, double eps, int64_t min_samples) {
  check_sparse("csr_dbscan", start, column, value);
  STD_TORCH_CHECK(eps >= 0, "csr_dbscan: eps must be a distance, 0 or more, not ", eps);
  STD_TORCH_CHECK(min_samples > 0, "csr_dbscan: min_samples is ", min_samples, ", expected at least 1");
  const SparseRows graph(start, column, value);
  const int64_t N = graph.rows;
  const auto each_neighbour = [&](int64_t i, auto visit) {
    for (int64_t e = graph.start[i]; e < graph.start[i + 1]; ++e)
      if (graph.column[e] != i && double(1.0f - graph.value[e]) <= eps) visit(graph.column[e]);
  };

  std::vector<uint8_t> core(N);
  torch::stable::parallel_for(0, N, 1024, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      int64_t count = 1;
      each_neighbour(i, [&](int32_t) { ++count; });
      core[i] = count >= min_samples;
    }
  });
  Sets sets(N);
  for (int64_t i = 0; i < N; ++i)
    if (core[i])
      each_neighbour(i, [&](int32_t j) {
        if (core[j] && j < i) sets.join(int32_t(i), j);
      });

  Tensor labels = torch::stable::new_empty(start, {N}, ScalarType::Long);
  int64_t* label = labels.mutable_data_ptr<int64_t>();
  int64_t clusters = 0;
  for (int64_t i = 0; i < N; ++i) {  // a root comes before the rest of its set
    if (!core[i]) label[i] = -1;
    else label[i] = sets.find(int32_t(i)) == i ? clusters++ : label[sets.find(int32_t(i))];
  }
  for (int64_t i = 0; i < N; ++i) {
    if (core[i]) continue;
    each_neighbour(i, [&](int32_t j) {
      if (core[j] && (label[i] < 0 || label[j] < label[i])) label[i] = label[j];
    });
  }
  return labels;
}

}  // namespace
}  // namespace gcl

STABLE_TORCH_LIBRARY_FRAGMENT(gcl_fast, m) {
  m.def("csr_dbscan(Tensor start, Tensor column, Tensor value, float eps, int min_samples) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(gcl_fast, CPU, m) { m.impl("csr_dbscan", TORCH_BOX(&gcl::csr_dbscan)); }
