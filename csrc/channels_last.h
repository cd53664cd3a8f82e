// Pictures whose channels lie side by side: rows of C numbers, one for each pixel.
#pragma once

#include <torch/csrc/stable/tensor.h>

inline bool channels_last(const torch::stable::Tensor& x) {  // x: (B, C, H, W)
  const int64_t C = x.size(1), H = x.size(2), W = x.size(3);
  return (C == 1 || x.stride(1) == 1) && (W == 1 || x.stride(3) == C) && (H == 1 || x.stride(2) == W * C) &&
      (x.size(0) == 1 || x.stride(0) == H * W * C);
}
