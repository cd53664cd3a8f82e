// flags: -ffp-contract=off -funroll-loops
// Fragments of meshes on the CPU, and their gradients.
#include "rasterize.h"

#include "draw.h"
#include "simd.h"

namespace gcl {
namespace {

constexpr int BLOCK = 512;                     // pixels resolved together
constexpr int64_t CACHED = int64_t(16) << 20;  // bytes of output beyond which it is written past the caches

Mesh mesh_of(const Meshes<int32_t>& m, int mesh) {
  return {m.vertices + int64_t(mesh) * m.V * 3, m.faces + (m.own_faces ? int64_t(mesh) * m.F * 3 : 0), nullptr, m.V,
      m.F, m.H, m.W};
}

// Faces, depths and weights of the pixels of rows top..bottom-1 from their keys.
template <bool perspective>
GCL_INLINE void resolve_rows(const Mesh& mesh, const Key* keys, int top, int bottom, bool cached, Pixels out) {
  const double per_width = 1.0 / mesh.W;
  const int end = bottom * mesh.W;
  for (int start = top * mesh.W; start < end; start += BLOCK) {
    const int count = smaller(BLOCK, end - start);
    int32_t face_index[BLOCK];
    float depth[BLOCK], barycentric[3 * BLOCK];
    int seen[BLOCK], n = 0;
    for (int i = 0; i < count; ++i) face_index[i] = face_of(keys[start + i]);  // -1 where EMPTY
    for (int i = 0; i < count; ++i) seen[n] = i, n += face_index[i] >= 0;
    memset(depth, 0, count * sizeof(float));
    memset(barycentric, 0, 3 * count * sizeof(float));
    float corner[9][BLOCK];
    Fragment fragment[BLOCK];
    for (int j = 0; j < n; ++j) {
      const int32_t* face = mesh.faces + 3 * int64_t(face_index[seen[j]]);
      for (int k = 0; k < 9; ++k) corner[k][j] = mesh.vertices[3 * int64_t(face[k / 3]) + k % 3];
    }
    for (int j = 0; j < n; ++j) {
      const int at = start + seen[j], row = int((at + 0.5) * per_width), column = at - row * mesh.W;
      fragment[j] = interpolate<perspective>({corner[0][j], corner[1][j], corner[2][j], corner[3][j], corner[4][j],
                                                 corner[5][j], corner[6][j], corner[7][j], corner[8][j]},
          column + 0.5, row + 0.5);
    }
    for (int j = 0; j < n; ++j) {
      memcpy(barycentric + 3 * seen[j], &fragment[j], 3 * sizeof(float));
      depth[seen[j]] = fragment[j].depth;
    }
    const auto copy = [cached](void* to, const void* from, int64_t bytes) {
      cached ? void(memcpy(to, from, size_t(bytes))) : stream(to, from, bytes);
    };
    copy(out.face_index + start, face_index, count * 4);
    copy(out.depth + start, depth, count * 4);
    copy(out.barycentric + 3 * int64_t(start), barycentric, count * 12);
  }
  if (!cached) stream_end();
}

GCL_CLONES void resolve_orthographic(const Mesh& mesh, const Key* keys, int top, int bottom, bool cached, Pixels out) {
  resolve_rows<false>(mesh, keys, top, bottom, cached, out);
}
GCL_CLONES void resolve_perspective(const Mesh& mesh, const Key* keys, int top, int bottom, bool cached, Pixels out) {
  resolve_rows<true>(mesh, keys, top, bottom, cached, out);
}

}  // namespace

void rasterize_cpu(const Meshes<int32_t>& m, Options options, Pixels out) {
  const bool cached = int64_t(m.B) * m.H * m.W * 20 <= CACHED;
  const auto resolve = options.perspective ? resolve_perspective : resolve_orthographic;
  draw_batch(
      m.B, m.F, m.H, m.W, options, [&](int i, Scratch&) { return mesh_of(m, i); },
      [&](int i, const Mesh& mesh, const Scratch&, const Key* keys, int top, int bottom) {
        const int64_t at = int64_t(i) * m.H * m.W;
        resolve(mesh, keys, top, bottom, cached, {out.face_index + at, out.depth + at, out.barycentric + 3 * at});
      });
}

void rasterize_backward_cpu(const Meshes<int32_t>& m, bool perspective, PixelGradients in, float* grad_vertices) {
  torch::stable::parallel_for(0, m.B, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Mesh mesh = mesh_of(m, int(i));
      float* out = grad_vertices + i * m.V * 3;
      std::fill(out, out + int64_t(m.V) * 3, 0.0f);
      for (int64_t at = i * m.H * m.W; at < (i + 1) * m.H * m.W; ++at) {
        if (in.face_index[at] < 0) continue;
        const int32_t* face = mesh.faces + 3 * int64_t(in.face_index[at]);
        float grad[9] = {};
        interpolate_backward(load(mesh.vertices, face[0], face[1], face[2]), at % m.W + 0.5f, at / m.W % m.H + 0.5f,
            perspective, in.barycentric + 3 * at, in.depth[at], grad);
        for (int k = 0; k < 9; ++k) out[3 * int64_t(face[k / 3]) + k % 3] += grad[k];
      }
    }
  });
}

}  // namespace gcl
