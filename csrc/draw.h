// Draws the triangles of one mesh into a z-buffer of keys, on the CPU: 32 triangles at a time.
//
// Half the faces of a body seen at 256 x 128 hold no pixel centre, the others 3.4 in their bounding box. So the pixel cells
// of all vertices come first and sort most faces out; the others wait in bins of equal box size, where a full bin is
// worked off pixel by pixel, vectorized across its triangles.
#pragma once

#include <stdint.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <vector>

#include "raster.h"

namespace gcl {

struct Mesh {
  const float* vertices;  // (V, 3) pixels, pixels, depth
  const int32_t* faces;  // (F, 3), all within 0..V-1
  const uint8_t* hidden;  // (F), 1: surely seen from behind and to be left out; null: not known
  int V, F, H, W;
};

struct Scratch {  // what a mesh needs while it is drawn; kept from one mesh to the next
  std::vector<int32_t> cells;
  std::vector<float> projected, normals;
  std::vector<uint8_t> hidden;
};

// Minimum of `keys` (H * W) and the keys of faces first..last-1.
void draw(const Mesh& mesh, int first, int last, Options options, Scratch& scratch, Key* keys);

// Draws B meshes on all threads. prepare(i, scratch) -> Mesh; resolve(i, mesh, scratch, keys, top, bottom) turns the keys
// of rows top..bottom-1 into what is wanted. Threads take meshes one by one; where there are fewer meshes than threads they
// take slices of a mesh's triangles, each with keys of its own, and then rows. A pixel's winner is the minimum of keys: no
// partition can change it.
template <class Prepare, class Resolve>
void draw_batch(int B, int F, int H, int W, Options options, Prepare prepare, Resolve resolve) {
  const int64_t pixels = int64_t(H) * W;
  const int threads = int(torch::stable::get_num_threads());
  if (B >= threads) {
    std::atomic<int> next = 0;  // a thread that starts late, or shares its core, leaves its meshes to the others
    torch::stable::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
      Scratch scratch;
      std::vector<Key> keys(pixels);
      for (int i; (i = next++) < B;) {
        std::fill(keys.begin(), keys.end(), EMPTY);
        const Mesh mesh = prepare(i, scratch);
        draw(mesh, 0, F, options, scratch, keys.data());
        resolve(i, mesh, scratch, keys.data(), 0, H);
      }
    });
    return;
  }
  const int slices = (threads + B - 1) / B;
  std::vector<Scratch> scratch(B);
  std::vector<Mesh> meshes(B);
  std::vector<Key> keys(B * slices * pixels, EMPTY);
  torch::stable::parallel_for(0, B, 1, [&](int64_t begin, int64_t end) {
    for (int i = int(begin); i < end; ++i) meshes[i] = prepare(i, scratch[i]);
  });
  torch::stable::parallel_for(0, int64_t(B) * slices, 1, [&](int64_t begin, int64_t end) {
    Scratch own;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t slice = i % slices;
      draw(meshes[i / slices], int(F * slice / slices), int(F * (slice + 1) / slices), options, own, &keys[i * pixels]);
    }
  });
  torch::stable::parallel_for(0, int64_t(B) * H, 1, [&](int64_t begin, int64_t end) {
    for (int64_t line = begin; line < end; ++line) {
      const int i = int(line / H), row = int(line % H);
      Key* nearest = &keys[i * slices * pixels];
      for (int slice = 1; slice < slices; ++slice)
        for (int64_t at = int64_t(row) * W; at < int64_t(row + 1) * W; ++at)
          nearest[at] = smaller(nearest[at], nearest[slice * pixels + at]);
      resolve(i, meshes[i], scratch[i], nearest, row, row + 1);
    }
  });
}

}  // namespace gcl
