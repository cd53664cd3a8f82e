// All arithmetic of transfer_appearance, per pixel of the target view. The CPU and the CUDA kernels share it.
//
// A pixel's colour is a weighted mean of places in the crop, its taps: of the surface point that it shows, of the donors of
// that point where the crop shows it badly, and for background of the nearest pixels that are surely background.
#pragma once

#include "raster.h"

namespace gcl {

constexpr int MOST_DONORS = 16;  // of a vertex
constexpr float CERTAIN = 0.3f;  // cosine of the viewing angle from which on a surface point needs no donors

// The crop's own view, which says what of the body the crop shows.
struct SourceView {
  const float* projected;  // (V, 3) pixels, pixels, depth
  const float* shown;  // (V), the visibility of each vertex
  const Key* keys;  // (H, W), the z-buffer
  const uint8_t* unknown;  // (H, W), 1: on the body or near it, where clothes and hair may be
  float tolerance;  // depth, in pixels, that a seen point may lie behind the z-buffer
  int V, H, W;
};

struct Donors {
  const int32_t* index;  // (V, K) vertices
  const float* weight;  // (K), best first
  int K;
};

GCL_BOTH float inverse_length(Vector n) { return 1 / larger(sqrtf(n.x * n.x + n.y * n.y + n.z * n.z), FLT_MIN); }

// How well the crop shows a surface point: the cosine between its normal and the camera, 0 where it is hidden or outside.
GCL_BOTH float visibility(const SourceView& s, float x, float y, float depth, float normal_z) {
  const bool inside = (x >= 0) & (y >= 0) & (x < s.W) & (y < s.H);
  const Key key = s.keys[inside ? int(y) * s.W + int(x) : 0];  // without a branch, so that a loop of it is vectorized
  const bool hidden = (key != EMPTY) & (order(depth - s.tolerance) > uint32_t(key >> 32));
  const float cosine = larger(-normal_z, 0.0f);
  return inside & !hidden ? cosine : 0.0f;
}

// The visibility of a vertex with a normal of any length.
GCL_BOTH float vertex_visibility(const SourceView& s, int v, Vector normal) {
  const float* at = s.projected + 3 * int64_t(v);
  return visibility(s, at[0], at[1], at[2], normal.z * inverse_length(normal));
}

// Calls tap(x, y, weight) for each place in the crop that a pixel of the body takes its colour from, and returns the
// pixel's confidence: the visibility of the point or of its best donor, times the donor's weight. `face` has the corners of
// the pixel's face, `normal(v)` is the normal of a vertex in the crop's view, of any length.
template <class Normal, class Tap>
GCL_BOTH float body_taps(
    const SourceView& s, const int face[3], Fragment pixel, const Donors& donors, Normal normal, Tap tap) {
  const float share[3] = {pixel.a, pixel.b, pixel.c};
  float x = 0, y = 0, depth = 0;
  Vector mean = {0, 0, 0};
  for (int k = 0; k < 3; ++k) {
    const float* at = s.projected + 3 * int64_t(face[k]);
    const Vector n = normal(face[k]);
    const float scale = share[k] * inverse_length(n);
    x += share[k] * at[0], y += share[k] * at[1], depth += share[k] * at[2];
    mean = {mean.x + scale * n.x, mean.y + scale * n.y, mean.z + scale * n.z};
  }
  const float own = visibility(s, x, y, depth, mean.z * inverse_length(mean));
  if (own >= CERTAIN) return tap(x, y, 1.0f), own;
  const int major = share[1] > share[0] ? (share[2] > share[1] ? 2 : 1) : (share[2] > share[0] ? 2 : 0);
  const int32_t* row = donors.index + int64_t(face[major]) * donors.K;
  float worth[MOST_DONORS], total = 0, confidence = own;
  for (int k = 0; k < donors.K; ++k) {
    const bool named = uint32_t(row[k]) < uint32_t(s.V);  // on a GPU nobody has checked it
    worth[k] = named ? donors.weight[k] * s.shown[row[k]] : 0;
    total += worth[k], confidence = larger(confidence, worth[k]);
  }
  const float own_weight = total > 0 ? own / CERTAIN : float(own > 0);
  if (own_weight > 0) tap(x, y, own_weight);
  if (total == 0) return confidence;
  const float scale = (1 - own_weight) / total;
  for (int k = 0; k < donors.K; ++k) {
    if (worth[k] <= 0) continue;
    const float* at = s.projected + 3 * int64_t(row[k]);
    tap(at[0], at[1], worth[k] * scale);
  }
  return confidence;
}

// The same for a pixel of the background, which takes whole pixels of its row: tap(column, weight). One that is unknown
// takes the nearest known ones by their distance; `left` and `right` are their columns, -1 and W where there is none.
template <class Tap>
GCL_BOTH float background_taps(int column, int left, int right, int W, Tap tap) {
  if (left == column) return tap(column, 1.0f), 1.0f;
  const float share = left < 0 ? 0.0f : right == W ? 1.0f : float(right - column) / float(right - left);
  if (left >= 0) tap(left, share);
  if (right < W) tap(right, 1 - share);
  return 0;
}

// The four pixels around a place in the image, and their weights. Beyond the border, the border counts.
struct Corners {
  int at[4];
  float weight[4];
};

GCL_BOTH Corners corners_of(float x, float y, int H, int W) {
  x = smaller(larger(x - 0.5f, 0.0f), float(W - 1)), y = smaller(larger(y - 0.5f, 0.0f), float(H - 1));
  const int left = int(x), top = int(y), right = smaller(left + 1, W - 1), bottom = smaller(top + 1, H - 1);
  const float u = x - left, v = y - top;
  return {{top * W + left, top * W + right, bottom * W + left, bottom * W + right},
      {(1 - u) * (1 - v), u * (1 - v), (1 - u) * v, u * v}};
}

// Pixels of a length in metres, where `transform` (3, 4) takes metres to pixels.
GCL_BOTH float pixels_of(const float* transform, float metres) {
  return metres * sqrtf(transform[0] * transform[0] + transform[1] * transform[1] + transform[2] * transform[2]);
}
GCL_BOTH int reach_of(const float* transform, float metres, int most) {
  return int(smaller(larger(pixels_of(transform, metres) + 0.5f, 0.0f), float(most)));
}

}  // namespace gcl
