// What ops.cpp hands to the rasterizers: plain pointers and sizes, the same for CPU and CUDA.
#pragma once

#include <stdint.h>

#include "raster.h"

namespace gcl {

struct Meshes {
  const float* vertices;  // (B, V, 3) pixels, pixels, depth
  const int64_t* faces;   // (F, 3), or (B, F, 3) where own_faces
  bool own_faces;
  int B, V, F, H, W;
};

struct Pixels {
  int32_t* face_index;  // (B, H, W)
  float* depth;         // (B, H, W)
  float* barycentric;   // (B, H, W, 3)
};

void rasterize_cpu(const Meshes& meshes, Options options, Pixels out);

}  // namespace gcl
