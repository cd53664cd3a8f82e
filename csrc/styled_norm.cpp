// CPU kernels of the decoder's two norms, with scale and shift, LeakyReLU and residual in the same pass, and their
// gradient; the definition is in kernels/styled_norm.py. Images are channels-last: rows of C numbers.
#include <cmath>
#include <optional>
#include <tuple>
#include <vector>

#include "bfloat16.h"
#include "checks.h"
#include "simd.h"

namespace gcl {
namespace {

constexpr int LANES = 16;  // channels side by side in registers
constexpr float EPS = 1e-5f;

// One image: `rows` pixels of C channels, and the style of each channel.
template <class T>
struct Image {
  const T* x;
  int64_t rows, C;
  const float *scale, *shift;  // C
  float slope;                 // of LeakyReLU below zero; 1: none
};

struct Moments {
  float *mean, *inverse;  // C each: (x - mean) * inverse is the normalized x
};

constexpr int64_t BLOCK = 64;  // rows summed at once: sums of sums keep float32's rounding small

// Sums up value(row, lane) over the rows, for `width` channels.
template <class Value>
GCL_INLINE void sum_rows(int64_t rows, int width, Value value, float* out) {
  std::fill(out, out + width, 0.0f);
  for (int64_t row = 0; row < rows;) {
    const int64_t end = std::min(row + BLOCK, rows);
    float a[LANES] = {}, b[LANES] = {};
    if (width == LANES) {  // a constant width stays in registers
      for (; row + 1 < end; row += 2)
        for (int u = 0; u < LANES; ++u) a[u] += value(row, u), b[u] += value(row + 1, u);
      for (; row < end; ++row)
        for (int u = 0; u < LANES; ++u) a[u] += value(row, u);
    } else {
      for (; row < end; ++row)
        for (int u = 0; u < width; ++u) a[u] += value(row, u);
    }
    for (int u = 0; u < width; ++u) out[u] += a[u] + b[u];
  }
}

template <class T>
GCL_INLINE void moments_of(Image<T> s, bool whole, Moments m) {
  const float count = float(s.rows);
  for (int64_t c = 0; c < s.C; c += LANES) {
    const int width = int(std::min<int64_t>(LANES, s.C - c));
    sum_rows(s.rows, width, [&](int64_t r, int u) { return widen(s.x[r * s.C + c + u]); }, m.mean + c);
  }
  float total = 0;
  for (int64_t c = 0; c < s.C; ++c) total += m.mean[c], m.mean[c] /= count;
  if (whole) std::fill(m.mean, m.mean + s.C, total / (count * s.C));
  for (int64_t c = 0; c < s.C; c += LANES) {  // a second pass, over what the cache still holds: no cancellation
    const int width = int(std::min<int64_t>(LANES, s.C - c));
    sum_rows(
        s.rows, width,
        [&](int64_t r, int u) {
          const float d = widen(s.x[r * s.C + c + u]) - m.mean[c + u];
          return d * d;
        },
        m.inverse + c);
  }
  total = 0;
  for (int64_t c = 0; c < s.C; ++c) total += m.inverse[c], m.inverse[c] = 1 / std::sqrt(m.inverse[c] / count + EPS);
  if (whole) std::fill(m.inverse, m.inverse + s.C, 1 / (std::sqrt(total / (count * s.C - 1)) + EPS));
}

template <class T>
GCL_INLINE void apply(Image<T> s, Moments m, const T* residual, float* factor, T* out) {
  for (int64_t c = 0; c < s.C; ++c) factor[c] = m.inverse[c] * s.scale[c];
  for (int64_t r = 0; r < s.rows; ++r) {
    const T *x = s.x + r * s.C, *skip = residual ? residual + r * s.C : nullptr;
    T* y = out + r * s.C;
    if (skip)
      for (int64_t c = 0; c < s.C; ++c) {
        const float value = (widen(x[c]) - m.mean[c]) * factor[c] + s.shift[c];
        narrow((value > 0 ? value : s.slope * value) + widen(skip[c]), y[c]);
      }
    else
      for (int64_t c = 0; c < s.C; ++c) {
        const float value = (widen(x[c]) - m.mean[c]) * factor[c] + s.shift[c];
        narrow(value > 0 ? value : s.slope * value, y[c]);
      }
  }
}

// With n = (x - mean) * inverse and g the gradient before LeakyReLU: d shift = sum g, d scale = sum g n, and
// dx = inverse * (g s - mean(g s)) - n * k * sum(g s n), s the scale, k from the derivative of the deviation.
template <class T>
GCL_INLINE void backward_of(
    Image<T> s, const T* grad, bool whole, Moments m, float* a, float* b, float* dscale, float* dshift, T* out) {
  const auto before = [&](int64_t r, int64_t c) {  // gradient before LeakyReLU
    const float n = (widen(s.x[r * s.C + c]) - m.mean[c]) * m.inverse[c];
    const float g = widen(grad[r * s.C + c]);
    return std::pair(n, n * s.scale[c] + s.shift[c] > 0 ? g : s.slope * g);
  };
  for (int64_t c = 0; c < s.C; c += LANES) {
    const int width = int(std::min<int64_t>(LANES, s.C - c));
    sum_rows(s.rows, width, [&](int64_t r, int u) { return before(r, c + u).second; }, dshift + c);
    sum_rows(
        s.rows, width,
        [&](int64_t r, int u) {
          const auto [n, g] = before(r, c + u);
          return n * g;
        },
        dscale + c);
  }
  const float count = float(s.rows);
  if (whole) {
    float sum = 0, product = 0;
    for (int64_t c = 0; c < s.C; ++c) sum += s.scale[c] * dshift[c], product += s.scale[c] * dscale[c];
    const float deviation = 1 / m.inverse[0] - EPS, all = count * s.C;
    const float k = deviation > 0 ? 1 / ((all - 1) * deviation) : 0.0f;
    std::fill(a, a + s.C, sum / all);
    std::fill(b, b + s.C, product * k);
  } else {
    for (int64_t c = 0; c < s.C; ++c) {
      a[c] = s.scale[c] * dshift[c] / count;
      b[c] = s.scale[c] * dscale[c] / count * m.inverse[c];
    }
  }
  for (int64_t r = 0; r < s.rows; ++r)
    for (int64_t c = 0; c < s.C; ++c) {
      const auto [n, g] = before(r, c);
      narrow(m.inverse[c] * (g * s.scale[c] - a[c]) - n * b[c], out[r * s.C + c]);
    }
}

template <class T>
GCL_CLONES void forward_image(Image<T> s, bool whole, Moments m, const T* residual, float* factor, T* out) {
  moments_of(s, whole, m);
  apply(s, m, residual, factor, out);
}

template <class T>
GCL_CLONES void backward_image(
    Image<T> s, const T* grad, bool whole, Moments m, float* a, float* b, float* dscale, float* dshift, T* out) {
  backward_of(s, grad, whole, m, a, b, dscale, dshift, out);
}

using Style = std::optional<Tensor>;  // (B, C), whose rows may share memory; none: a constant

// The row of a style that each image takes.
struct StyleRows {
  std::vector<float> constant;
  const float* first;
  int64_t stride;
  StyleRows(const Style& style, int64_t C, float otherwise)
      : constant(style ? 0 : C, otherwise), first(style ? style->const_data_ptr<float>() : constant.data()),
        stride(style ? style->stride(0) : 0) {}
  const float* of(int64_t b) const { return first + b * stride; }
};

// `like` is called `name` in the op's schema.
void check_styled(const char* op, const Tensor& x, const char* name, const Tensor& like, const Style& scale,
    const Style& shift, double slope) {
  STD_TORCH_CHECK(
      is_channels_last(x) && (x.scalar_type() == ScalarType::Float || x.scalar_type() == ScalarType::BFloat16), op,
      ": x must be float32 or bfloat16 of shape (B, C, H, W) in channels-last order");
  STD_TORCH_CHECK(is_image_batch(like, x, x.size(0), x.size(1), x.size(2), x.size(3)), op, ": ", name,
      " must have the shape, type and order of x");
  check_finite(op, "slope", slope);
  for (const Style* style : {&scale, &shift})
    STD_TORCH_CHECK(!*style ||
            ((*style)->dim() == 2 && (*style)->size(0) == x.size(0) && (*style)->size(1) == x.size(1) &&
                (x.size(1) < 2 || (*style)->stride(1) == 1) && (*style)->scalar_type() == ScalarType::Float),
        op, ": scale and shift must be float32 of shape (B, C), contiguous in C");
}

template <class T>
void forward(const Tensor& x, const Style& scale, const Style& shift, const std::optional<Tensor>& residual,
    float slope, bool whole, float* moments, Tensor& y) {
  const int64_t B = x.size(0), C = x.size(1), rows = x.size(2) * x.size(3), size = rows * C;
  const T* from = static_cast<const T*>(x.const_data_ptr());
  const T* skip = residual ? static_cast<const T*>(residual->const_data_ptr()) : nullptr;
  const StyleRows s(scale, C, 1), t(shift, C, 0);
  T* const to = static_cast<T*>(y.mutable_data_ptr());
  torch::stable::parallel_for(0, B, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> factor(C);
    for (int64_t b = begin; b < end; ++b)
      forward_image<T>({from + b * size, rows, C, s.of(b), t.of(b), slope}, whole,
          {moments + 2 * b * C, moments + (2 * b + 1) * C}, skip ? skip + b * size : nullptr, factor.data(),
          to + b * size);
  });
}

template <class T>
void backward(const Tensor& grad, const Tensor& x, const Style& scale, const Style& shift, float* moments, float slope,
    bool whole, Tensor& dx, float* dscale, float* dshift) {
  const int64_t B = x.size(0), C = x.size(1), rows = x.size(2) * x.size(3), size = rows * C;
  const T *from = static_cast<const T*>(x.const_data_ptr()), *g = static_cast<const T*>(grad.const_data_ptr());
  const StyleRows s(scale, C, 1), t(shift, C, 0);
  T* const to = static_cast<T*>(dx.mutable_data_ptr());
  torch::stable::parallel_for(0, B, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> a(C), k(C);
    for (int64_t b = begin; b < end; ++b)
      backward_image<T>({from + b * size, rows, C, s.of(b), t.of(b), slope}, g + b * size, whole,
          {moments + 2 * b * C, moments + (2 * b + 1) * C}, a.data(), k.data(), dscale + b * C, dshift + b * C,
          to + b * size);
  });
}

std::tuple<Tensor, Tensor> styled_norm(
    const Tensor& x, Style scale, Style shift, std::optional<Tensor> residual, double slope, bool whole) {
  check_styled("styled_norm", x, "residual", residual ? *residual : x, scale, shift, slope);
  Tensor y = torch::stable::empty_like(x);
  Tensor moments = torch::stable::new_empty(x, {x.size(0), 2, x.size(1)}, ScalarType::Float);
  float* const m = moments.mutable_data_ptr<float>();
  if (x.numel() == 0) std::fill(m, m + moments.numel(), 0.0f);  // no pixel has a mean
  else if (x.scalar_type() == ScalarType::Float) forward<float>(x, scale, shift, residual, float(slope), whole, m, y);
  else forward<uint16_t>(x, scale, shift, residual, float(slope), whole, m, y);
  return {y, moments};
}

std::tuple<Tensor, Tensor, Tensor> styled_norm_backward(
    const Tensor& grad, const Tensor& x, Style scale, Style shift, const Tensor& moments, double slope, bool whole) {
  check_styled("styled_norm_backward", x, "grad", grad, scale, shift, slope);
  STD_TORCH_CHECK(is_array(moments, ScalarType::Float, 3) && moments.size(0) == x.size(0) && moments.size(1) == 2 &&
          moments.size(2) == x.size(1),
      "styled_norm_backward: moments must be contiguous float32 of shape (B, 2, C)");
  Tensor dx = torch::stable::empty_like(x);
  Tensor dscale = torch::stable::new_empty(x, {x.size(0), x.size(1)}, ScalarType::Float),
         dshift = torch::stable::empty_like(dscale);
  float *const m = const_cast<float*>(moments.const_data_ptr<float>()), *const ds = dscale.mutable_data_ptr<float>(),
               *const dt = dshift.mutable_data_ptr<float>();
  if (x.scalar_type() == ScalarType::Float) backward<float>(grad, x, scale, shift, m, float(slope), whole, dx, ds, dt);
  else backward<uint16_t>(grad, x, scale, shift, m, float(slope), whole, dx, ds, dt);
  return {dx, dscale, dshift};
}

}  // namespace
}  // namespace gcl

STABLE_TORCH_LIBRARY_FRAGMENT(gcl_fast, m) {
  m.def(
      "styled_norm(Tensor x, Tensor? scale, Tensor? shift, Tensor? residual, float slope, bool whole) -> (Tensor, Tensor)");
  m.def(
      "styled_norm_backward(Tensor grad, Tensor x, Tensor? scale, Tensor? shift, Tensor moments, float slope, bool whole)"
      " -> (Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(gcl_fast, CPU, m) {
  m.impl("styled_norm", TORCH_BOX(&gcl::styled_norm));
  m.impl("styled_norm_backward", TORCH_BOX(&gcl::styled_norm_backward));
}
