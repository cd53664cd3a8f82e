// flags: -ffp-contract=off
// Z-buffer of triangle meshes on the CPU. Threads take meshes; for fewer meshes than threads they take slices of a mesh's
// triangles, each with keys of its own. A pixel's winner is the minimum of keys, so no partition can change the result.
#include "rasterize.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <vector>

#include "simd.h"

namespace gcl {
namespace {

struct View {  // one mesh of a batch
  const float* vertices;
  const int64_t* faces;
  int F, H, W;
};

View view(const Meshes& m, int mesh) {
  return {m.vertices + int64_t(mesh) * m.V * 3, m.faces + (m.own_faces ? int64_t(mesh) * m.F * 3 : 0), m.F, m.H, m.W};
}

GCL_CLONES void draw(const View& mesh, int first, int last, Options options, Key* keys) {
  for (int f = first; f < last; ++f) {
    const int64_t* face = mesh.faces + 3 * int64_t(f);
    const Triangle t = load(mesh.vertices, face[0], face[1], face[2]);
    const Box region = box(t, mesh.H, mesh.W);
    if (region.empty() || !drawable(t, options.perspective)) continue;
    const Sides s = sides(t);
    for (int row = region.top; row < region.bottom; ++row)
      for (int column = region.left; column < region.right; ++column) {
        float depth;
        if (!cover(t, s, column, row, options, &depth)) continue;
        Key& key = keys[int64_t(row) * mesh.W + column];
        key = std::min(key, pack(depth, f));
      }
  }
}

GCL_CLONES void resolve(const View& mesh, const Key* keys, int first, int last, bool perspective, Pixels out) {
  for (int i = first; i < last; ++i) {
    float weight[3] = {0, 0, 0}, depth = 0;
    const int face = keys[i] == EMPTY ? -1 : face_of(keys[i]);
    if (face >= 0) {
      const int64_t* corner = mesh.faces + 3 * int64_t(face);
      interpolate(load(mesh.vertices, corner[0], corner[1], corner[2]), i % mesh.W, i / mesh.W, perspective, weight, &depth);
    }
    out.face_index[i] = face, out.depth[i] = depth;
    memcpy(out.barycentric + 3 * int64_t(i), weight, sizeof weight);
  }
}

}  // namespace

void rasterize_cpu(const Meshes& m, Options options, Pixels out) {
  const int pixels = m.H * m.W, threads = int(torch::stable::get_num_threads());
  const auto of = [&](int mesh) {
    const int64_t at = int64_t(mesh) * pixels;
    return Pixels{out.face_index + at, out.depth + at, out.barycentric + 3 * at};
  };
  if (m.B >= threads) {
    torch::stable::parallel_for(0, m.B, 1, [&](int64_t begin, int64_t end) {
      std::vector<Key> keys(pixels);
      for (int mesh = int(begin); mesh < end; ++mesh) {
        std::fill(keys.begin(), keys.end(), EMPTY);
        draw(view(m, mesh), 0, m.F, options, keys.data());
        resolve(view(m, mesh), keys.data(), 0, pixels, options.perspective, of(mesh));
      }
    });
    return;
  }
  const int slices = (threads + m.B - 1) / m.B;
  std::vector<Key> keys(int64_t(m.B) * slices * pixels, EMPTY);
  torch::stable::parallel_for(0, m.B * slices, 1, [&](int64_t begin, int64_t end) {
    for (int i = int(begin); i < end; ++i) {
      const int64_t slice = i % slices;
      draw(view(m, i / slices), int(m.F * slice / slices), int(m.F * (slice + 1) / slices), options,
          keys.data() + int64_t(i) * pixels);
    }
  });
  torch::stable::parallel_for(0, int64_t(m.B) * m.H, 1, [&](int64_t begin, int64_t end) {
    for (int64_t line = begin; line < end; ++line) {
      const int mesh = int(line / m.H), first = int(line % m.H) * m.W;
      Key* nearest = keys.data() + int64_t(mesh) * slices * pixels;
      for (int slice = 1; slice < slices; ++slice)
        for (int i = first; i < first + m.W; ++i) nearest[i] = std::min(nearest[i], nearest[int64_t(slice) * pixels + i]);
      resolve(view(m, mesh), nearest, first, first + m.W, options.perspective, of(mesh));
    }
  });
}

}  // namespace gcl
