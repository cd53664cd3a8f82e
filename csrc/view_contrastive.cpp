// CPU kernels of the view-invariant loss: the draw of positives and negatives, and the row kernel between the two matrix
// products, which masks the scores of one tile of the bank, reduces them and turns them into softmax weights in place.
#include <bit>
#include <cmath>
#include <limits>
#include <tuple>
#include <vector>

#include "checks.h"
#include "simd.h"

namespace gcl {
namespace {

enum Family : uint32_t { NEGATIVES, FIRST_POSITIVE, SECOND_POSITIVE };  // as in kernels/contrastive_draw.py
constexpr float INF = std::numeric_limits<float>::infinity();

GCL_INLINE uint32_t mix(uint32_t x) {  // Wellons' lowbias32, a bijection
  x = (x ^ (x >> 16)) * 0x7feb352du;
  x = (x ^ (x >> 15)) * 0x846ca68bu;
  return x ^ (x >> 16);
}

// Keyed bijection of the bank rows; see kernels/contrastive_draw.py.
struct Keys {
  uint32_t first, second;

  Keys(const int64_t* stream, int64_t row, Family family) : first(family), second(family) {
    const uint64_t seed = stream[0];
    for (const uint32_t word : {uint32_t(seed), uint32_t(seed >> 32), uint32_t(stream[1]), uint32_t(row)}) {
      first = mix(first ^ word);
      second = mix(second ^ word ^ 0x9e3779b9u);
    }
  }
};

GCL_INLINE uint32_t key_of(Keys keys, uint32_t n) { return mix(mix(n ^ keys.first) + keys.second); }

// The cluster of bank row `row`, with the label `own`. An outlier (label < 0) is a cluster of one.
struct Cluster {
  const int64_t* labels;
  int64_t row, own;
};

GCL_INLINE bool differs(Cluster cluster, int64_t n) {
  return cluster.own < 0 ? n != cluster.row : cluster.labels[n] != cluster.own;
}

// Writes the keys of the rows of other clusters, and the largest key for the others.
GCL_CLONES void negative_keys(Cluster cluster, int64_t N, Keys keys, uint32_t* out) {
  for (int64_t n = 0; n < N; ++n) out[n] = differs(cluster, n) ? key_of(keys, uint32_t(n)) : ~0u;
}

// Returns the K-th smallest of N keys. They are uniform, so a histogram of their leading bits leaves a handful of candidates.
uint32_t kth_smallest(const std::vector<uint32_t>& keys, int64_t K) {
  constexpr int shift = 20;
  std::vector<int32_t> histogram(1 << (32 - shift));
  for (const uint32_t key : keys) ++histogram[key >> shift];
  uint32_t bin = 0;
  for (; K > histogram[bin]; ++bin) K -= histogram[bin];
  std::vector<uint32_t> candidates;
  for (const uint32_t key : keys)
    if (key >> shift == bin) candidates.push_back(key);
  std::nth_element(candidates.begin(), candidates.begin() + (K - 1), candidates.end());
  return candidates[K - 1];
}

void draw_positives(Cluster cluster, int64_t N, const int64_t* stream, int64_t* out) {
  const Keys keys[2] = {{stream, cluster.row, FIRST_POSITIVE}, {stream, cluster.row, SECOND_POSITIVE}};
  uint32_t smallest[2] = {~0u, ~0u};
  out[0] = out[1] = cluster.row;
  for (int64_t n = 0; n < N; ++n) {
    if (differs(cluster, n)) continue;
    for (int k = 0; k < 2; ++k) {
      const uint32_t key = key_of(keys[k], uint32_t(n));
      if (key < smallest[k]) smallest[k] = key, out[k] = n;
    }
  }
}

// Labels of the bank's rows, the rows of the crops, and the (seed, step) of a draw.
void check_draw(const char* op, const Tensor& labels, const Tensor& index, const Tensor& stream) {
  STD_TORCH_CHECK(is_array(labels, ScalarType::Long, 1), op, ": labels must be a contiguous int64 vector");
  STD_TORCH_CHECK(is_array(stream, ScalarType::Long, 1) && stream.size(0) == 2, op,
      ": stream must be two contiguous int64 numbers, (seed, step)");
  check_index(op, index, labels.size(0));
}

std::tuple<Tensor, Tensor> contrastive_draw(
    const Tensor& labels, const Tensor& index, const Tensor& stream, int64_t num_negatives) {
  check_draw("contrastive_draw", labels, index, stream);
  STD_TORCH_CHECK(num_negatives > 0, "contrastive_draw: num_negatives is ", num_negatives, ", expected at least 1");
  const int64_t N = labels.size(0), B = index.size(0);
  Tensor positives = torch::stable::new_empty(index, {B, 2}), threshold = torch::stable::new_empty(index, {B});
  const int64_t *l = labels.const_data_ptr<int64_t>(), *i = index.const_data_ptr<int64_t>();
  const int64_t* s = stream.const_data_ptr<int64_t>();
  int64_t *p = positives.mutable_data_ptr<int64_t>(), *t = threshold.mutable_data_ptr<int64_t>();
  torch::stable::parallel_for(0, B, 1, [&](int64_t begin, int64_t end) {
    std::vector<uint32_t> keys(num_negatives < N ? N : 0);
    for (int64_t b = begin; b < end; ++b) {
      const Cluster cluster{l, i[b], l[i[b]]};
      draw_positives(cluster, N, s, p + 2 * b);
      if (num_negatives < N) negative_keys(cluster, N, Keys(s, i[b], NEGATIVES), keys.data());
      t[b] = num_negatives < N ? kth_smallest(keys, num_negatives) : ~0u;
    }
  });
  return {positives, threshold};
}

// Returns e^x for x <= 0 as 2^n * polynomial (Cephes; 1 ulp). It has no branch, so that it vectorizes. NaN stays NaN.
GCL_INLINE float exp_of_negative(float x) {
  constexpr float round = 12582912.0f;  // 1.5 * 2^23: adding and taking it away rounds to an integer
  const float y = x < -87.0f ? -87.0f : x;
  const float rounded = y * 1.44269504f + round, n = rounded - round;
  const float r = (y - n * 0.693359375f) + n * 2.12194440e-4f;
  float e = 1.9875691500e-4f;
  e = e * r + 1.3981999507e-3f;
  e = e * r + 8.3334519073e-3f;
  e = e * r + 4.1665795894e-2f;
  e = e * r + 1.6666665459e-1f;
  e = e * r + 5.0000001201e-1f;
  e = e * r * r + r + 1.0f;
  // The last bits of `rounded` are n: no cast of a float, which NaN does not survive
  const uint32_t exponent = std::bit_cast<uint32_t>(rounded) - std::bit_cast<uint32_t>(round) + 127u;
  return x < -87.0f ? 0.0f : e * std::bit_cast<float>(exponent << 23);
}

constexpr int LANES =
    16;  // partial results side by side: float arithmetic may not be reordered, this way it need not be

// scores -> scores / temperature where drawn, -inf elsewhere; returns the largest.
GCL_CLONES float mask_row(
    float* scores, int64_t T, int64_t first, Cluster cluster, Keys keys, uint32_t threshold, float inverse) {
  float lane[LANES];
  std::fill(lane, lane + LANES, -INF);
  for (int64_t begin = 0; begin < T; begin += LANES) {
    const int size = int(std::min<int64_t>(LANES, T - begin));
    for (int u = 0; u < size; ++u) {
      const int64_t n = first + begin + u;
      const bool drawn = differs(cluster, n) & (key_of(keys, uint32_t(n)) <= threshold);
      const float score = drawn ? scores[begin + u] * inverse : -INF;
      scores[begin + u] = score;
      lane[u] = score > lane[u] ? score : lane[u];
    }
  }
  return *std::max_element(lane, lane + LANES);
}

// scores -> exp(scores - largest); returns their sum.
GCL_CLONES float exp_row(float* scores, int64_t T, float largest) {
  float lane[LANES] = {};
  for (int64_t begin = 0; begin < T; begin += LANES) {
    const int size = int(std::min<int64_t>(LANES, T - begin));
    for (int u = 0; u < size; ++u) {
      const float weight = exp_of_negative(scores[begin + u] - largest);
      scores[begin + u] = weight;
      lane[u] += weight;
    }
  }
  float sum = 0;
  for (const float part : lane) sum += part;
  return sum;
}

// One tile of streaming softmax. scores (B, T): query . bank rows first..first+T-1, turned into exp(score - running
// maximum) in place; state (B, 2): running maximum and sum. Returns (B,) the factor for what earlier tiles accumulated.
Tensor contrastive_rows(Tensor scores, Tensor state, const Tensor& labels, const Tensor& index, const Tensor& threshold,
    const Tensor& stream, int64_t first, double temperature) {
  check_draw("contrastive_rows", labels, index, stream);
  STD_TORCH_CHECK(scores.dim() == 2 && scores.scalar_type() == ScalarType::Float &&
          (scores.size(1) < 2 || scores.stride(1) == 1) && has_separate_rows(scores),
      "contrastive_rows: scores must be float32 of shape (B, T) with contiguous rows, each in memory of its own");
  const int64_t B = scores.size(0), T = scores.size(1), row_stride = scores.stride(0);
  STD_TORCH_CHECK(is_part(first, T, labels.size(0)), "contrastive_rows: first is ", first, ", and the ", T,
      " columns of scores from there on leave the bank's ", labels.size(0), " rows");
  STD_TORCH_CHECK(temperature > 0 && float(1 / temperature) < INF, "contrastive_rows: temperature is ", temperature,
      ", expected more than 0");
  STD_TORCH_CHECK(index.size(0) == B && is_array(threshold, ScalarType::Long, 1) && threshold.size(0) == B,
      "contrastive_rows: index and threshold must be contiguous int64 with one entry for each of the ", B,
      " rows of scores");
  STD_TORCH_CHECK(is_array(state, ScalarType::Float, 2) && state.size(0) == B && state.size(1) == 2,
      "contrastive_rows: state must be contiguous float32 of shape (", B, ", 2)");
  Tensor factor = torch::stable::new_empty(scores, {B});
  float *s = scores.mutable_data_ptr<float>(), *m = state.mutable_data_ptr<float>(),
        *f = factor.mutable_data_ptr<float>();
  const int64_t *l = labels.const_data_ptr<int64_t>(), *i = index.const_data_ptr<int64_t>();
  const int64_t *t = threshold.const_data_ptr<int64_t>(), *k = stream.const_data_ptr<int64_t>();
  for (int64_t b = 0; b < B; ++b)
    STD_TORCH_CHECK(0 <= t[b] && t[b] <= int64_t(~0u), "contrastive_rows: threshold ", t[b],
        " lies outside 0..2^32 - 1, the range of the keys");
  torch::stable::parallel_for(0, B, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      float *row = s + b * row_stride, *running = m + 2 * b;
      const Keys keys(k, i[b], NEGATIVES);
      const float tile_largest =
          mask_row(row, T, first, {l, i[b], l[i[b]]}, keys, uint32_t(t[b]), float(1 / temperature));
      const float largest = std::max(running[0], tile_largest);
      const float reference = largest == -INF ? 0.0f : largest;  // nothing drawn so far
      f[b] = std::exp(running[0] - reference);
      running[1] = running[1] * f[b] + exp_row(row, T, reference);
      running[0] = largest;
    }
  });
  return factor;
}

}  // namespace
}  // namespace gcl

STABLE_TORCH_LIBRARY_FRAGMENT(gcl_fast, m) {
  m.def("contrastive_draw(Tensor labels, Tensor index, Tensor stream, int num_negatives) -> (Tensor, Tensor)");
  m.def("contrastive_rows(Tensor(a!) scores, Tensor(b!) state, Tensor labels, Tensor index, Tensor threshold, "
        "Tensor stream, int first, float temperature) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(gcl_fast, CPU, m) {
  m.impl("contrastive_draw", TORCH_BOX(&gcl::contrastive_draw));
  m.impl("contrastive_rows", TORCH_BOX(&gcl::contrastive_rows));
}
