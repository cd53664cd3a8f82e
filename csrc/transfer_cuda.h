// The CUDA launchers of transfer_appearance; include a header that defines cudaStream_t and cudaError_t first.
#pragma once

#include "rasterize_cuda.h"
#include "transfer_inputs.h"

namespace gcl {

struct TransferWorkspace {    // device memory that the caller allocates, uninitialized
  Workspace source, target;  // `num_large` and `large` may be the same in both; `normals` of the source alone is read
  float* shown;  // (B, V)
  uint8_t *marks, *unknown;  // (B, H, W)
};

struct StridedImages {
  const float* data;
  int64_t stride[4];  // of (B, C, H, W)
};

// B, C, H and W are at least 1. The outputs are as transfer.cpp has them.
cudaError_t transfer_cuda(const TransferInputs<int64_t>& in, TransferWorkspace work, StridedImages images,
    float* colour, float* confidence, cudaStream_t stream);
// grad and out: (B, H, W, C); sums (B, H, W, C) and largest (1) are more workspace.
cudaError_t transfer_backward_cuda(const TransferInputs<int64_t>& in, TransferWorkspace work, const float* grad,
    Key* sums, Key* largest, float* out, cudaStream_t stream);

}  // namespace gcl
