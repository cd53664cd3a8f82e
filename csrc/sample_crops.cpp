// CPU kernel of sample_crops: it gathers crops and scales, shifts, mirrors, colours, normalizes and erases each in one pass.
// The definition is in kernels/sample_crops.py.
#include <vector>

#include "checks.h"
#include "simd.h"

namespace gcl {
namespace {

// The two input pixels around an output coordinate, and the weight of the second.
struct Tap {
  int first, second;
  float weight;
};

GCL_INLINE Tap tap(int i, int size, float scale, float shift) {
  const float to = (2 * i + 1.f) / size - 1;  // pixel centres, in coordinates that run from -1 to 1
  const float from = ((scale * to + shift + 1) * size - 1) / 2;
  const float inside = std::min(std::max(0.f, from), size - 1.f);  // borders are repeated; 0 where `from` is NaN
  const int first = int(inside);
  return {first, std::min(first + 1, size - 1), inside - first};
}

GCL_INLINE bool within(int i, int size, float from, float to) {
  const float centre = (i + 0.5f) / size;
  return centre >= from && centre < to;
}

// The numbers of one crop, as kernels/sample_crops.py describes them.
struct Change {
  const float* placement;  // scale y, scale x, shift y, shift x
  const float* colour;  // three times a matrix row and its offset
  const float* erased;  // top, bottom, left, right
};

// Buffers of one thread, used for one crop after the other.
struct Scratch {
  std::vector<int> first, second;
  std::vector<float> weight, keep, r, g, b;
  explicit Scratch(int W) : first(W), second(W), weight(W), keep(W), r(W), g(W), b(W) {}
};

GCL_CLONES void sample(const uint8_t* crop, int H, int W, Change change, Scratch& scratch, float* out) {
  const float *p = change.placement, *m = change.colour, *e = change.erased;
  int* const first = scratch.first.data();
  int* const second = scratch.second.data();
  float *const weight = scratch.weight.data(), *const keep = scratch.keep.data();
  float *const r = scratch.r.data(), *const g = scratch.g.data(), *const b = scratch.b.data();
  for (int x = 0; x < W; ++x) {
    const Tap t = tap(x, W, p[1], p[3]);
    first[x] = t.first, second[x] = t.second, weight[x] = t.weight;
    keep[x] = within(x, W, e[2], e[3]) ? 0.f : 1.f;
  }
  for (int y = 0; y < H; ++y, out += 3 * W) {
    const Tap t = tap(y, H, p[0], p[2]);
    const uint8_t *const above = crop + 3 * int64_t(W) * t.first, *const below = crop + 3 * int64_t(W) * t.second;
    for (int x = 0; x < W; ++x) {  // the colours change first: a linear map of pixels commutes with interpolation
      const float red = above[3 * x] + t.weight * (below[3 * x] - above[3 * x]);
      const float green = above[3 * x + 1] + t.weight * (below[3 * x + 1] - above[3 * x + 1]);
      const float blue = above[3 * x + 2] + t.weight * (below[3 * x + 2] - above[3 * x + 2]);
      r[x] = m[0] * red + m[1] * green + m[2] * blue + m[3];
      g[x] = m[4] * red + m[5] * green + m[6] * blue + m[7];
      b[x] = m[8] * red + m[9] * green + m[10] * blue + m[11];
    }
    const bool erase = within(y, H, e[0], e[1]);
    if (p[1] == 1 && p[3] == 0) {  // the columns do not move
      for (int x = 0; x < W; ++x) {
        const float kept = erase ? keep[x] : 1.f;
        out[3 * x] = kept * r[x], out[3 * x + 1] = kept * g[x], out[3 * x + 2] = kept * b[x];
      }
      continue;
    }
    for (int x = 0; x < W; ++x) {
      const int i = first[x], j = second[x];
      const float kept = erase ? keep[x] : 1.f;
      out[3 * x] = kept * (r[i] + weight[x] * (r[j] - r[i]));
      out[3 * x + 1] = kept * (g[i] + weight[x] * (g[j] - g[i]));
      out[3 * x + 2] = kept * (b[i] + weight[x] * (b[j] - b[i]));
    }
  }
}

// `values` contiguous float32 numbers for each of the B crops.
void check_change(const Tensor& t, int64_t B, int64_t values, const char* name) {
  STD_TORCH_CHECK(t.dim() > 0 && t.size(0) == B && t.numel() == B * values && t.scalar_type() == ScalarType::Float &&
          t.is_contiguous(),
      "sample_crops: ", name, " must be contiguous float32 with ", values, " values for each of the ", B, " crops");
}

Tensor sample_crops(
    const Tensor& crops, const Tensor& index, const Tensor& placement, const Tensor& colour, const Tensor& erased) {
  STD_TORCH_CHECK(is_array(crops, ScalarType::Byte, 4) && crops.size(3) == 3,
      "sample_crops: crops must be contiguous uint8 of shape (N, H, W, 3)");
  const int64_t N = crops.size(0), H = crops.size(1), W = crops.size(2);
  STD_TORCH_CHECK(H < 32768 && W < 32768, "sample_crops: crops must be smaller than 32768 pixels a side");
  check_index("sample_crops", index, N);
  const int64_t *const i = index.const_data_ptr<int64_t>(), B = index.size(0);
  check_change(placement, B, 4, "placement");
  check_change(colour, B, 12, "colour");
  check_change(erased, B, 4, "erased");
  Tensor out = torch::stable::new_empty(crops, {B, H, W, 3}, ScalarType::Float);
  const uint8_t* const from = crops.const_data_ptr<uint8_t>();
  const float *const p = placement.const_data_ptr<float>(), *const m = colour.const_data_ptr<float>(),
                     *const e = erased.const_data_ptr<float>();
  float* const to = out.mutable_data_ptr<float>();
  torch::stable::parallel_for(0, B, 1, [&](int64_t begin, int64_t end) {
    Scratch scratch{int(W)};
    for (int64_t k = begin; k < end; ++k)
      sample(from + i[k] * H * W * 3, int(H), int(W), {p + 4 * k, m + 12 * k, e + 4 * k}, scratch, to + k * H * W * 3);
  });
  return out;
}

}  // namespace
}  // namespace gcl

STABLE_TORCH_LIBRARY_FRAGMENT(gcl_fast, m) {
  m.def("sample_crops(Tensor crops, Tensor index, Tensor placement, Tensor colour, Tensor erased) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(gcl_fast, CPU, m) { m.impl("sample_crops", TORCH_BOX(&gcl::sample_crops)); }
