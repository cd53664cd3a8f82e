// All arithmetic of the rasterizer, per triangle and per pixel. The CPU and the CUDA kernels share it, so they agree.
//
// Built without fused multiply-add (-ffp-contract=off, --fmad=false): then every compiler and processor computes the same
// bits, the two triangles of an edge agree on every pixel, and CPU and GPU pick the same faces.
//
// Pixel (column, row) is sampled at its centre (column + 0.5, row + 0.5). Image y grows down; smaller depth is nearer.
#pragma once

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#ifdef __CUDACC__
#define GCL_BOTH __host__ __device__ __forceinline__
#else
#define GCL_BOTH inline __attribute__((always_inline))
#endif

namespace gcl {

using Key = unsigned long long;  // the type that CUDA's 64-bit atomicMin takes
constexpr Key EMPTY = ~Key(0);
constexpr float FARTHEST = 1e9f;  // a coordinate beyond it counts as not finite, so that no product below can overflow
constexpr float NEAREST = 1e-9f;  // perspective: a corner not farther than this counts as behind the camera

struct Options {
  bool cull_backfaces, perspective;
};

struct Triangle {
  float ax, ay, az, bx, by, bz, cx, cy, cz;
};

// Least value of the edge function that is on the edge's positive side. The comparison splits all pixels in two, without a
// remainder: an edge walked the other way puts each pixel on the other side, also where the function is exactly 0, which
// goes to the triangle that has it as a left or top edge.
struct Sides {
  float a, b, c;
};

GCL_BOTH Triangle load(const float* vertices, int a, int b, int c) {
  const float *p = vertices + 3 * int64_t(a), *q = vertices + 3 * int64_t(b), *r = vertices + 3 * int64_t(c);
  return {p[0], p[1], p[2], q[0], q[1], q[2], r[0], r[1], r[2]};
}

// a < b ? a : b is one instruction on every processor; fminf is a call on some, for the sake of NaN.
template <class T>
GCL_BOTH T smaller(T a, T b) {
  return a < b ? a : b;
}
template <class T>
GCL_BOTH T larger(T a, T b) {
  return a > b ? a : b;
}

// Whether a face with this corner may be drawn at all: finite, and in perspective before the camera. False for NaN.
GCL_BOTH bool drawable(float x, float y, float z, bool perspective) {
  return (fabsf(x) <= FARTHEST) & (fabsf(y) <= FARTHEST) & (fabsf(z) <= FARTHEST) & (!perspective | (z > NEAREST));
}

// First pixel whose centre is not before `position`, clamped to 0..size while still a float: a cast could overflow.
// A face reaches the pixels from the least cell of its corners to the one before the greatest.
GCL_BOTH int cell(float position, int size) { return int(smaller(larger(ceilf(position - 0.5f), 0.0f), float(size))); }

GCL_BOTH float least(float dx, float dy) { return (dy < 0) | ((dy == 0) & (dx > 0)) ? 0.0f : FLT_MIN; }

GCL_BOTH Sides sides(const Triangle& t) {
  return {least(t.cx - t.bx, t.cy - t.by), least(t.ax - t.cx, t.ay - t.cy), least(t.bx - t.ax, t.by - t.ay)};
}

// Twice the signed area of the pixel's centre and an edge, whose ends are given relative to it: swapping the ends gives
// exactly the negative. With y down it is positive for corners that run clockwise on the screen.
template <class T>
GCL_BOTH T edge(T px, T py, T qx, T qy) {
  return px * qy - py * qx;
}

// Whether the triangle covers the centre (x, y) of a pixel, and at what depth.
template <bool perspective>
GCL_BOTH bool cover(const Triangle& t, const Sides& s, float x, float y, bool cull_backfaces, float* depth) {
  const float ax = t.ax - x, ay = t.ay - y, bx = t.bx - x, by = t.by - y, cx = t.cx - x, cy = t.cy - y;
  const float wa = edge(bx, by, cx, cy), wb = edge(cx, cy, ax, ay), wc = edge(ax, ay, bx, by);
  const bool a = wa >= s.a, b = wb >= s.b, c = wc >= s.c;
  const float area = wa + wb + wc;
  *depth = perspective ? area / (wa / t.az + wb / t.bz + wc / t.cz) : (wa * t.az + wb * t.bz + wc * t.cz) / area;
  return (a == b) & (b == c) & (area != 0) & !(cull_backfaces & a);
}

// Whether a triangle is seen from behind beyond doubt, told before its pixels are; `cover` decides the doubtful ones. Twice
// its area is p - q, as below.
GCL_BOTH bool surely_clockwise(float p, float q) { return p - q > 1e-5f * (fabsf(p) + fabsf(q)); }
GCL_BOTH bool surely_clockwise(const Triangle& t) {
  return surely_clockwise((t.bx - t.ax) * (t.cy - t.ay), (t.by - t.ay) * (t.cx - t.ax));
}

// Bits of a float that sort as unsigned numbers in the order of the floats; all bits set comes after them.
GCL_BOTH uint32_t order(float depth) {
  uint32_t bits;
  memcpy(&bits, &depth, 4);
  return bits ^ (uint32_t(int32_t(bits) >> 31) | 0x80000000u);  // negative floats sort in reverse
}

// Depth in the upper half, the face in the lower: the smallest key is the nearest face, and among equally near ones the
// lowest index. A minimum of keys does not depend on the order in which they come.
GCL_BOTH Key pack(float depth, int face) { return Key(order(depth)) << 32 | uint32_t(face); }
GCL_BOTH int face_of(Key key) { return int(key & 0xffffffffu); }

// A triangle at a pixel: the barycentric weights of its corners, and the depth.
struct Fragment {
  float a, b, c, depth;
};

// Barycentric weights (>= 0, their sum is 1) and depth at a pixel centre (x, y) that `cover` found inside. In double: a
// pixel's worth costs little, and slivers keep their accuracy.
template <bool perspective>
GCL_BOTH Fragment interpolate(const Triangle& t, double x, double y) {
  const double ax = t.ax - x, ay = t.ay - y, bx = t.bx - x, by = t.by - y, cx = t.cx - x, cy = t.cy - y;
  double a = edge(bx, by, cx, cy), b = edge(cx, cy, ax, ay), c = edge(ax, ay, bx, by);
  const double sign = a + b + c < 0 ? -1.0 : 1.0;
  a = larger(a * sign, 0.0), b = larger(b * sign, 0.0), c = larger(c * sign, 0.0);
  const double none = a + b + c == 0 ? 1.0 : 0.0;  // inside only by float32's rounding
  a += none, b += none, c += none;
  if (perspective) a /= t.az, b /= t.bz, c /= t.cz;
  const double scale = 1 / (a + b + c);
  a *= scale, b *= scale, c *= scale;
  return {float(a), float(b), float(c), float(a * t.az + b * t.bz + c * t.cz)};
}

// Adds to `grad` (ax, ay, az, bx, ...) what a pixel's gradients of weights and depth give to the corners. With edge functions
// w, q_i = w_i (perspective: w_i / z_i) and Q their sum: weight_i = q_i / Q and depth = sum of weight_i z_i.
GCL_BOTH void interpolate_backward(
    const Triangle& t, float x, float y, bool perspective, const float* grad_weight, float grad_depth, float grad[9]) {
  const double px[3] = {t.ax - double(x), t.bx - double(x), t.cx - double(x)};
  const double py[3] = {t.ay - double(y), t.by - double(y), t.cy - double(y)};
  const double z[3] = {t.az, t.bz, t.cz};
  double q[3], sum = 0, mean = 0, g[3];
  for (int i = 0; i < 3; ++i) {
    const int j = (i + 1) % 3, k = (i + 2) % 3;
    q[i] = edge(px[j], py[j], px[k], py[k]) / (perspective ? z[i] : 1.0);
    sum += q[i];
  }
  if (sum == 0) sum = INFINITY;  // inside only by float32's rounding: no direction to move in
  for (int i = 0; i < 3; ++i) {
    g[i] = grad_weight[i] + grad_depth * z[i];
    mean += g[i] * q[i] / sum;
  }
  for (int i = 0; i < 3; ++i) {
    const int j = (i + 1) % 3, k = (i + 2) % 3;
    const double to_q = (g[i] - mean) / sum, to_w = perspective ? to_q / z[i] : to_q;
    grad[3 * i + 2] += float(grad_depth * q[i] / sum - (perspective ? to_q * q[i] / z[i] : 0.0));
    grad[3 * j] += float(to_w * py[k]), grad[3 * j + 1] -= float(to_w * px[k]);
    grad[3 * k] -= float(to_w * py[j]), grad[3 * k + 1] += float(to_w * px[j]);
  }
}

struct Vector {
  float x, y, z;
};

// Outward normal in the image frame, as long as twice the area.
GCL_BOTH Vector face_normal(const Triangle& t) {
  const float ux = t.bx - t.ax, uy = t.by - t.ay, uz = t.bz - t.az, vx = t.cx - t.ax, vy = t.cy - t.ay,
              vz = t.cz - t.az;
  return {uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx};
}

// Rows of a (3, 4) affine matrix.
GCL_BOTH float affine(const float* row, float x, float y, float z) {
  return row[0] * x + row[1] * y + row[2] * z + row[3];
}

// Value -1..1 of a grey surface with this normal (of any length; zero: in shadow), as shade() in kernels/structure_maps.py.
GCL_BOTH float shade(float x, float y, float z) {
  const float length = sqrtf(x * x + y * y + z * z), scale = 1 / larger(length, FLT_MIN);
  const float head = larger(-z, 0.0f), key = larger(-0.6f * x - 0.6f * y - 0.529150262f * z, 0.0f);
  return 2 * (0.2f + (0.4f * head + 0.25f * key) * scale) - 1;
}

// The same for the mean of the corners' normals, taken in unit length: a corner amid large faces counts no more.
GCL_BOTH float shade_mean(const Fragment& s, Vector a, Vector b, Vector c) {
  const float la = s.a / larger(sqrtf(a.x * a.x + a.y * a.y + a.z * a.z), FLT_MIN);
  const float lb = s.b / larger(sqrtf(b.x * b.x + b.y * b.y + b.z * b.z), FLT_MIN);
  const float lc = s.c / larger(sqrtf(c.x * c.x + c.y * c.y + c.z * c.z), FLT_MIN);
  return shade(a.x * la + b.x * lb + c.x * lc, a.y * la + b.y * lb + c.y * lc, a.z * la + b.z * lb + c.z * lc);
}

}  // namespace gcl
