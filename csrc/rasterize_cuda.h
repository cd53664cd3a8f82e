// The CUDA launchers; include a header that defines cudaStream_t and cudaError_t first.
#pragma once

#include "rasterize.h"

namespace gcl {

constexpr double FIXED_POINT = 1 << 24;  // normals in square pixels as integers

struct Workspace {  // device memory that the caller allocates, uninitialized
  Key* keys;          // (B, H, W)
  Key* num_large;     // (1,)
  int64_t* large;     // (B, F)
  float* projected;   // (B, V, 3), structure only
  Key* normals;       // (B, V, 3), structure only
};

// B, H and W are at least 1. The arrays are as rasterize.h has them, in device memory.
cudaError_t rasterize_cuda(const Meshes<int64_t>& m, Options options, Workspace work, Pixels out, cudaStream_t stream);
// Adds to grad_vertices, which the caller has set to zero.
cudaError_t rasterize_backward_cuda(
    const Meshes<int64_t>& m, bool perspective, PixelGradients in, float* grad_vertices, cudaStream_t stream);
// Fills work.keys, work.projected and, for shading, work.normals with meshes in any frame that `transform` (B, 3, 4) takes
// to pixels.
void draw_transformed_cuda(
    const Meshes<int64_t>& m, const float* transform, bool shading, Workspace work, cudaStream_t stream);
cudaError_t structure_cuda(
    const Meshes<int64_t>& m, const float* transform, Workspace work, float* out, cudaStream_t stream);

}  // namespace gcl
