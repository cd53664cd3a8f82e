// flags: -ffp-contract=off
#include "vertices.h"

#include <algorithm>

#include "raster.h"
#include "simd.h"

namespace gcl {
namespace {

using Mask = int32_t __attribute__((vector_size(16)));

template <class T>
GCL_INLINE T rotate(T v) {
  return T{v[1], v[2], v[0], v[3]};
}

}  // namespace

GCL_CLONES void transform_vertices(const float* vertices, int V, const float* matrix, float* projected) {
  for (int v = 0; v < V; ++v) {
    const float x = vertices[3 * v], y = vertices[3 * v + 1], z = vertices[3 * v + 2];
    for (int k = 0; k < 3; ++k) projected[3 * v + k] = affine(matrix + 4 * k, x, y, z);
  }
}

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

GCL_CLONES void find_hidden(const float* vertices, const int32_t* faces, int F, uint8_t* hidden) {
  for (int f = 0; f < F; ++f) {
    const float *a = vertices + 3 * int64_t(faces[3 * int64_t(f)]),
                *b = vertices + 3 * int64_t(faces[3 * int64_t(f) + 1]),
                *c = vertices + 3 * int64_t(faces[3 * int64_t(f) + 2]);
    hidden[f] = surely_clockwise((b[0] - a[0]) * (c[1] - a[1]), (b[1] - a[1]) * (c[0] - a[0]));
  }
}

}  // namespace gcl
