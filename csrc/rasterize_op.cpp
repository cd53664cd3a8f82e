// The rasterizer's ops: schemas, checks, allocation, and the calls into the CPU and the CUDA code. Stable ABI only.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#ifdef WITH_CUDA
#include <cuda_runtime.h>
#endif

#include <atomic>
#include <tuple>
#include <utility>

#include "checks.h"
#include "rasterize.h"
#ifdef WITH_CUDA
#include "rasterize_cuda.h"
#endif

namespace gcl {
namespace {

constexpr int64_t MOST = 1 << 30;  // of pixels, vertices or faces: indices are int

// Returns the sizes and pointers of an op's meshes; faces are still int64.
Meshes<int64_t> check_meshes(const Tensor& vertices, const Tensor& faces, int64_t H, int64_t W) {
  STD_TORCH_CHECK(vertices.dim() == 3 && vertices.size(2) == 3 && vertices.scalar_type() == ScalarType::Float,
      "rasterize: vertices must be float32 of shape (B, V, 3)");
  STD_TORCH_CHECK(
      (faces.dim() == 2 || faces.dim() == 3) && faces.size(-1) == 3 && faces.scalar_type() == ScalarType::Long,
      "rasterize: faces must be int64 of shape (F, 3) or (B, F, 3)");
  const bool own = faces.dim() == 3;
  STD_TORCH_CHECK(!own || faces.size(0) == vertices.size(0), "rasterize: ", vertices.size(0),
      " meshes of vertices, but ", own ? faces.size(0) : 0, " of faces");
  STD_TORCH_CHECK(vertices.device() == faces.device(), "rasterize: vertices and faces must be on one device");
  STD_TORCH_CHECK(H > 0 && W > 0 && H < 32768 && W < 32768, "rasterize: size must be two numbers within 1..32767, got ",
      H, " x ", W);
  const int64_t B = vertices.size(0), V = vertices.size(1), F = faces.size(-2);
  STD_TORCH_CHECK(B < MOST && V < MOST && F < MOST, "rasterize: more than ", MOST, " meshes, vertices or faces");
  return {
      vertices.const_data_ptr<float>(), faces.const_data_ptr<int64_t>(), own, int(B), int(V), int(F), int(H), int(W)};
}

Meshes<int64_t> check_gradients(const Tensor& grad_depth, const Tensor& grad_barycentric, const Tensor& vertices,
    const Tensor& faces, const Tensor& face_index) {
  STD_TORCH_CHECK(face_index.dim() == 3 && face_index.size(0) == vertices.size(0) &&
          face_index.scalar_type() == ScalarType::Int && face_index.device() == vertices.device(),
      "rasterize_backward: face_index must be int32 of shape (B, H, W), on the device of vertices");
  for (const auto& [grad, values] : {std::pair(grad_depth, 1), {grad_barycentric, 3}})
    STD_TORCH_CHECK(grad.scalar_type() == ScalarType::Float && grad.device() == vertices.device() &&
            grad.numel() == face_index.numel() * values,
        "rasterize_backward: gradients must be float32 of shapes (B, H, W) and (B, H, W, 3), on the device of vertices");
  return check_meshes(vertices, faces, face_index.size(1), face_index.size(2));
}

void check_transform(const Tensor& transform, const Tensor& vertices) {
  STD_TORCH_CHECK(transform.dim() == 3 && transform.size(0) == vertices.size(0) && transform.size(1) == 3 &&
          transform.size(2) == 4 && transform.scalar_type() == ScalarType::Float &&
          transform.device() == vertices.device(),
      "structure_maps: transform must be float32 of shape (B, 3, 4), on the device of vertices");
}

// Returns the faces as int32, which halves what every mesh reads. Raises for one that names no vertex.
Tensor narrow_faces(const Tensor& faces, int64_t V) {
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
  STD_TORCH_CHECK(i < 0, "rasterize: face ", i / 3, " names vertex ", i < 0 ? 0 : index[i], ", outside 0..", V - 1);
  return narrow;
}

struct Outputs {
  Tensor face_index, depth, barycentric;
  Outputs(const Tensor& like, int64_t B, int64_t H, int64_t W)
      : face_index(torch::stable::new_empty(like, {B, H, W}, ScalarType::Int)),
        depth(torch::stable::new_empty(like, {B, H, W})), barycentric(torch::stable::new_empty(like, {B, H, W, 3})) {}
  Pixels pixels() const {
    return {
        face_index.mutable_data_ptr<int32_t>(), depth.mutable_data_ptr<float>(), barycentric.mutable_data_ptr<float>()};
  }
  std::tuple<Tensor, Tensor, Tensor> tuple() const { return {depth, barycentric, face_index}; }
};

std::tuple<Tensor, Tensor, Tensor> rasterize(
    const Tensor& vertices_any, const Tensor& faces_any, int64_t H, int64_t W, bool cull_backfaces, bool perspective) {
  const Tensor vertices = torch::stable::contiguous(vertices_any), faces = torch::stable::contiguous(faces_any);
  const Meshes<int64_t> m = check_meshes(vertices, faces, H, W);
  const Tensor narrow = narrow_faces(faces, m.V);
  const Outputs out(vertices, m.B, H, W);
  if (m.B > 0)
    rasterize_cpu({m.vertices, narrow.const_data_ptr<int32_t>(), m.own_faces, m.B, m.V, m.F, m.H, m.W},
        {cull_backfaces, perspective}, out.pixels());
  return out.tuple();
}

// Gradients of depth and barycentric, of shapes (B, H, W) and (B, H, W, 3), to vertices.
Tensor rasterize_backward(const Tensor& grad_depth_any, const Tensor& grad_barycentric_any, const Tensor& vertices_any,
    const Tensor& faces_any, const Tensor& face_index_any, bool perspective) {
  const Tensor vertices = torch::stable::contiguous(vertices_any), faces = torch::stable::contiguous(faces_any);
  const Tensor grad_depth = torch::stable::contiguous(grad_depth_any),
               face_index = torch::stable::contiguous(face_index_any);
  const Tensor grad_barycentric = torch::stable::contiguous(grad_barycentric_any);
  const Meshes<int64_t> m = check_gradients(grad_depth, grad_barycentric, vertices, faces, face_index);
  const Tensor narrow = narrow_faces(faces, m.V);
  const int32_t* const drawn = face_index.const_data_ptr<int32_t>();
  const bool named = std::all_of(drawn, drawn + face_index.numel(), [&](int32_t f) { return f < m.F; });
  STD_TORCH_CHECK(named, "rasterize_backward: face_index names a face outside 0..", m.F - 1);
  Tensor grad = torch::stable::new_empty(vertices, vertices.sizes());
  rasterize_backward_cpu({m.vertices, narrow.const_data_ptr<int32_t>(), m.own_faces, m.B, m.V, m.F, m.H, m.W},
      perspective,
      {face_index.const_data_ptr<int32_t>(), grad_depth.const_data_ptr<float>(),
          grad_barycentric.const_data_ptr<float>()},
      grad.mutable_data_ptr<float>());
  return grad;
}

Tensor structure_maps(
    const Tensor& vertices_any, const Tensor& faces_any, const Tensor& transform_any, int64_t H, int64_t W) {
  const Tensor vertices = torch::stable::contiguous(vertices_any), faces = torch::stable::contiguous(faces_any);
  const Tensor transform = torch::stable::contiguous(transform_any);
  const Meshes<int64_t> m = check_meshes(vertices, faces, H, W);
  check_transform(transform, vertices);
  const Tensor narrow = narrow_faces(faces, m.V);
  Tensor out = torch::stable::new_empty(vertices, {m.B, 1, H, W});
  if (m.B > 0)
    structure_cpu({m.vertices, narrow.const_data_ptr<int32_t>(), m.own_faces, m.B, m.V, m.F, m.H, m.W},
        transform.const_data_ptr<float>(), out.mutable_data_ptr<float>());
  return out;
}

}  // namespace
}  // namespace gcl

#ifdef WITH_CUDA
namespace gcl {
namespace {

struct DeviceWorkspace {
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

cudaStream_t current_stream(int32_t device) {
  void* stream = nullptr;  // the stream PyTorch is on now; nativeHandle() would ask for torch >= 2.13
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  return static_cast<cudaStream_t>(stream);
}

std::tuple<Tensor, Tensor, Tensor> rasterize_on_cuda(
    const Tensor& vertices_any, const Tensor& faces_any, int64_t H, int64_t W, bool cull_backfaces, bool perspective) {
  const torch::stable::accelerator::DeviceGuard guard(vertices_any.get_device_index());
  const Tensor vertices = torch::stable::contiguous(vertices_any), faces = torch::stable::contiguous(faces_any);
  const Meshes<int64_t> m = check_meshes(vertices, faces, H, W);
  const Outputs out(vertices, m.B, H, W);
  if (m.B > 0) {  // an empty grid is a launch error
    const DeviceWorkspace work(vertices, m, false);
    STD_CUDA_CHECK(rasterize_cuda(
        m, {cull_backfaces, perspective}, work.get(), out.pixels(), current_stream(vertices.get_device_index())));
  }
  return out.tuple();
}

Tensor rasterize_backward_on_cuda(const Tensor& grad_depth_any, const Tensor& grad_barycentric_any,
    const Tensor& vertices_any, const Tensor& faces_any, const Tensor& face_index_any, bool perspective) {
  const torch::stable::accelerator::DeviceGuard guard(vertices_any.get_device_index());
  const Tensor vertices = torch::stable::contiguous(vertices_any), faces = torch::stable::contiguous(faces_any);
  const Tensor grad_depth = torch::stable::contiguous(grad_depth_any),
               face_index = torch::stable::contiguous(face_index_any);
  const Tensor grad_barycentric = torch::stable::contiguous(grad_barycentric_any);
  const Meshes<int64_t> m = check_gradients(grad_depth, grad_barycentric, vertices, faces, face_index);
  Tensor grad = torch::stable::new_zeros(vertices, vertices.sizes());
  if (m.B > 0)
    STD_CUDA_CHECK(rasterize_backward_cuda(m, perspective,
        {face_index.const_data_ptr<int32_t>(), grad_depth.const_data_ptr<float>(),
            grad_barycentric.const_data_ptr<float>()},
        grad.mutable_data_ptr<float>(), current_stream(vertices.get_device_index())));
  return grad;
}

Tensor structure_maps_on_cuda(
    const Tensor& vertices_any, const Tensor& faces_any, const Tensor& transform_any, int64_t H, int64_t W) {
  const torch::stable::accelerator::DeviceGuard guard(vertices_any.get_device_index());
  const Tensor vertices = torch::stable::contiguous(vertices_any), faces = torch::stable::contiguous(faces_any);
  const Tensor transform = torch::stable::contiguous(transform_any);
  const Meshes<int64_t> m = check_meshes(vertices, faces, H, W);
  check_transform(transform, vertices);
  Tensor out = torch::stable::new_empty(vertices, {m.B, 1, H, W});
  if (m.B > 0) {
    const DeviceWorkspace work(vertices, m, true);
    STD_CUDA_CHECK(structure_cuda(m, transform.const_data_ptr<float>(), work.get(), out.mutable_data_ptr<float>(),
        current_stream(vertices.get_device_index())));
  }
  return out;
}

}  // namespace
}  // namespace gcl

STABLE_TORCH_LIBRARY_IMPL(gcl_fast, CUDA, m) {
  m.impl("rasterize", TORCH_BOX(&gcl::rasterize_on_cuda));
  m.impl("rasterize_backward", TORCH_BOX(&gcl::rasterize_backward_on_cuda));
  m.impl("structure_maps", TORCH_BOX(&gcl::structure_maps_on_cuda));
}
#endif

STABLE_TORCH_LIBRARY_FRAGMENT(gcl_fast, m) {
  m.def(
      "rasterize(Tensor vertices, Tensor faces, int height, int width, bool cull_backfaces=False, bool perspective=False)"
      " -> (Tensor depth, Tensor barycentric, Tensor face_index)");
  m.def(
      "rasterize_backward(Tensor grad_depth, Tensor grad_barycentric, Tensor vertices, Tensor faces, Tensor face_index,"
      " bool perspective) -> Tensor");
  m.def("structure_maps(Tensor vertices, Tensor faces, Tensor transform, int height, int width) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(gcl_fast, CPU, m) {
  m.impl("rasterize", TORCH_BOX(&gcl::rasterize));
  m.impl("rasterize_backward", TORCH_BOX(&gcl::rasterize_backward));
  m.impl("structure_maps", TORCH_BOX(&gcl::structure_maps));
}
