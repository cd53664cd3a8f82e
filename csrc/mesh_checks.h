// The checks of the ops that draw meshes. Every error names the op.
#pragma once

#include <atomic>

#include "checks.h"
#include "rasterize.h"

namespace gcl {

constexpr int64_t MOST = 1 << 29;  // meshes, vertices or faces: four times an index is an int

// Whether a kernel can draw an image of this size: columns and rows are int16.
inline bool is_drawable(int64_t H, int64_t W) { return H > 0 && W > 0 && H < 32768 && W < 32768; }

// Returns the sizes and pointers of an op's meshes; faces are still int64.
inline Meshes<int64_t> check_meshes(const char* op, const Tensor& vertices, const Tensor& faces, int64_t H, int64_t W) {
  STD_TORCH_CHECK(vertices.dim() == 3 && vertices.size(2) == 3 && vertices.scalar_type() == ScalarType::Float, op,
      ": vertices must be float32 of shape (B, V, 3)");
  STD_TORCH_CHECK(
      (faces.dim() == 2 || faces.dim() == 3) && faces.size(-1) == 3 && faces.scalar_type() == ScalarType::Long, op,
      ": faces must be int64 of shape (F, 3) or (B, F, 3)");
  const bool own = faces.dim() == 3;
  STD_TORCH_CHECK(!own || faces.size(0) == vertices.size(0), op, ": ", vertices.size(0), " meshes of vertices, but ",
      own ? faces.size(0) : 0, " of faces");
  STD_TORCH_CHECK(vertices.device() == faces.device(), op, ": vertices and faces must be on one device");
  STD_TORCH_CHECK(is_drawable(H, W), op, ": height and width must lie within 1..32767, got ", H, " x ", W);
  const int64_t B = vertices.size(0), V = vertices.size(1), F = faces.size(-2);
  STD_TORCH_CHECK(B < MOST && V < MOST && F < MOST, op, ": more than ", MOST, " meshes, vertices or faces");
  return {
      vertices.const_data_ptr<float>(), faces.const_data_ptr<int64_t>(), own, int(B), int(V), int(F), int(H), int(W)};
}

// `transform` is float32 (B, 3, 4), one affine map for each mesh of `vertices`.
inline void check_transform(const char* op, const char* name, const Tensor& transform, const Tensor& vertices) {
  STD_TORCH_CHECK(transform.dim() == 3 && transform.size(0) == vertices.size(0) && transform.size(1) == 3 &&
          transform.size(2) == 4 && transform.scalar_type() == ScalarType::Float &&
          transform.device() == vertices.device(),
      op, ": ", name, " must be float32 of shape (B, 3, 4), on the device of vertices");
}

// Returns the faces as int32, which halves what every mesh reads. Raises for one that names no vertex.
inline Tensor narrow_faces(const char* op, const Tensor& faces, int64_t V) {
  Tensor narrow = torch::stable::new_empty(faces, faces.sizes(), ScalarType::Int);
  const int64_t* index = faces.const_data_ptr<int64_t>();
  int32_t* out = narrow.mutable_data_ptr<int32_t>();
  std::atomic<int64_t> bad{-1};  // reported after the loop: a throw inside it would be printed once per thread
  torch::stable::parallel_for(0, faces.numel(), 1 << 16, [&](int64_t begin, int64_t end) {
    bool inside = true;
    for (int64_t i = begin; i < end; ++i) {
      inside &= uint64_t(index[i]) < uint64_t(V);
      out[i] = int32_t(index[i]);
    }
    for (int64_t i = begin; i < end && !inside; ++i)
      if (uint64_t(index[i]) >= uint64_t(V)) bad.store(i, std::memory_order_relaxed);
  });
  const int64_t i = bad;
  STD_TORCH_CHECK(i < 0, op, ": face ", i / 3, " of faces names vertex ", i < 0 ? 0 : index[i], ", outside 0..", V - 1);
  return narrow;
}

}  // namespace gcl
