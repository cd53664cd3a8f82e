// CPU kernels of batch norm with the residual and the ReLU behind it in the same pass, and their gradient, of bfloat16; the
// definition is in kernels/batch_norm.py. Pictures are channels-last: rows of C numbers, one for each pixel. Sums are taken
// sample by sample and those in order, so results do not depend on the number of threads.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <tuple>
#include <vector>

#include "bfloat16.h"
#include "channels_last.h"
#include "simd.h"

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

namespace {

using Bits = uint16_t;  // of a bfloat16

// Rows that stay in the first cache from one sum over them to the next.
GCL_INLINE int64_t rows_of_block(int64_t C) { return std::clamp<int64_t>((8 << 10) / C, 4, 128); }

struct Norm {  // C numbers each; y = relu(x * factor + offset + residual), rounded as torch's own batch norm
  const float *mean, *factor, *offset;
};

// sum[c] += value(row, c) over the rows: four at a time, so that sums are read and written less often.
template <class Value>
GCL_INLINE void add_rows(int64_t rows, int64_t C, Value value, float* __restrict sum) {
  int64_t r = 0;
  for (; r + 3 < rows; r += 4)
    for (int64_t c = 0; c < C; ++c)
      sum[c] += (value(r, c) + value(r + 1, c)) + (value(r + 2, c) + value(r + 3, c));
  for (; r < rows; ++r)
    for (int64_t c = 0; c < C; ++c) sum[c] += value(r, c);
}

// sum[c] += g(row, c) and product[c] += g(row, c) * d(row, c) over the rows.
template <class G, class D>
GCL_INLINE void add_products(int64_t rows, int64_t C, G g, D d, float* __restrict sum, float* __restrict product) {
  int64_t r = 0;
  for (; r + 3 < rows; r += 4)
#pragma GCC ivdep  // the compiler does not see what restrict says through the functions
    for (int64_t c = 0; c < C; ++c) {
      const float g0 = g(r, c), g1 = g(r + 1, c), g2 = g(r + 2, c), g3 = g(r + 3, c);
      sum[c] += (g0 + g1) + (g2 + g3);
      product[c] += (g0 * d(r, c) + g1 * d(r + 1, c)) + (g2 * d(r + 2, c) + g3 * d(r + 3, c));
    }
  for (; r < rows; ++r)
    for (int64_t c = 0; c < C; ++c) {
      sum[c] += g(r, c);
      product[c] += g(r, c) * d(r, c);
    }
}

// Means and sums of squared deviations of `count` rows, joined by those of `more` rows (Chan et al. 1979).
GCL_INLINE void join(int64_t C, int64_t count, int64_t more, const float* mean_more, const float* squares_more,
    float* __restrict mean, float* __restrict squares) {
  const float share = float(more) / float(count + more), between = float(count) * share;
  for (int64_t c = 0; c < C; ++c) {
    const float apart = mean_more[c] - mean[c];
    mean[c] += apart * share;
    squares[c] += squares_more[c] + apart * apart * between;
  }
}

// Of one sample: mean and sum of squared deviations of each channel. `work`: 2 * C numbers.
GCL_CLONES void moments_of(const Bits* x, int64_t rows, int64_t C, float* mean, float* squares, float* work) {
  float *const own = work, *const deviations = work + C;
  std::fill(mean, mean + C, 0.0f);
  std::fill(squares, squares + C, 0.0f);
  const int64_t block = rows_of_block(C);
  for (int64_t done = 0; done < rows;) {
    const int64_t more = std::min(block, rows - done);
    const Bits* const from = x + done * C;
    std::fill(work, work + 2 * C, 0.0f);
    add_rows(more, C, [=](int64_t r, int64_t c) { return widen(from[r * C + c]); }, own);
    for (int64_t c = 0; c < C; ++c) own[c] /= float(more);
    add_rows(more, C, [=](int64_t r, int64_t c) {
      const float apart = widen(from[r * C + c]) - own[c];
      return apart * apart;
    }, deviations);
    join(C, done, more, own, deviations, mean, squares);
    done += more;
  }
}

GCL_CLONES void apply(const Bits* x, int64_t rows, int64_t C, Norm n, const Bits* residual, Bits* __restrict out) {
  const auto value = [=](int64_t i, int64_t c) { return widen(x[i]) * n.factor[c] + n.offset[c]; };
  for (int64_t r = 0; r < rows; ++r)
    if (residual)
      for (int64_t c = 0; c < C; ++c) {
        const float sum = value(r * C + c, c) + widen(residual[r * C + c]);
        narrow(sum < 0 ? 0 : sum, out[r * C + c]);  // NaN stays
      }
    else
      for (int64_t c = 0; c < C; ++c) {
        const float sum = value(r * C + c, c);
        narrow(sum < 0 ? 0 : sum, out[r * C + c]);
      }
}

// What the gradient needs of one sample. y: null where no residual was added; ReLU is then read off x.
struct Sample {
  const Bits *x, *grad, *y;
  int64_t rows, C;
  Norm n;
};

GCL_INLINE float apart(const Sample& s, int64_t i, int64_t c) { return widen(s.x[i]) - s.n.mean[c]; }

// Gradient before ReLU.
template <bool RESIDUAL>
GCL_INLINE float before(const Sample& s, int64_t i, int64_t c) {
  const float value = RESIDUAL ? widen(s.y[i]) : widen(s.x[i]) * s.n.factor[c] + s.n.offset[c];
  const float grad = widen(s.grad[i]);
  return value <= 0 ? 0.0f : grad;  // through NaN, as torch's
}

// Sums over the rows of the gradient before ReLU, and of that times x - mean; the former is the residual's gradient.
// `work`: 2 * C numbers.
template <bool RESIDUAL>
GCL_INLINE void reduce(Sample s, float* sum, float* product, float* work, Bits* __restrict residual) {
  const int64_t C = s.C;
  std::fill(sum, sum + C, 0.0f);
  std::fill(product, product + C, 0.0f);
  const int64_t block = rows_of_block(C);
  for (int64_t done = 0; done < s.rows; done += block) {  // sums of sums keep float32's rounding small
    const int64_t more = std::min(block, s.rows - done), from = done * C;
    if constexpr (RESIDUAL)
      for (int64_t r = 0; r < more; ++r)
#pragma GCC ivdep
        for (int64_t c = 0, i = from + r * C; c < C; ++c, ++i) narrow(before<true>(s, i, c), residual[i]);
    const auto g = [=](int64_t r, int64_t c) {
      const int64_t i = from + r * C + c;
      if constexpr (RESIDUAL) return widen(residual[i]);
      else return before<false>(s, i, c);
    };
    std::fill(work, work + 2 * C, 0.0f);
    add_products(more, C, g, [=](int64_t r, int64_t c) { return apart(s, from + r * C + c, c); }, work, work + C);
    for (int64_t c = 0; c < C; ++c) sum[c] += work[c], product[c] += work[C + c];
  }
}

GCL_CLONES void sums_of(Sample s, float* sum, float* product, float* work, Bits* residual) {
  if (residual) reduce<true>(s, sum, product, work, residual);
  else reduce<false>(s, sum, product, work, residual);
}

// dx = factor * (g - a - (x - mean) * b), with g the gradient before ReLU.
GCL_CLONES void gradient_of(Sample s, const Bits* residual, const float* a, const float* b, Bits* __restrict out) {
  for (int64_t r = 0; r < s.rows; ++r)
    if (residual)
      for (int64_t c = 0, i = r * s.C; c < s.C; ++c, ++i)
        narrow(s.n.factor[c] * (widen(residual[i]) - a[c] - apart(s, i, c) * b[c]), out[i]);
    else
      for (int64_t c = 0, i = r * s.C; c < s.C; ++c, ++i)
        narrow(s.n.factor[c] * (before<false>(s, i, c) - a[c] - apart(s, i, c) * b[c]), out[i]);
}

void check(const Tensor& x, const Tensor* like, std::initializer_list<const Tensor*> channels) {
  STD_TORCH_CHECK(x.dim() == 4 && channels_last(x), "batch_norm: x must be (B, C, H, W) in channels-last order");
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::BFloat16, "batch_norm: x must be bfloat16");
  STD_TORCH_CHECK(x.size(1) > 0, "batch_norm: x has no channels");
  STD_TORCH_CHECK(!like || (like->dim() == 4 && channels_last(*like) && like->scalar_type() == x.scalar_type() &&
                      like->numel() == x.numel() && like->size(0) == x.size(0) && like->size(1) == x.size(1)),
      "batch_norm: residual and gradient must have the shape, type and order of x");
  for (const Tensor* t : channels)
    STD_TORCH_CHECK(t->dim() == 1 && t->size(0) == x.size(1) && t->is_contiguous() && t->scalar_type() == ScalarType::Float,
        "batch_norm: statistics, scale and shift must be contiguous float32 of shape (C,)");
}

struct Coefficients {
  std::vector<float> inverse, factor, offset;  // inverse: of the deviation
  Coefficients(const Tensor& mean, const Tensor& variance, const Tensor& scale, const Tensor& shift, double eps)
      : inverse(mean.size(0)), factor(inverse), offset(inverse) {
    const float *const m = mean.const_data_ptr<float>(), *const v = variance.const_data_ptr<float>(),
                *const s = scale.const_data_ptr<float>(), *const t = shift.const_data_ptr<float>();
    for (size_t c = 0; c < inverse.size(); ++c) {
      inverse[c] = 1 / std::sqrt(v[c] + float(eps));
      factor[c] = inverse[c] * s[c];
      offset[c] = t[c] - m[c] * factor[c];
    }
  }
};

const Bits* data(const Tensor& t) { return static_cast<const Bits*>(t.const_data_ptr()); }

std::tuple<Tensor, Tensor> batch_moments(const Tensor& x) {
  check(x, nullptr, {});
  const int64_t B = x.size(0), C = x.size(1), rows = x.size(2) * x.size(3);
  STD_TORCH_CHECK(B * rows > 0, "batch_norm: x must not be empty");
  std::vector<float> parts(2 * B * C);
  torch::stable::parallel_for(0, B, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> work(2 * C);
    for (int64_t b = begin; b < end; ++b)
      moments_of(data(x) + b * rows * C, rows, C, &parts[2 * b * C], &parts[(2 * b + 1) * C], work.data());
  });
  float *const mean = parts.data(), *const squares = mean + C;
  for (int64_t b = 1; b < B; ++b) join(C, b * rows, rows, &parts[2 * b * C], &parts[(2 * b + 1) * C], mean, squares);
  Tensor means = torch::stable::new_empty(x, {C}, ScalarType::Float), variances = torch::stable::empty_like(means);
  std::copy(mean, mean + C, means.mutable_data_ptr<float>());
  std::transform(squares, squares + C, variances.mutable_data_ptr<float>(), [=](float s) { return s / float(B * rows); });
  return {means, variances};
}

Tensor batch_norm_relu(const Tensor& x, const Tensor& mean, const Tensor& variance, const Tensor& scale,
    const Tensor& shift, std::optional<Tensor> residual, double eps) {
  check(x, residual ? &*residual : nullptr, {&mean, &variance, &scale, &shift});
  const int64_t B = x.size(0), C = x.size(1), rows = x.size(2) * x.size(3), size = rows * C;
  const Coefficients k(mean, variance, scale, shift, eps);
  const Norm n{mean.const_data_ptr<float>(), k.factor.data(), k.offset.data()};
  Tensor y = torch::stable::empty_like(x);
  Bits* const out = static_cast<Bits*>(y.mutable_data_ptr());
  torch::stable::parallel_for(0, B, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = end; b-- > begin;)  // the last samples are still in the cache
      apply(data(x) + b * size, rows, C, n, residual ? data(*residual) + b * size : nullptr, out + b * size);
  });
  return y;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> batch_norm_relu_backward(const Tensor& grad, const Tensor& x,
    std::optional<Tensor> y, const Tensor& mean, const Tensor& variance, const Tensor& scale, const Tensor& shift,
    double eps, bool live) {
  check(x, &grad, {&mean, &variance, &scale, &shift});
  check(x, y ? &*y : nullptr, {});
  const int64_t B = x.size(0), C = x.size(1), rows = x.size(2) * x.size(3), size = rows * C;
  const Coefficients k(mean, variance, scale, shift, eps);
  const Norm n{mean.const_data_ptr<float>(), k.factor.data(), k.offset.data()};
  Tensor dx = torch::stable::empty_like(x), dresidual = y ? torch::stable::empty_like(x) : torch::stable::new_empty(x, {0});
  Tensor dscale = torch::stable::empty_like(scale), dshift = torch::stable::empty_like(scale);
  Bits *const out = static_cast<Bits*>(dx.mutable_data_ptr()), *const skip = y ? static_cast<Bits*>(dresidual.mutable_data_ptr()) : nullptr;
  const auto sample = [&](int64_t b) {
    return Sample{data(x) + b * size, data(grad) + b * size, y ? data(*y) + b * size : nullptr, rows, C, n};
  };
  std::vector<float> parts(2 * std::max<int64_t>(B, 1) * C);  // of an empty batch: zeros
  torch::stable::parallel_for(0, B, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> work(2 * C);
    for (int64_t b = begin; b < end; ++b)
      sums_of(sample(b), &parts[2 * b * C], &parts[(2 * b + 1) * C], work.data(), skip ? skip + b * size : nullptr);
  });
  for (int64_t b = 1; b < B; ++b)
    for (int64_t i = 0; i < 2 * C; ++i) parts[i] += parts[2 * b * C + i];
  float *const ds = dscale.mutable_data_ptr<float>(), *const dt = dshift.mutable_data_ptr<float>();
  std::vector<float> a(C), d(C);
  for (int64_t c = 0; c < C; ++c) {
    dt[c] = parts[c];
    ds[c] = parts[C + c] * k.inverse[c];
    if (live) a[c] = dt[c] / float(B * rows), d[c] = ds[c] * k.inverse[c] / float(B * rows);
  }
  torch::stable::parallel_for(0, B, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = end; b-- > begin;)
      gradient_of(sample(b), skip ? skip + b * size : nullptr, a.data(), d.data(), out + b * size);
  });
  return {dx, dresidual, dscale, dshift};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(gcl_fast, m) {
  m.def("batch_moments(Tensor x) -> (Tensor, Tensor)");
  m.def("batch_norm_relu(Tensor x, Tensor mean, Tensor variance, Tensor scale, Tensor shift, Tensor? residual, float eps)"
        " -> Tensor");
  m.def("batch_norm_relu_backward(Tensor grad, Tensor x, Tensor? y, Tensor mean, Tensor variance, Tensor scale,"
        " Tensor shift, float eps, bool live) -> (Tensor, Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(gcl_fast, CPU, m) {
  m.impl("batch_moments", TORCH_BOX(&batch_moments));
  m.impl("batch_norm_relu", TORCH_BOX(&batch_norm_relu));
  m.impl("batch_norm_relu_backward", TORCH_BOX(&batch_norm_relu_backward));
}
