// flags: -ffp-contract=off -fno-math-errno -fno-trapping-math
#include "draw.h"

#include "simd.h"

namespace gcl {
namespace {

constexpr int LANES = 32;    // triangles in a bin: two 512-bit vectors
constexpr int BLOCK = 256;   // faces whose boxes are looked at together
constexpr int BIN_SIZES[] = {1, 2, 3, 4, 6, 9, 12, 16, 24, 36, 64};  // box pixels, at most
constexpr int BINS = sizeof BIN_SIZES / sizeof *BIN_SIZES;
constexpr int LARGEST = BIN_SIZES[BINS - 1];  // a larger triangle is drawn row by row

constexpr auto BIN_OF = [] {
  struct {
    uint8_t bin[LARGEST + 1] = {};
  } table;
  for (int pixels = 1, bin = 0; pixels <= LARGEST; ++pixels) {
    bin += pixels > BIN_SIZES[bin];
    table.bin[pixels] = uint8_t(bin);
  }
  return table;
}();

struct Bin {
  float ax[LANES], ay[LANES], az[LANES], bx[LANES], by[LANES], bz[LANES], cx[LANES], cy[LANES], cz[LANES];
  int left[LANES], top[LANES], right[LANES], bottom[LANES], face[LANES];
  int count = 0;
};

// A vertex that must not be drawn gets a cell at -1, which no other has.
GCL_INLINE void find_cells(const Mesh& mesh, bool perspective, int16_t* cells) {
  for (int v = 0; v < mesh.V; ++v) {
    const float x = mesh.vertices[3 * v], y = mesh.vertices[3 * v + 1], z = mesh.vertices[3 * v + 2];
    const bool good = drawable(x, y, z, perspective);
    cells[2 * v] = int16_t(cell(x, mesh.W) | (int(good) - 1));
    cells[2 * v + 1] = int16_t(cell(y, mesh.H) | (int(good) - 1));
  }
}

template <bool perspective>
GCL_INLINE void work_off(Bin& bin, int pixels, int W, bool cull_backfaces, Key* keys) {
  float aside[LANES], bside[LANES], cside[LANES];
  int column[LANES], row[LANES], at[LANES];
  float depth[LANES];
  uint32_t miss[LANES];  // all bits set where the triangle does not cover its pixel
  Key key[LANES];
  for (int i = 0; i < LANES; ++i) {
    const Triangle t{bin.ax[i], bin.ay[i], 0, bin.bx[i], bin.by[i], 0, bin.cx[i], bin.cy[i], 0};
    const Sides s = sides(t);
    aside[i] = s.a, bside[i] = s.b, cside[i] = s.c;
    column[i] = bin.left[i], row[i] = bin.top[i];
  }
  for (int k = 0; k < pixels; ++k) {
    for (int i = 0; i < LANES; ++i) {
      const Triangle t{bin.ax[i], bin.ay[i], bin.az[i], bin.bx[i], bin.by[i], bin.bz[i], bin.cx[i], bin.cy[i], bin.cz[i]};
      const Sides s{aside[i], bside[i], cside[i]};
      const bool inside = cover<perspective>(t, s, column[i] + 0.5f, row[i] + 0.5f, cull_backfaces, &depth[i]);
      const bool within = row[i] < bin.bottom[i];
      miss[i] = uint32_t(inside & within) - 1;
      at[i] = within ? row[i] * W + column[i] : 0;
      const bool end = column[i] + 1 == bin.right[i];
      column[i] = end ? bin.left[i] : column[i] + 1;
      row[i] += end;
    }
    for (int i = 0; i < LANES; ++i) key[i] = Key(order(depth[i]) | miss[i]) << 32 | (uint32_t(bin.face[i]) | miss[i]);
    for (int i = 0; i < bin.count; ++i) keys[at[i]] = smaller(keys[at[i]], key[i]);
  }
  bin.count = 0;
}

template <bool perspective>
GCL_INLINE void draw_large(const Mesh& mesh, int f, const int16_t* low, const int16_t* high, Options options, Key* keys) {
  const int32_t* face = mesh.faces + 3 * int64_t(f);
  const Triangle t = load(mesh.vertices, face[0], face[1], face[2]);
  const Sides s = sides(t);
  for (int row = low[1]; row < high[1]; ++row) {
    Key* line = keys + int64_t(row) * mesh.W;
    for (int column = low[0]; column < high[0]; ++column) {
      float depth;
      const bool inside = cover<perspective>(t, s, column + 0.5f, row + 0.5f, options.cull_backfaces, &depth);
      line[column] = smaller(line[column], inside ? pack(depth, f) : EMPTY);
    }
  }
}

template <bool perspective>
GCL_INLINE void draw_faces(const Mesh& mesh, int first, int last, Options options, int16_t* cells, Key* keys) {
  find_cells(mesh, perspective, cells);
  Bin bins[BINS];
  for (int start = first; start < last; start += BLOCK) {
    const int count = smaller(BLOCK, last - start);
    int16_t corner[3][2 * BLOCK], low[2 * BLOCK], high[2 * BLOCK];
    for (int i = 0; i < count; ++i)
      for (int k = 0; k < 3; ++k) memcpy(corner[k] + 2 * i, cells + 2 * mesh.faces[3 * int64_t(start + i) + k], 4);
    for (int i = 0; i < 2 * count; ++i) {
      low[i] = smaller(smaller(corner[0][i], corner[1][i]), corner[2][i]);
      high[i] = larger(larger(corner[0][i], corner[1][i]), corner[2][i]);
    }
    uint8_t alive[BLOCK];
    for (int i = 0; i < count; ++i)
      alive[i] = (low[2 * i] >= 0) & (low[2 * i] < high[2 * i]) & (low[2 * i + 1] < high[2 * i + 1]);
    uint8_t chosen[BLOCK];
    int kept = 0;
    for (int i = 0; i < count; ++i) chosen[kept] = uint8_t(i), kept += alive[i];
    for (int j = 0; j < kept; ++j) {
      const int i = chosen[j], f = start + i;
      const int16_t *from = low + 2 * i, *to = high + 2 * i;
      const int pixels = (to[0] - from[0]) * (to[1] - from[1]);
      if (pixels > LARGEST) {
        draw_large<perspective>(mesh, f, from, to, options, keys);
        continue;
      }
      const int32_t* face = mesh.faces + 3 * int64_t(f);
      const Triangle t = load(mesh.vertices, face[0], face[1], face[2]);
      if (options.cull_backfaces && surely_clockwise(t)) continue;
      const int which = BIN_OF.bin[pixels];
      Bin& bin = bins[which];
      const int n = bin.count++;
      bin.ax[n] = t.ax, bin.ay[n] = t.ay, bin.az[n] = t.az;
      bin.bx[n] = t.bx, bin.by[n] = t.by, bin.bz[n] = t.bz;
      bin.cx[n] = t.cx, bin.cy[n] = t.cy, bin.cz[n] = t.cz;
      bin.left[n] = from[0], bin.top[n] = from[1], bin.right[n] = to[0], bin.bottom[n] = to[1];
      bin.face[n] = f;
      if (bin.count == LANES) work_off<perspective>(bin, BIN_SIZES[which], mesh.W, options.cull_backfaces, keys);
    }
  }
  for (int which = 0; which < BINS; ++which)
    work_off<perspective>(bins[which], BIN_SIZES[which], mesh.W, options.cull_backfaces, keys);
}

GCL_CLONES void draw_orthographic(const Mesh& mesh, int first, int last, Options options, int16_t* cells, Key* keys) {
  draw_faces<false>(mesh, first, last, options, cells, keys);
}
GCL_CLONES void draw_perspective(const Mesh& mesh, int first, int last, Options options, int16_t* cells, Key* keys) {
  draw_faces<true>(mesh, first, last, options, cells, keys);
}

}  // namespace

void draw(const Mesh& mesh, int first, int last, Options options, Scratch& scratch, Key* keys) {
  scratch.cells.resize(2 * size_t(mesh.V));
  (options.perspective ? draw_perspective : draw_orthographic)(mesh, first, last, options, scratch.cells.data(), keys);
}

}  // namespace gcl
