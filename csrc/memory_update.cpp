// CPU kernel of the memory-bank update; the definition is in kernels/memory_update.py.
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <atomic>
#include <cmath>
#include <limits>
#include <vector>

#include "checks.h"

namespace gcl {
namespace {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

constexpr int LANES = 16;

// Sums up the squares of value(d), d < D, in LANES partial sums side by side.
template <class Value>
float sum_of_squares(int64_t D, Value value) {
  float lane[LANES] = {};
  for (int64_t begin = 0; begin < D; begin += LANES) {
    const int size = int(std::min<int64_t>(LANES, D - begin));
    for (int u = 0; u < size; ++u) {
      const float x = value(begin + u);
      lane[u] += x * x;
    }
  }
  float sum = 0;
  for (const float part : lane) sum += part;
  return sum;
}

float norm_of(float squares) { return std::max(std::sqrt(squares), 1e-12f); }

// memory <- normalize(momentum * memory + (1 - momentum) * normalize(feature)), in fp32; a feature that is not finite
// leaves it alone.
template <class Feature>
void blend(float* memory, const Feature* feature, int64_t D, float momentum) {
  int finite = 1;
  const float norm = norm_of(sum_of_squares(D, [&](int64_t d) {
    const float x = float(feature[d]);
    finite &= std::abs(x) <= std::numeric_limits<float>::max();
    return x;
  }));
  if (!finite) return;
  const float blended = norm_of(sum_of_squares(
      D, [&](int64_t d) { return memory[d] = momentum * memory[d] + (1 - momentum) * (float(feature[d]) / norm); }));
  for (int64_t d = 0; d < D; ++d) memory[d] /= blended;
}

// The first occurrence of an index owns its row and walks through the later ones in batch order: one writer per row.
template <class Bank, class Feature>
void update(Tensor& bank, const int64_t* index, const Tensor& features, float momentum) {
  const int64_t B = features.size(0), D = features.size(1);
  const int64_t bank_stride = bank.stride(0), feature_stride = features.stride(0);
  Bank* rows = bank.mutable_data_ptr<Bank>();
  const Feature* f = features.const_data_ptr<Feature>();
  torch::stable::parallel_for(0, B, 16, [&](int64_t begin, int64_t end) {
    std::vector<float> memory(D);
    for (int64_t b = begin; b < end; ++b) {
      if (std::find(index, index + b, index[b]) != index + b) continue;
      Bank* row = rows + index[b] * bank_stride;
      std::copy(row, row + D, memory.begin());
      for (int64_t later = b; later < B; ++later)
        if (index[later] == index[b]) blend(memory.data(), f + later * feature_stride, D, momentum);
      std::copy(memory.begin(), memory.end(), row);
    }
  });
}

void memory_update(Tensor bank, const Tensor& index_any, const Tensor& features_any, double momentum) {
  STD_TORCH_CHECK(bank.dim() == 2 && features_any.dim() == 2 && index_any.dim() == 1 &&
          bank.size(1) == features_any.size(1) && index_any.size(0) == features_any.size(0),
      "memory_update: expected bank (N, D), index (B,), features (B, D)");
  STD_TORCH_CHECK(index_any.scalar_type() == ScalarType::Long, "memory_update: index must be int64");
  STD_TORCH_CHECK((bank.size(1) < 2 || bank.stride(1) == 1) && has_separate_rows(bank),
      "memory_update: the rows of bank must be contiguous, each in memory of its own");
  STD_TORCH_CHECK(0 <= momentum && momentum <= 1, "memory_update: momentum must lie within 0..1, not ", momentum);
  const Tensor index = torch::stable::contiguous(index_any), features = torch::stable::contiguous(features_any);
  check_index("memory_update", index, bank.size(0));
  const int64_t* i = index.const_data_ptr<int64_t>();
  const auto by_features = [&]<class Bank>(Bank) {
    if (features.scalar_type() == ScalarType::Float) update<Bank, float>(bank, i, features, float(momentum));
    else if (features.scalar_type() == ScalarType::BFloat16) update<Bank, BFloat16>(bank, i, features, float(momentum));
    else if (features.scalar_type() == ScalarType::Half) update<Bank, Half>(bank, i, features, float(momentum));
    else STD_TORCH_CHECK(false, "memory_update: features must be float32, bfloat16 or float16");
  };
  if (bank.scalar_type() == ScalarType::Float) by_features(float());
  else if (bank.scalar_type() == ScalarType::BFloat16) by_features(BFloat16());
  else STD_TORCH_CHECK(false, "memory_update: the bank must be float32 or bfloat16");
}

}  // namespace
}  // namespace gcl

STABLE_TORCH_LIBRARY_FRAGMENT(gcl_fast, m) {
  m.def("memory_update(Tensor(a!) bank, Tensor index, Tensor features, float momentum) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(gcl_fast, CPU, m) { m.impl("memory_update", TORCH_BOX(&gcl::memory_update)); }
