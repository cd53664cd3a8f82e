// The CUDA kernels of transfer_appearance for ctypes, built by the host compiler with the rasterizer's: arrays are
// C-contiguous in host memory, order is 0 forward, 1 reverse, 2 shuffled.
#include "rasterize.cu"
#include "transfer.cu"

using namespace gcl;

namespace {

struct HostViews {
  std::vector<Key> keys[2], normals[2], num_large;
  std::vector<int64_t> large;
  std::vector<float> projected[2], shown;
  std::vector<uint8_t> marks, unknown;
  explicit HostViews(const TransferInputs<int64_t>& in)
      : num_large(1), large(size_t(in.B) * in.F), shown(size_t(in.B) * in.V), marks(size_t(in.B) * in.H * in.W),
        unknown(marks.size()) {
    for (int i = 0; i < 2; ++i) {
      keys[i].resize(marks.size()), normals[i].resize(size_t(in.B) * in.V * 3);
      projected[i].resize(size_t(in.B) * in.V * 3);
    }
  }
  Workspace view(int i) {
    return {keys[i].data(), num_large.data(), large.data(), projected[i].data(), normals[i].data()};
  }
  TransferWorkspace get() { return {view(0), view(1), shown.data(), marks.data(), unknown.data()}; }
};

}  // namespace

extern "C" int transfer_on_host(const float* images, const float* vertices, const float* target_vertices,
    const int64_t* faces, const int32_t* donors, const float* donor_weight, const float* source, const float* target,
    float tolerance, float margin, int B, int C, int V, int F, int K, int H, int W, int order, float* colour,
    float* confidence, const float* grad, float* grad_images) {
  gcl_thread_order = ThreadOrder(order);
  const TransferInputs<int64_t> in = {
      vertices, target_vertices, faces, {donors, donor_weight, K}, source, target, tolerance, margin, B, V, F, C, H, W};
  HostViews views(in);
  const int64_t plane = int64_t(H) * W;
  transfer_cuda(in, views.get(), {images, {C * plane, plane, W, 1}}, colour, confidence, nullptr);
  std::vector<Key> sums(size_t(B) * plane * C), largest(1);
  return transfer_backward_cuda(in, views.get(), grad, sums.data(), largest.data(), grad_images, nullptr);
}
