// The CUDA rasterizer for ctypes, built by the host compiler: arrays are C-contiguous in host memory, order is 0 forward,
// 1 reverse, 2 shuffled.
#include "rasterize.cu"

using namespace gcl;

namespace {

struct HostWorkspace {
  std::vector<Key> keys, num_large, normals;
  std::vector<int64_t> large;
  std::vector<float> projected;
  explicit HostWorkspace(const Meshes<int64_t>& m)
      : keys(size_t(m.B) * m.H * m.W), num_large(1), normals(size_t(m.B) * m.V * 3), large(size_t(m.B) * m.F),
        projected(size_t(m.B) * m.V * 3) {}
  Workspace get() { return {keys.data(), num_large.data(), large.data(), projected.data(), normals.data()}; }
};

}  // namespace

extern "C" int rasterize_on_host(const float* vertices, const int64_t* faces, int own_faces, int B, int V, int F, int H,
    int W, int cull_backfaces, int perspective, int order, int32_t* face_index, float* depth, float* barycentric) {
  gcl_thread_order = ThreadOrder(order);
  const Meshes<int64_t> m{vertices, faces, own_faces != 0, B, V, F, H, W};
  HostWorkspace work(m);
  return rasterize_cuda(
      m, {cull_backfaces != 0, perspective != 0}, work.get(), {face_index, depth, barycentric}, nullptr);
}

extern "C" int backward_on_host(const float* vertices, const int64_t* faces, int B, int V, int F, int H, int W,
    int perspective, int order, const int32_t* face_index, const float* grad_depth, const float* grad_barycentric,
    float* grad_vertices) {
  gcl_thread_order = ThreadOrder(order);
  return rasterize_backward_cuda({vertices, faces, false, B, V, F, H, W}, perspective != 0,
      {face_index, grad_depth, grad_barycentric}, grad_vertices, nullptr);
}

extern "C" int structure_on_host(const float* vertices, const int64_t* faces, const float* transform, int B, int V,
    int F, int H, int W, int order, float* out) {
  gcl_thread_order = ThreadOrder(order);
  const Meshes<int64_t> m{vertices, faces, false, B, V, F, H, W};
  HostWorkspace work(m);
  return structure_cuda(m, transform, work.get(), out, nullptr);
}
