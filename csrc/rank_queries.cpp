// CPU kernel of rank_queries; the definition is in kernels/rank_queries.py. A row of distances is not sorted: the rank of a
// match is the number of entries nearer than it, and counting is one vector pass per match.
#include <atomic>
#include <tuple>
#include <utility>
#include <vector>

#include "checks.h"
#include "simd.h"

namespace gcl {
namespace {

using Candidate = std::pair<float, int64_t>;  // distance, gallery index: ordered by distance, then index

// Counts the distances that are at most `limit`.
GCL_CLONES int64_t count_within(const float* distance, int64_t size, float limit) {
  int32_t count = 0;
  for (int64_t g = 0; g < size; ++g) count += distance[g] <= limit;
  return count;
}

GCL_CLONES bool any_nan(const float* distance, int64_t size) {
  int32_t count = 0;
  for (int64_t g = 0; g < size; ++g) count += distance[g] != distance[g];
  return count != 0;
}

// One query. `junk` holds the sorted candidates that do not count (same identity, same camera), `match` the sorted matches.
struct Query {
  const float* distance;
  int64_t gallery;
  const std::vector<Candidate>&match, &junk;

  int64_t within(float limit) const {
    const auto junk_within = std::upper_bound(junk.begin(), junk.end(), Candidate(limit, gallery)) - junk.begin();
    return count_within(distance, gallery, limit) - junk_within;
  }

  // Returns the place of a match in the list sorted by distance, then gallery index; 0 is the first.
  int64_t place(const Candidate& candidate, int64_t within_its_distance) const {
    const auto behind = [&](const Candidate& c) { return c.first == candidate.first && c.second >= candidate.second; };
    int64_t tied_behind = 0;
    for (int64_t g = candidate.second; g < gallery; ++g) tied_behind += distance[g] == candidate.first;
    return within_its_distance - (tied_behind - std::count_if(junk.begin(), junk.end(), behind));
  }
};

// Returns average precision (Q) float64, place of the first match (Q) int64 (-1: the query has no match) and inverse
// negative penalty (Q) float64. order: gallery indices sorted by identity; ranges (Q, 2): each query's identity in it.
std::tuple<Tensor, Tensor, Tensor> rank_queries(const Tensor& distance, const Tensor& order, const Tensor& ranges,
    const Tensor& query_cameras, const Tensor& gallery_cameras) {
  STD_TORCH_CHECK(
      is_array(distance, ScalarType::Float, 2), "rank_queries: distance must be contiguous float32 of shape (Q, G)");
  const int64_t Q = distance.size(0), G = distance.size(1);
  for (const auto& [name, tensor, size] :
      {std::tuple("order", &order, G), {"query_cameras", &query_cameras, Q}, {"gallery_cameras", &gallery_cameras, G}})
    STD_TORCH_CHECK(is_array(*tensor, ScalarType::Long, 1) && tensor->size(0) == size, "rank_queries: ", name,
        " must be contiguous int64 with an entry for each of the ", size, " rows or columns of distance");
  STD_TORCH_CHECK(is_array(ranges, ScalarType::Long, 2) && ranges.size(0) == Q && ranges.size(1) == 2,
      "rank_queries: ranges must be contiguous int64 of shape (Q, 2)");
  const float* d = distance.const_data_ptr<float>();
  const int64_t *by_id = order.const_data_ptr<int64_t>(), *range = ranges.const_data_ptr<int64_t>();
  const int64_t* query_camera = query_cameras.const_data_ptr<int64_t>();
  const int64_t* gallery_camera = gallery_cameras.const_data_ptr<int64_t>();
  std::vector<bool> named(size_t(G), false);
  for (int64_t g = 0; g < G; ++g) {
    STD_TORCH_CHECK(
        0 <= by_id[g] && by_id[g] < G, "rank_queries: order names gallery image ", by_id[g], ", outside 0..", G - 1);
    STD_TORCH_CHECK(!named[size_t(by_id[g])], "rank_queries: order names gallery image ", by_id[g], " twice");
    named[size_t(by_id[g])] = true;
  }
  for (int64_t q = 0; q < Q; ++q)
    STD_TORCH_CHECK(0 <= range[2 * q] && range[2 * q] <= range[2 * q + 1] && range[2 * q + 1] <= G,
        "rank_queries: the range ", range[2 * q], "..", range[2 * q + 1], " of query ", q, " leaves order's ", G);
  Tensor precision = torch::stable::new_empty(distance, {Q}, ScalarType::Double);
  Tensor first = torch::stable::new_empty(distance, {Q}, ScalarType::Long);
  Tensor penalty = torch::stable::new_empty(distance, {Q}, ScalarType::Double);
  double *ap = precision.mutable_data_ptr<double>(), *inp = penalty.mutable_data_ptr<double>();
  int64_t* hit = first.mutable_data_ptr<int64_t>();
  std::atomic<int64_t> nan_query{-1};

  torch::stable::parallel_for(0, Q, 8, [&](int64_t begin, int64_t end) {
    std::vector<Candidate> match, junk;
    for (int64_t q = begin; q < end; ++q) {
      const float* row = d + q * G;
      if (any_nan(row, G)) {
        nan_query.store(q, std::memory_order_relaxed);
        continue;  // NaN has no order, and sorting it may leave the list
      }
      match.clear();
      junk.clear();
      for (int64_t o = range[2 * q]; o < range[2 * q + 1]; ++o) {
        const int64_t g = by_id[o];
        (gallery_camera[g] == query_camera[q] ? junk : match).emplace_back(row[g], g);
      }
      std::sort(match.begin(), match.end());
      std::sort(junk.begin(), junk.end());
      ap[q] = inp[q] = 0.0;
      hit[q] = -1;
      if (match.empty()) continue;

      const Query query{row, G, match, junk};
      const int64_t M = int64_t(match.size());
      for (int64_t m = 0, next; m < M; m = next) {  // matches at equal distance enter together, as in scikit-learn
        next = m + 1;
        while (next < M && match[next].first == match[m].first) ++next;
        const int64_t within = query.within(match[m].first);
        ap[q] += double(next - m) / double(M) * double(next) / double(within);
        if (m == 0) hit[q] = query.place(match[0], within);
        if (next == M) inp[q] = double(M) / double(query.place(match[M - 1], within) + 1);
      }
    }
  });
  STD_TORCH_CHECK(nan_query < 0, "rank_queries: the distances of query ", nan_query.load(), " hold NaN");
  return {precision, first, penalty};
}

}  // namespace
}  // namespace gcl

STABLE_TORCH_LIBRARY_FRAGMENT(gcl_fast, m) {
  m.def("rank_queries(Tensor distance, Tensor order, Tensor ranges, Tensor query_cameras, Tensor gallery_cameras)"
        " -> (Tensor, Tensor, Tensor)");
}
STABLE_TORCH_LIBRARY_IMPL(gcl_fast, CPU, m) { m.impl("rank_queries", TORCH_BOX(&gcl::rank_queries)); }
