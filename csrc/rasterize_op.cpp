// The rasterizer's ops: schemas, checks, allocation, and the calls into the CPU and the CUDA code. Stable ABI only.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#include <tuple>
#include <utility>

#include "checks.h"
#include "mesh_checks.h"
#include "rasterize.h"
#ifdef WITH_CUDA
#include "device_workspace.h"
#endif

namespace gcl {
namespace {

Meshes<int64_t> check_gradients(const Tensor& grad_depth, const Tensor& grad_barycentric, const Tensor& vertices,
    const Tensor& faces, const Tensor& face_index) {
  STD_TORCH_CHECK(face_index.dim() == 3 && vertices.dim() == 3 && face_index.size(0) == vertices.size(0) &&
          is_drawable(face_index.size(1), face_index.size(2)) && face_index.scalar_type() == ScalarType::Int &&
          face_index.device() == vertices.device(),
      "rasterize_backward: face_index must be int32 of shape (B, H, W), on the device of vertices (B, V, 3)");
  const auto fits = [&](const Tensor& grad, int64_t dimensions) {
    bool same = grad.dim() == dimensions && grad.scalar_type() == ScalarType::Float;
    for (int64_t d = 0; same && d < 3; ++d) same = grad.size(d) == face_index.size(d);
    return same && grad.device() == vertices.device();
  };
  STD_TORCH_CHECK(fits(grad_depth, 3) && fits(grad_barycentric, 4) && grad_barycentric.size(3) == 3,
      "rasterize_backward: grad_depth and grad_barycentric must be float32 of shapes (B, H, W) and (B, H, W, 3), on the"
      " device of vertices");
  return check_meshes("rasterize_backward", vertices, faces, face_index.size(1), face_index.size(2));
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
  const Meshes<int64_t> m = check_meshes("rasterize", vertices, faces, H, W);
  const Tensor narrow = narrow_faces("rasterize", faces, m.V);
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
  const Tensor narrow = narrow_faces("rasterize_backward", faces, m.V);
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
  const Meshes<int64_t> m = check_meshes("structure_maps", vertices, faces, H, W);
  check_transform("structure_maps", "transform", transform, vertices);
  const Tensor narrow = narrow_faces("structure_maps", faces, m.V);
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

std::tuple<Tensor, Tensor, Tensor> rasterize_on_cuda(
    const Tensor& vertices_any, const Tensor& faces_any, int64_t H, int64_t W, bool cull_backfaces, bool perspective) {
  const torch::stable::accelerator::DeviceGuard guard(gpu_of("rasterize", "vertices", vertices_any));
  const Tensor vertices = torch::stable::contiguous(vertices_any), faces = torch::stable::contiguous(faces_any);
  const Meshes<int64_t> m = check_meshes("rasterize", vertices, faces, H, W);
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
  const torch::stable::accelerator::DeviceGuard guard(gpu_of("rasterize_backward", "vertices", vertices_any));
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
  const torch::stable::accelerator::DeviceGuard guard(gpu_of("structure_maps", "vertices", vertices_any));
  const Tensor vertices = torch::stable::contiguous(vertices_any), faces = torch::stable::contiguous(faces_any);
  const Tensor transform = torch::stable::contiguous(transform_any);
  const Meshes<int64_t> m = check_meshes("structure_maps", vertices, faces, H, W);
  check_transform("structure_maps", "transform", transform, vertices);
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
