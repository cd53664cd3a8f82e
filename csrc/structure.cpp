// flags: -ffp-contract=off
// Structure maps on the CPU: transform, vertex normals, z-buffer and shading of a mesh while it is in the cache.
#include "draw.h"
#include "rasterize.h"
#include "simd.h"

namespace gcl {
namespace {

constexpr int BLOCK = 128;  // pixels shaded together

using Four = float __attribute__((vector_size(16)));
using Mask = int32_t __attribute__((vector_size(16)));
using FourAnywhere = float __attribute__((vector_size(16), aligned(4), may_alias));

GCL_INLINE Four load_four(const float* at) { return *reinterpret_cast<const FourAnywhere*>(at); }
template <class T>
GCL_INLINE T rotate(T v) {
  return T{v[1], v[2], v[0], v[3]};
}
GCL_INLINE void add(float* at, Four value) { *reinterpret_cast<FourAnywhere*>(at) += value; }

GCL_CLONES void transform_vertices(const float* vertices, int V, const float* matrix, float* projected) {
  for (int v = 0; v < V; ++v) {
    const float x = vertices[3 * v], y = vertices[3 * v + 1], z = vertices[3 * v + 2];
    for (int k = 0; k < 3; ++k) projected[3 * v + k] = affine(matrix + 4 * k, x, y, z);
  }
}

// Sum of the normals of the faces around each vertex, (V, 4) of which the last means nothing, as face_normal and drawable
// have them: a face that must not be drawn gives none. Tells on the way which faces are seen from behind. Four floats are
// loaded at once, so one beyond the vertices must be there.
GCL_CLONES void sum_normals(
    const float* vertices, const int32_t* faces, int V, int F, float* normals, uint8_t* hidden) {
  std::fill(normals, normals + 4 * int64_t(V), 0.0f);
  for (int f = 0; f < F; ++f) {
    const int64_t i = faces[3 * int64_t(f)], j = faces[3 * int64_t(f) + 1], k = faces[3 * int64_t(f) + 2];
    const Four a = load_four(vertices + 3 * i), u = load_four(vertices + 3 * j) - a,
               v = load_four(vertices + 3 * k) - a;
    const Four p = u * rotate(v), q = rotate(u) * v, zxy = p - q;
    const Mask fit = (zxy <= FARTHEST) & (zxy >= -FARTHEST), all_fit = fit & rotate(fit) & rotate(rotate(fit));
    const Four xyz = rotate(reinterpret_cast<Four>(reinterpret_cast<Mask>(zxy) & all_fit));
    add(normals + 4 * i, xyz), add(normals + 4 * j, xyz), add(normals + 4 * k, xyz);
    hidden[f] = surely_clockwise(p[0], q[0]);
  }
}

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
