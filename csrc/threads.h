// What the kernels that draw meshes share: their numbering of threads, and the normals that they sum in fixed point.
// Include cuda_on_host.h first.
#pragma once

#include "rasterize_cuda.h"

namespace gcl {

constexpr int THREADS = 128;

__device__ inline int64_t thread() { return int64_t(blockIdx.x) * blockDim.x + threadIdx.x; }
inline dim3 blocks(int64_t threads) { return dim3(unsigned((threads + THREADS - 1) / THREADS)); }

__device__ inline Vector normal_at(const Key* normals, int64_t vertex) {
  const Key* n = normals + 3 * vertex;
  return {float(int64_t(n[0]) / FIXED_POINT), float(int64_t(n[1]) / FIXED_POINT), float(int64_t(n[2]) / FIXED_POINT)};
}

}  // namespace gcl
