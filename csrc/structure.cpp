// flags: -ffp-contract=off
// Structure maps on the CPU: transform, vertex normals, z-buffer and shading of a mesh while it is in the cache.
#include "draw.h"
#include "rasterize.h"
#include "simd.h"
#include "vertices.h"

namespace gcl {
namespace {

constexpr int BLOCK = 128;  // pixels shaded together

GCL_CLONES void shade_rows(const Mesh& mesh, const float* normals, const Key* keys, int top, int bottom, float* out) {
  for (int row = top; row < bottom; ++row) {
    for (int left = 0; left < mesh.W; left += BLOCK) {
      const int count = smaller(BLOCK, mesh.W - left);
      const int64_t start = int64_t(row) * mesh.W + left;
      int seen[BLOCK], n = 0;
      for (int i = 0; i < count; ++i) seen[n] = i, n += keys[start + i] != EMPTY;
      for (int i = 0; i < count; ++i) out[start + i] = 1;
      float corner[9][BLOCK], normal[9][BLOCK], grey[BLOCK];
      for (int j = 0; j < n; ++j) {
        const int32_t* face = mesh.faces + 3 * int64_t(face_of(keys[start + seen[j]]));
        for (int k = 0; k < 9; ++k) {
          corner[k][j] = mesh.vertices[3 * int64_t(face[k / 3]) + k % 3];
          normal[k][j] = normals[4 * int64_t(face[k / 3]) + k % 3];
        }
      }
      for (int j = 0; j < n; ++j) {
        const Fragment s = interpolate<false>({corner[0][j], corner[1][j], corner[2][j], corner[3][j], corner[4][j],
                                                  corner[5][j], corner[6][j], corner[7][j], corner[8][j]},
            left + seen[j] + 0.5, row + 0.5);
        grey[j] = shade_mean(s, {normal[0][j], normal[1][j], normal[2][j]}, {normal[3][j], normal[4][j], normal[5][j]},
            {normal[6][j], normal[7][j], normal[8][j]});
      }
      for (int j = 0; j < n; ++j) out[start + seen[j]] = grey[j];
    }
  }
}

}  // namespace

void structure_cpu(const Meshes<int32_t>& m, const float* transform, float* out) {
  const auto prepare = [&](int i, Scratch& scratch) {
    scratch.projected.resize(3 * size_t(m.V) + 1), scratch.normals.resize(4 * size_t(m.V)), scratch.hidden.resize(m.F);
    float *projected = scratch.projected.data(), *normals = scratch.normals.data();
    const int32_t* faces = m.faces + (m.own_faces ? int64_t(i) * m.F * 3 : 0);
    transform_vertices(m.vertices + int64_t(i) * m.V * 3, m.V, transform + 12 * int64_t(i), projected);
    sum_normals(projected, faces, m.V, m.F, normals, scratch.hidden.data());
    return Mesh{projected, faces, scratch.hidden.data(), m.V, m.F, m.H, m.W};
  };
  const auto resolve = [&](int i, const Mesh& mesh, const Scratch& scratch, const Key* keys, int top, int bottom) {
    shade_rows(mesh, scratch.normals.data(), keys, top, bottom, out + int64_t(i) * m.H * m.W);
  };
  draw_batch(m.B, m.F, m.H, m.W, {true, false}, prepare, resolve);
}

}  // namespace gcl
