// Device memory and the stream of the ops that draw meshes on a GPU.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#include "checks.h"
#include "rasterize_cuda.h"

namespace gcl {

// The tensors behind a Workspace. They live until the kernels are launched; the allocator keeps their memory in order.
// Torch hides the type of its tensors from other libraries, and what holds them must not be seen further than they are.
struct __attribute__((visibility("hidden"))) DeviceWorkspace {
  Tensor keys, num_large, large, projected, normals;
  DeviceWorkspace(const Tensor& like, const Meshes<int64_t>& m, bool shading)
      : keys(torch::stable::new_empty(like, {m.B, m.H, m.W}, ScalarType::Long)),
        num_large(torch::stable::new_empty(like, {1}, ScalarType::Long)),
        large(torch::stable::new_empty(like, {m.B, m.F}, ScalarType::Long)),
        projected(torch::stable::new_empty(like, {m.B, shading ? m.V : 0, 3})),
        normals(torch::stable::new_empty(like, {m.B, shading ? m.V : 0, 3}, ScalarType::Long)) {}
  Workspace get() const {
    return {static_cast<Key*>(keys.mutable_data_ptr()), static_cast<Key*>(num_large.mutable_data_ptr()),
        large.mutable_data_ptr<int64_t>(), projected.mutable_data_ptr<float>(),
        static_cast<Key*>(normals.mutable_data_ptr())};
  }
};

// The GPU of an op's first tensor. Torch calls the op where any tensor is on a GPU, so the first may not be.
inline int32_t gpu_of(const char* op, const char* name, const Tensor& t) {
  STD_TORCH_CHECK(t.is_cuda(), op, ": ", name, " must be on the GPU, as other tensors are");
  return t.get_device_index();
}

inline cudaStream_t current_stream(int32_t device) {
  void* stream = nullptr;  // the stream PyTorch is on now; nativeHandle() would ask for torch >= 2.13
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  return static_cast<cudaStream_t>(stream);
}

}  // namespace gcl
