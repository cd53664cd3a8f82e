// What rasterize_op.cpp hands to the rasterizers: plain pointers and sizes, the same for CPU and CUDA.
#pragma once

#include <stdint.h>

#include "raster.h"

namespace gcl {

template <
    class Index>  // int32 on the CPU, where rasterize_op.cpp has checked and narrowed them; int64 as they came on CUDA
struct Meshes {
  const float* vertices;  // (B, V, 3) pixels, pixels, depth
  const Index* faces;  // (F, 3), or (B, F, 3) where own_faces
  bool own_faces;
  int B, V, F, H, W;
};

struct Pixels {
  int32_t* face_index;  // (B, H, W)
  float* depth;  // (B, H, W)
  float* barycentric;  // (B, H, W, 3)
};

struct PixelGradients {
  const int32_t* face_index;
  const float *depth, *barycentric;  // gradients of these
};

void rasterize_cpu(const Meshes<int32_t>& meshes, Options options, Pixels out);
void rasterize_backward_cpu(const Meshes<int32_t>& meshes, bool perspective, PixelGradients in, float* grad_vertices);

// Shaded images (B, 1, H, W) of meshes in any frame that `transform` (B, 3, 4) takes to pixels and depth.
void structure_cpu(const Meshes<int32_t>& meshes, const float* transform, float* out);

}  // namespace gcl
