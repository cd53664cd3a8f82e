// All maths of the rasterizer, per triangle and per pixel: the CPU and the CUDA kernels share it, so they cannot drift apart.
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
constexpr float FARTHEST = 1e9f;   // a coordinate beyond it counts as not finite, so that no product below can overflow
constexpr float NEAREST = 1e-9f;  // perspective: a corner not farther than this counts as behind the camera

struct Options {
  bool cull_backfaces, perspective;
};

struct Triangle {
  float ax, ay, az, bx, by, bz, cx, cy, cz;
};

// Columns left..right-1 and rows top..bottom-1 that can have their centre inside.
struct Box {
  int left, top, right, bottom;
  GCL_BOTH bool empty() const { return left >= right || top >= bottom; }
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

GCL_BOTH bool is_near(float x) { return fabsf(x) <= FARTHEST; }  // false for NaN

// Whether a triangle may be drawn at all: finite, and in perspective wholly before the camera.
GCL_BOTH bool drawable(const Triangle& t, bool perspective) {
  const bool finite = is_near(t.ax) & is_near(t.ay) & is_near(t.az) & is_near(t.bx) & is_near(t.by) & is_near(t.bz) &
                      is_near(t.cx) & is_near(t.cy) & is_near(t.cz);
  return finite & (!perspective | ((t.az > NEAREST) & (t.bz > NEAREST) & (t.cz > NEAREST)));
}

// First pixel whose centre is not before `position`, clamped to 0..size while still a float: a cast could overflow.
GCL_BOTH int cell(float position, int size) {
  return int(fminf(fmaxf(ceilf(position - 0.5f), 0.0f), float(size)));
}

GCL_BOTH Box box(const Triangle& t, int H, int W) {
  return {cell(fminf(t.ax, fminf(t.bx, t.cx)), W), cell(fminf(t.ay, fminf(t.by, t.cy)), H),
      cell(fmaxf(t.ax, fmaxf(t.bx, t.cx)), W), cell(fmaxf(t.ay, fmaxf(t.by, t.cy)), H)};
}

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

// Depth at a pixel centre if the triangle covers it, and whether it does.
GCL_BOTH bool cover(const Triangle& t, const Sides& s, int column, int row, Options options, float* depth) {
  const float x = column + 0.5f, y = row + 0.5f;
  const float ax = t.ax - x, ay = t.ay - y, bx = t.bx - x, by = t.by - y, cx = t.cx - x, cy = t.cy - y;
  const float wa = edge(bx, by, cx, cy), wb = edge(cx, cy, ax, ay), wc = edge(ax, ay, bx, by);
  const bool a = wa >= s.a, b = wb >= s.b, c = wc >= s.c;
  const float area = wa + wb + wc;
  *depth = options.perspective ? area / (wa / t.az + wb / t.bz + wc / t.cz) : (wa * t.az + wb * t.bz + wc * t.cz) / area;
  return (a == b) & (b == c) & (area != 0) & !(options.cull_backfaces & a);
}

// Order-preserving bits of a float in the upper half, the face in the lower: the smallest key is the nearest face, and
// among equally near ones the lowest index. A minimum of keys does not depend on the order in which they come.
GCL_BOTH Key pack(float depth, int face) {
  uint32_t bits;
  memcpy(&bits, &depth, 4);
  bits ^= bits >> 31 ? 0xffffffffu : 0x80000000u;  // negative floats sort in reverse
  return Key(bits) << 32 | uint32_t(face);
}
GCL_BOTH int face_of(Key key) { return int(key & 0xffffffffu); }

// Barycentric weights (>= 0, their sum is 1) and depth at a pixel centre that `cover` found inside. In double: a pixel's
// worth costs little, and slivers keep their accuracy.
GCL_BOTH void interpolate(const Triangle& t, int column, int row, bool perspective, float weight[3], float* depth) {
  const double x = column + 0.5, y = row + 0.5;
  const double ax = t.ax - x, ay = t.ay - y, bx = t.bx - x, by = t.by - y, cx = t.cx - x, cy = t.cy - y;
  double wa = edge(bx, by, cx, cy), wb = edge(cx, cy, ax, ay), wc = edge(ax, ay, bx, by);
  const double sign = wa + wb + wc < 0 ? -1.0 : 1.0;
  wa = fmax(wa * sign, 0.0), wb = fmax(wb * sign, 0.0), wc = fmax(wc * sign, 0.0);
  if (wa + wb + wc == 0) wa = wb = wc = 1;  // inside only by float32's rounding
  if (perspective) wa /= t.az, wb /= t.bz, wc /= t.cz;
  const double scale = 1 / (wa + wb + wc);
  wa *= scale, wb *= scale, wc *= scale;
  weight[0] = float(wa), weight[1] = float(wb), weight[2] = float(wc);
  *depth = float(wa * t.az + wb * t.bz + wc * t.cz);
}

}  // namespace gcl
