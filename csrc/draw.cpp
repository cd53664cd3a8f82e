// flags: -ffp-contract=off -funroll-loops
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

struct Box {  // columns left..right-1, rows top..bottom-1
  int16_t left, top, right, bottom;
};

struct Bin {
  int face[LANES];
  Box box[LANES];
  int count = 0;
};

// Column in the lower half, row in the upper. A vertex that must not be drawn gets -1 for both, which no other has.
GCL_INLINE void find_cells(const Mesh& mesh, bool perspective, int32_t* cells) {
  const auto [vertices, faces, hidden, V, F, H, W] = mesh;
  for (int v = 0; v < V; ++v) {
    const float x = vertices[3 * v], y = vertices[3 * v + 1], z = vertices[3 * v + 2];
    const bool good = drawable(x, y, z, perspective);
    cells[v] = (cell(x, W) | cell(y, H) << 16) | (int(good) - 1);
  }
}

template <bool perspective>
GCL_INLINE void work_off(const Mesh& mesh, Bin& bin, int pixels, bool cull_backfaces, Key* keys) {
  const int W = mesh.W;
  float corner[9][LANES], aside[LANES], bside[LANES], cside[LANES];
  int column[LANES], row[LANES], left[LANES], right[LANES], bottom[LANES], at[LANES];
  float depth[LANES];
  uint32_t miss[LANES];  // all bits set where the triangle does not cover its pixel
  Key key[LANES];
  for (int i = 0; i < bin.count; ++i) {
    const int32_t* face = mesh.faces + 3 * int64_t(bin.face[i]);
    for (int k = 0; k < 9; ++k) corner[k][i] = mesh.vertices[3 * int64_t(face[k / 3]) + k % 3];
  }
  for (int i = 0; i < LANES; ++i) {
    const Triangle t{corner[0][i], corner[1][i], 0, corner[3][i], corner[4][i], 0, corner[6][i], corner[7][i], 0};
    const Sides s = sides(t);
    aside[i] = s.a, bside[i] = s.b, cside[i] = s.c;
    column[i] = left[i] = bin.box[i].left, row[i] = bin.box[i].top;
    right[i] = bin.box[i].right, bottom[i] = bin.box[i].bottom;
  }
  for (int k = 0; k < pixels; ++k) {
    for (int i = 0; i < LANES; ++i) {
      const Triangle t{corner[0][i], corner[1][i], corner[2][i], corner[3][i], corner[4][i], corner[5][i], corner[6][i],
          corner[7][i], corner[8][i]};
      const Sides s{aside[i], bside[i], cside[i]};
      const bool inside = cover<perspective>(t, s, column[i] + 0.5f, row[i] + 0.5f, cull_backfaces, &depth[i]);
      const bool within = row[i] < bottom[i];
      miss[i] = uint32_t(inside & within) - 1;
      at[i] = within ? row[i] * W + column[i] : 0;
      const bool end = column[i] + 1 == right[i];
      column[i] = end ? left[i] : column[i] + 1;
      row[i] += end;
    }
    for (int i = 0; i < LANES; ++i) key[i] = Key(order(depth[i]) | miss[i]) << 32 | (uint32_t(bin.face[i]) | miss[i]);
    for (int i = 0; i < bin.count; ++i) keys[at[i]] = smaller(keys[at[i]], key[i]);
  }
  bin.count = 0;
}

template <bool perspective>
GCL_INLINE void draw_large(const Mesh& mesh, int f, Box box, bool cull_backfaces, Key* keys) {
  const int32_t* face = mesh.faces + 3 * int64_t(f);
  const Triangle t = load(mesh.vertices, face[0], face[1], face[2]);
  const Sides s = sides(t);
  for (int row = box.top; row < box.bottom; ++row) {
    Key* line = keys + int64_t(row) * mesh.W;
    for (int column = box.left; column < box.right; ++column) {
      float depth;
      const bool inside = cover<perspective>(t, s, column + 0.5f, row + 0.5f, cull_backfaces, &depth);
      line[column] = smaller(line[column], inside ? pack(depth, f) : EMPTY);
    }
  }
}

template <bool perspective>
GCL_INLINE void draw_faces(const Mesh& mesh, int first, int last, bool cull_backfaces, int32_t* cells, Key* keys) {
  find_cells(mesh, perspective, cells);
  Bin bins[BINS];
  for (int start = first; start < last; start += BLOCK) {
    const int count = smaller(BLOCK, last - start);
    const int32_t* face = mesh.faces + 3 * int64_t(start);
    int left[BLOCK], top[BLOCK], right[BLOCK], bottom[BLOCK], pixels[BLOCK];  // of the boxes; 0 pixels: not to be drawn
    for (int i = 0; i < count; ++i) {
      const int a = cells[face[3 * i]], b = cells[face[3 * i + 1]], c = cells[face[3 * i + 2]];
      const int ax = int16_t(a), bx = int16_t(b), cx = int16_t(c), ay = a >> 16, by = b >> 16, cy = c >> 16;
      left[i] = smaller(smaller(ax, bx), cx), right[i] = larger(larger(ax, bx), cx);
      top[i] = smaller(smaller(ay, by), cy), bottom[i] = larger(larger(ay, by), cy);
      pixels[i] = left[i] < 0 ? 0 : (right[i] - left[i]) * (bottom[i] - top[i]);
    }
    if (mesh.hidden != nullptr)
      for (int i = 0; i < count; ++i) pixels[i] = mesh.hidden[start + i] ? 0 : pixels[i];
    uint8_t chosen[BLOCK];
    int kept = 0;
    for (int i = 0; i < count; ++i) chosen[kept] = uint8_t(i), kept += pixels[i] > 0;
    for (int j = 0; j < kept; ++j) {
      const int i = chosen[j], f = start + i, size = pixels[i];
      const Box box = {int16_t(left[i]), int16_t(top[i]), int16_t(right[i]), int16_t(bottom[i])};
      if (size > LARGEST) {
        draw_large<perspective>(mesh, f, box, cull_backfaces, keys);
        continue;
      }
      const int which = BIN_OF.bin[size];
      Bin& bin = bins[which];
      bin.face[bin.count] = f, bin.box[bin.count] = box;
      if (++bin.count == LANES) work_off<perspective>(mesh, bin, BIN_SIZES[which], cull_backfaces, keys);
    }
  }
  for (int which = 0; which < BINS; ++which)
    work_off<perspective>(mesh, bins[which], BIN_SIZES[which], cull_backfaces, keys);
}

GCL_CLONES void draw_orthographic(
    const Mesh& mesh, int first, int last, bool cull_backfaces, int32_t* cells, Key* keys) {
  draw_faces<false>(mesh, first, last, cull_backfaces, cells, keys);
}
GCL_CLONES void draw_perspective(
    const Mesh& mesh, int first, int last, bool cull_backfaces, int32_t* cells, Key* keys) {
  draw_faces<true>(mesh, first, last, cull_backfaces, cells, keys);
}

}  // namespace

void draw(const Mesh& mesh, int first, int last, Options options, Scratch& scratch, Key* keys) {
  scratch.cells.resize(size_t(mesh.V));
  const auto run = options.perspective ? draw_perspective : draw_orthographic;
  run(mesh, first, last, options.cull_backfaces, scratch.cells.data(), keys);
}

}  // namespace gcl
