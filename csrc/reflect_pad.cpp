// CPU kernels of reflect padding with the LeakyReLU before it in the same pass, and of its adjoint; the definition is in
// kernels/reflect_pad.py. Images are channels-last: rows of W * C numbers.
#include <cstring>
#include <optional>
#include <vector>

#include "bfloat16.h"
#include "checks.h"
#include "simd.h"

namespace gcl {
namespace {

struct Shape {
  int64_t B, C, H, W, p;  // of the unpadded images, and the padding
  int64_t row() const { return W * C; }
  int64_t padded_row() const { return (W + 2 * p) * C; }
};

int64_t mirrored(int64_t at, int64_t size) { return at < 0 ? -at : at < size ? at : 2 * (size - 1) - at; }

// Writes a padded row from the row x that it mirrors. `sign` decides where slope multiplies.
template <class T>
GCL_CLONES void pad_row(const T* x, const T* sign, Shape s, float slope, T* out) {
  T* const middle = out + s.p * s.C;
  if (slope == 1) std::memcpy(middle, x, s.row() * sizeof(T));
  else
    for (int64_t i = 0; i < s.row(); ++i) {
      const float value = widen(x[i]);
      narrow(widen(sign[i]) > 0 ? value : slope * value, middle[i]);
    }
  for (int64_t k = 1; k <= s.p; ++k) {
    std::memcpy(middle - k * s.C, middle + k * s.C, s.C * sizeof(T));
    std::memcpy(middle + (s.W - 1 + k) * s.C, middle + (s.W - 1 - k) * s.C, s.C * sizeof(T));
  }
}

// Writes a row of the adjoint from the `count` padded rows that mirror it.
template <class T>
GCL_CLONES void fold_row(const T* const* rows, int count, const T* sign, Shape s, float slope, float* sum, T* out) {
  const int64_t n = s.row(), border = s.p * s.C;
  for (int64_t i = 0; i < n; ++i) sum[i] = widen(rows[0][border + i]);
  for (int k = 1; k < count; ++k)
    for (int64_t i = 0; i < n; ++i) sum[i] += widen(rows[k][border + i]);
  for (int k = 0; k < count; ++k)
    for (int64_t j = 1; j <= s.p; ++j) {
      const T *left = rows[k] + border - j * s.C, *right = rows[k] + border + (s.W - 1 + j) * s.C;
      for (int64_t c = 0; c < s.C; ++c) sum[j * s.C + c] += widen(left[c]);
      for (int64_t c = 0; c < s.C; ++c) sum[(s.W - 1 - j) * s.C + c] += widen(right[c]);
    }
  if (slope == 1)
    for (int64_t i = 0; i < n; ++i) narrow(sum[i], out[i]);
  else
    for (int64_t i = 0; i < n; ++i) narrow(widen(sign[i]) > 0 ? sum[i] : slope * sum[i], out[i]);
}

// Signs are those of x where padded is null, else those of the middle of the padded images.
template <class T>
void pad(const T* x, const T* padded, Shape s, float slope, T* out) {
  const int64_t high = s.H + 2 * s.p, wide = s.padded_row();
  torch::stable::parallel_for(0, s.B * high, 16, [&](int64_t begin, int64_t end) {
    for (int64_t at = begin; at < end; ++at) {
      const int64_t b = at / high, h = mirrored(at % high - s.p, s.H);
      const T* from = x + (b * s.H + h) * s.row();
      pad_row(from, padded ? padded + (b * high + h + s.p) * wide + s.p * s.C : from, s, slope, out + at * wide);
    }
  });
}

template <class T>
void fold(const T* grad, const T* padded, Shape s, float slope, T* out) {
  const int64_t high = s.H + 2 * s.p, wide = s.padded_row();
  torch::stable::parallel_for(0, s.B * s.H, 16, [&](int64_t begin, int64_t end) {
    std::vector<float> sum(s.row());
    for (int64_t at = begin; at < end; ++at) {
      const int64_t b = at / s.H, h = at % s.H;
      const T *rows[3], *first = grad + b * high * wide;
      int count = 0;
      rows[count++] = first + (h + s.p) * wide;
      if (h >= 1 && h <= s.p) rows[count++] = first + (s.p - h) * wide;
      if (h < s.H - 1 && h >= s.H - 1 - s.p) rows[count++] = first + (2 * (s.H - 1) - h + s.p) * wide;
      const T* sign = padded ? padded + (b * high + h + s.p) * wide + s.p * s.C : nullptr;
      fold_row(rows, count, sign, s, slope, sum.data(), out + at * s.row());
    }
  });
}

// `removed`: what the adjoint takes off both sides together.
Shape check_padding(const char* op, const char* name, const Tensor& x, const std::optional<Tensor>& padded, int64_t p,
    double slope, bool adjoint) {
  STD_TORCH_CHECK(
      is_channels_last(x) && (x.scalar_type() == ScalarType::Float || x.scalar_type() == ScalarType::BFloat16), op,
      ": ", name, " must be float32 or bfloat16 of shape (B, C, H, W) in channels-last order");
  const int64_t most = std::min(x.size(2), x.size(3));  // first of all, so that no multiple of p overflows
  const int64_t removed = adjoint && 0 <= p && p < most ? 2 * p : 0;
  const Shape s{x.size(0), x.size(1), x.size(2) - removed, x.size(3) - removed, p};
  STD_TORCH_CHECK(0 <= p && p < most && p < s.H && p < s.W, op, ": padding is ", p,
      ", and must be less than both sides of the images, ", s.H, " x ", s.W);
  STD_TORCH_CHECK(!padded || is_image_batch(*padded, x, s.B, s.C, s.H + 2 * p, s.W + 2 * p), op,
      ": padded must have the type and order of ", name, ", and the size with the padding");
  check_finite(op, "slope", slope);
  STD_TORCH_CHECK(slope >= 0, op, ": slope is ", slope, ", and the signs of the result tell the slope only from 0 on");
  return s;
}

Tensor reflect_pad(const Tensor& x, std::optional<Tensor> padded, int64_t padding, double slope) {
  const Shape s = check_padding("reflect_pad", "x", x, padded, padding, slope, false);
  Tensor out = torch::stable::new_empty(x, {s.B, s.H + 2 * padding, s.W + 2 * padding, s.C});
  const auto run = [&]<class T>(T) {
    pad<T>(static_cast<const T*>(x.const_data_ptr()),
        padded ? static_cast<const T*>(padded->const_data_ptr()) : nullptr, s, float(slope),
        static_cast<T*>(out.mutable_data_ptr()));
  };
  if (out.numel() == 0) return out;
  if (x.scalar_type() == ScalarType::Float) run(float());
  else run(uint16_t());
  return out;
}

Tensor reflect_pad_adjoint(const Tensor& grad, std::optional<Tensor> padded, int64_t padding, double slope) {
  const Shape s = check_padding("reflect_pad_adjoint", "grad", grad, padded, padding, slope, true);
  STD_TORCH_CHECK(padded || slope == 1, "reflect_pad_adjoint: slope needs padded, the images whose signs it follows");
  Tensor out = torch::stable::new_empty(grad, {s.B, s.H, s.W, s.C});
  const auto run = [&]<class T>(T) {
    fold<T>(static_cast<const T*>(grad.const_data_ptr()),
        padded ? static_cast<const T*>(padded->const_data_ptr()) : nullptr, s, float(slope),
        static_cast<T*>(out.mutable_data_ptr()));
  };
  if (out.numel() == 0) return out;
  if (grad.scalar_type() == ScalarType::Float) run(float());
  else run(uint16_t());
  return out;
}

}  // namespace
}  // namespace gcl

STABLE_TORCH_LIBRARY_FRAGMENT(gcl_fast, m) {
  m.def("reflect_pad(Tensor x, Tensor? padded, int padding, float slope) -> Tensor");
  m.def("reflect_pad_adjoint(Tensor grad, Tensor? padded, int padding, float slope) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(gcl_fast, CPU, m) {
  m.impl("reflect_pad", TORCH_BOX(&gcl::reflect_pad));
  m.impl("reflect_pad_adjoint", TORCH_BOX(&gcl::reflect_pad_adjoint));
}
