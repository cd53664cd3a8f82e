// What transfer.cpp hands to the transfer of appearance: plain pointers and sizes, the same for CPU and CUDA.
#pragma once

#include "transfer.h"

namespace gcl {

template <class Index>  // of the faces: int32 on the CPU, where they have been checked; int64 as they came on CUDA
struct TransferInputs {
  const float *vertices, *target_vertices;  // (B, V, 3) metres, of the crop and of the new view
  const Index* faces;                       // (F, 3)
  Donors donors;                            // (V, K)
  const float *source, *target;             // (B, 3, 4), to pixels and depth of the crop and of the new view
  float tolerance, margin;                  // metres
  int B, V, F, C, H, W;
};

}  // namespace gcl
