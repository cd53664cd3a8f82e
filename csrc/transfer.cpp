// flags: -ffp-contract=off
// transfer_appearance on the CPU, one crop after the other on each thread, and the op's schema and checks.
#include "transfer.h"

#include <atomic>
#include <tuple>

#include "draw.h"
#include "mesh_checks.h"
#include "simd.h"
#include "transfer_inputs.h"
#include "vertices.h"
#ifdef WITH_CUDA
#include "device_workspace.h"
#include "transfer_cuda.h"
#endif

namespace gcl {
namespace {

// What the two views of one crop are drawn into; kept from one crop to the next.
struct Views {
  std::vector<Key> source_keys, target_keys;
  std::vector<uint8_t> unknown;
  std::vector<float> shown;   // (V), the visibility of each vertex in the crop
  std::vector<float> target;  // (V, 3) projected
  Scratch scratch;            // of the source: projected vertices and their normals
  SourceView source;
};

// Marks the pixels at most `reach` rows and columns from a drawn one: by rows, then by columns.
void mark_unknown(const Key* keys, int H, int W, int reach, uint8_t* unknown) {
  for (int row = 0; row < H; ++row) {
    int64_t until = -1;  // last column that the drawn pixels to the left reach
    for (int column = -reach; column < W; ++column) {
      const int ahead = column + reach;
      if (ahead < W && keys[int64_t(row) * W + ahead] != EMPTY) until = int64_t(ahead) + reach;
      if (column >= 0) unknown[int64_t(row) * W + column] = column <= until;
    }
  }
  std::vector<int> until(W, -1);
  std::vector<uint8_t> marks(unknown, unknown + int64_t(H) * W);
  for (int row = -reach; row < H; ++row) {
    const int ahead = row + reach;
    for (int column = 0; column < W && ahead < H; ++column)
      if (marks[int64_t(ahead) * W + column]) until[column] = ahead + reach;
    for (int column = 0; column < W && row >= 0; ++column) unknown[int64_t(row) * W + column] = row <= until[column];
  }
}

// The visibility of all vertices: four of five are never asked for, but side by side they cost less than those.
GCL_CLONES void show_vertices(const SourceView& source, const float* normals, float* shown) {
  for (int v = 0; v < source.V; ++v)
    shown[v] = vertex_visibility(source, v, {normals[4 * v], normals[4 * v + 1], normals[4 * v + 2]});
}

void draw_views(const TransferInputs<int32_t>& in, int64_t i, Views& views) {
  const auto [V, F, H, W] = std::tuple(in.V, in.F, in.H, in.W);
  Scratch& scratch = views.scratch;
  scratch.projected.resize(3 * size_t(V) + 1), scratch.normals.resize(4 * size_t(V)), scratch.hidden.resize(F);
  views.target.resize(3 * size_t(V));
  views.unknown.resize(size_t(H) * W);
  views.source_keys.assign(size_t(H) * W, EMPTY), views.target_keys.assign(size_t(H) * W, EMPTY);
  const float* transform = in.source + 12 * i;
  transform_vertices(in.vertices + 3 * i * V, V, transform, scratch.projected.data());
  sum_normals(scratch.projected.data(), in.faces, V, F, scratch.normals.data(), scratch.hidden.data());
  draw({scratch.projected.data(), in.faces, scratch.hidden.data(), V, F, H, W}, 0, F, {true, false}, scratch,
      views.source_keys.data());
  transform_vertices(in.target_vertices + 3 * i * V, V, in.target + 12 * i, views.target.data());
  find_hidden(views.target.data(), in.faces, F, scratch.hidden.data());
  draw({views.target.data(), in.faces, scratch.hidden.data(), V, F, H, W}, 0, F, {true, false}, scratch,
      views.target_keys.data());
  mark_unknown(views.source_keys.data(), H, W, reach_of(transform, in.margin, larger(H, W)), views.unknown.data());
  views.shown.resize(V);
  views.source = {scratch.projected.data(), views.shown.data(), views.source_keys.data(), views.unknown.data(),
      pixels_of(transform, in.tolerance), V, H, W};
  show_vertices(views.source, scratch.normals.data(), views.shown.data());
}

// Calls begin(pixel), tap(x, y, weight) for each place in the crop that the pixel takes its colour from, or
// whole(index, weight) where that is one pixel, and end(pixel, confidence), pixel after pixel.
template <class Begin, class Tap, class Whole, class End>
GCL_INLINE void each_pixel(
    const TransferInputs<int32_t>& in, const Views& views, Begin begin, Tap tap, Whole whole, End end) {
  const float* normals = views.scratch.normals.data();
  const auto normal = [normals](int v) { return Vector{normals[4 * v], normals[4 * v + 1], normals[4 * v + 2]}; };
  for (int row = 0; row < in.H; ++row) {
    const uint8_t* unknown = views.unknown.data() + int64_t(row) * in.W;
    int left = -1, right = -1;
    for (int column = 0; column < in.W; ++column) {
      const int pixel = row * in.W + column;
      if (!unknown[column]) left = column;
      begin(pixel);
      const Key key = views.target_keys[pixel];
      if (key == EMPTY) {
        if (right < column)
          for (right = column; right < in.W && unknown[right];) ++right;
        end(pixel,
            background_taps(column, left, right, in.W, [&](int at, float weight) { whole(row * in.W + at, weight); }));
        continue;
      }
      const int32_t* corner = in.faces + 3 * int64_t(face_of(key));
      const int face[3] = {corner[0], corner[1], corner[2]};
      const Fragment seen =
          interpolate<false>(load(views.target.data(), face[0], face[1], face[2]), column + 0.5, row + 0.5);
      end(pixel, body_taps(views.source, face, seen, in.donors, normal, tap));
    }
  }
}

// image: (H * W) of four floats each, of which C count. colour: (H, W, C), confidence: (H, W).
GCL_CLONES void carry(
    const TransferInputs<int32_t>& in, const Views& views, const float* image, float* colour, float* confidence) {
  Four sum = {};
  const int last = in.H * in.W - 4;  // from here on four floats may reach beyond the colours of this crop
  each_pixel(
      in, views, [&](int) { sum = Four{}; },
      [&](float x, float y, float weight) {
        const Corners c = corners_of(x, y, in.H, in.W);
        for (int k = 0; k < 4; ++k) sum += weight * c.weight[k] * load_four(image + 4 * int64_t(c.at[k]));
      },
      [&](int at, float weight) { sum += weight * load_four(image + 4 * int64_t(at)); },
      [&](int pixel, float value) {
        float* at = colour + int64_t(pixel) * in.C;
        if (pixel < last) store_four(at, sum);  // what is too much is overwritten by the next pixel
        else
          for (int c = 0; c < in.C; ++c) at[c] = sum[c];
        confidence[pixel] = value;
      });
}

// Adds to `image`, as above, what the gradient (H, W, C) of the colours gives to it.
GCL_CLONES void carry_back(const TransferInputs<int32_t>& in, const Views& views, const float* grad, float* image) {
  Four value = {};
  each_pixel(
      in, views,
      [&](int pixel) {
        for (int c = 0; c < in.C; ++c) value[c] = grad[int64_t(pixel) * in.C + c];
      },
      [&](float x, float y, float weight) {
        const Corners c = corners_of(x, y, in.H, in.W);
        for (int k = 0; k < 4; ++k) add(image + 4 * int64_t(c.at[k]), weight * c.weight[k] * value);
      },
      [&](int at, float weight) { add(image + 4 * int64_t(at), weight * value); }, [](int, float) {});
}

// Runs work(i, views, image) for every crop, where image has room for one of four floats a pixel.
template <class Work>
void each_crop(const TransferInputs<int32_t>& in, Work work) {
  std::atomic<int> next = 0;  // a thread that starts late, or shares its core, leaves its crops to the others
  torch::stable::parallel_for(0, torch::stable::get_num_threads(), 1, [&](int64_t, int64_t) {
    Views views;
    std::vector<float> image(4 * size_t(in.H) * in.W);
    for (int i; (i = next++) < in.B;) {
      draw_views(in, i, views);
      work(i, views, image.data());
    }
  });
}

// Checks the inputs of both ops, and keeps their contiguous forms alive.
struct Arguments {
  Tensor vertices, target_vertices, faces, donors, donor_weight, source, target;
  Meshes<int64_t> meshes;
  Arguments(const char* op, const char* name, const Tensor& vertices_any, const Tensor& target_any,
      const Tensor& faces_any, const Tensor& donors_any, const Tensor& weight_any, const Tensor& source_any,
      const Tensor& to_any, int64_t C, int64_t H, int64_t W, double tolerance, double margin)
      : vertices(torch::stable::contiguous(vertices_any)), target_vertices(torch::stable::contiguous(target_any)),
        faces(torch::stable::contiguous(faces_any)), donors(torch::stable::contiguous(donors_any)),
        donor_weight(torch::stable::contiguous(weight_any)), source(torch::stable::contiguous(source_any)),
        target(torch::stable::contiguous(to_any)) {
    STD_TORCH_CHECK(0 < C && C <= 4, op, ": ", name, " must have 1 to 4 channels, not ", C);
    STD_TORCH_CHECK(is_drawable(H, W), op, ": ", name, " must have 1 to 32767 rows and columns, not ", H, " x ", W);
    meshes = check_meshes(op, vertices, faces, H, W);
    STD_TORCH_CHECK(!meshes.own_faces, op, ": faces must be of shape (F, 3), the same for all crops");
    const Meshes<int64_t> other = check_meshes(op, target_vertices, faces, H, W);
    STD_TORCH_CHECK(other.B == meshes.B && other.V == meshes.V && target_vertices.device() == vertices.device(), op,
        ": target_vertices must have the shape and the device of vertices");
    check_transform(op, "source", source, vertices), check_transform(op, "target", target, vertices);
    STD_TORCH_CHECK(is_array(donors, ScalarType::Int, 2) && donors.size(0) == meshes.V &&
            donors.size(1) <= MOST_DONORS && donors.device() == vertices.device(),
        op, ": donors must be int32 of shape (V, K), K at most ", MOST_DONORS, ", on the device of vertices");
    STD_TORCH_CHECK(is_array(donor_weight, ScalarType::Float, 1) && donor_weight.size(0) == donors.size(1) &&
            donor_weight.device() == vertices.device(),
        op, ": donor_weight must be float32 of shape (K,), on the device of vertices");
    for (const auto& [length, metres] : {std::pair("tolerance", tolerance), {"margin", margin}}) {
      check_finite(op, length, metres);
      STD_TORCH_CHECK(metres >= 0, op, ": ", length, " is ", metres, " metres, expected 0 or more");
    }
  }
  template <class Index>
  TransferInputs<Index> inputs(const Index* face, double tolerance, double margin, int64_t C) const {
    return {meshes.vertices, target_vertices.const_data_ptr<float>(), face,
        {donors.const_data_ptr<int32_t>(), donor_weight.const_data_ptr<float>(), int(donors.size(1))},
        source.const_data_ptr<float>(), target.const_data_ptr<float>(), float(tolerance), float(margin), meshes.B,
        meshes.V, meshes.F, int(C), meshes.H, meshes.W};
  }
  // The CPU's form; the GPU's kernels skip what is out of range, because to tell the host would cost a synchronization.
  TransferInputs<int32_t> narrow(const char* op, Tensor& faces32, double tolerance, double margin, int64_t C) const {
    faces32 = narrow_faces(op, faces, meshes.V);
    const int32_t* d = donors.const_data_ptr<int32_t>();
    int32_t lowest = 0, highest = -1;
    for (int64_t i = 0; i < donors.numel(); ++i) lowest = smaller(lowest, d[i]), highest = larger(highest, d[i]);
    STD_TORCH_CHECK(lowest >= 0 && highest < meshes.V, op, ": donors name a vertex outside 0..", meshes.V - 1);
    return inputs(faces32.const_data_ptr<int32_t>(), tolerance, margin, C);
  }
};

void check_images(const char* op, const Tensor& images, const Tensor& vertices) {
  STD_TORCH_CHECK(images.dim() == 4 && vertices.dim() == 3 && images.size(0) == vertices.size(0) &&
          images.scalar_type() == ScalarType::Float && images.device() == vertices.device(),
      op, ": images must be float32 of shape (B, C, H, W), one for each mesh, on the device of vertices");
}

void check_gradient(const char* op, const Tensor& grad, const Tensor& vertices) {
  STD_TORCH_CHECK(is_array(grad, ScalarType::Float, 4) && vertices.dim() == 3 && grad.size(0) == vertices.size(0) &&
          grad.device() == vertices.device(),
      op, ": grad must be float32 of shape (B, H, W, C), one for each mesh, on the device of vertices");
}

std::tuple<Tensor, Tensor> transfer_appearance(const Tensor& images, const Tensor& vertices,
    const Tensor& target_vertices, const Tensor& faces, const Tensor& donors, const Tensor& donor_weight,
    const Tensor& source, const Tensor& target, double tolerance, double margin) {
  const char* op = "transfer_appearance";
  check_images(op, images, vertices);
  const int64_t C = images.size(1), H = images.size(2), W = images.size(3);
  const Arguments a(
      op, "images", vertices, target_vertices, faces, donors, donor_weight, source, target, C, H, W, tolerance, margin);
  Tensor faces32;
  const TransferInputs<int32_t> in = a.narrow(op, faces32, tolerance, margin, C);
  Tensor colour = torch::stable::new_empty(images, {in.B, H, W, C}),
         confidence = torch::stable::new_empty(images, {in.B, 1, H, W});
  const float* from = images.const_data_ptr<float>();
  const int64_t stride[4] = {images.stride(0), images.stride(1), images.stride(2), images.stride(3)};
  each_crop(in, [&](int64_t i, const Views& views, float* image) {
    std::fill(image, image + 4 * H * W, 0.0f);
    for (int64_t c = 0; c < C; ++c)
      for (int64_t row = 0; row < H; ++row) {
        const float* line = from + i * stride[0] + c * stride[1] + row * stride[2];
        for (int64_t column = 0; column < W; ++column) image[4 * (row * W + column) + c] = line[column * stride[3]];
      }
    carry(in, views, image, colour.mutable_data_ptr<float>() + i * H * W * C,
        confidence.mutable_data_ptr<float>() + i * H * W);
  });
  return {colour, confidence};
}

Tensor transfer_appearance_backward(const Tensor& grad_any, const Tensor& vertices, const Tensor& target_vertices,
    const Tensor& faces, const Tensor& donors, const Tensor& donor_weight, const Tensor& source, const Tensor& target,
    double tolerance, double margin) {
  const char* op = "transfer_appearance_backward";
  const Tensor grad = torch::stable::contiguous(grad_any);
  check_gradient(op, grad, vertices);
  const int64_t H = grad.size(1), W = grad.size(2), C = grad.size(3);
  const Arguments a(
      op, "grad", vertices, target_vertices, faces, donors, donor_weight, source, target, C, H, W, tolerance, margin);
  Tensor faces32;
  const TransferInputs<int32_t> in = a.narrow(op, faces32, tolerance, margin, C);
  Tensor out = torch::stable::new_empty(grad, {in.B, H, W, C});
  each_crop(in, [&](int64_t i, const Views& views, float* image) {
    std::fill(image, image + 4 * H * W, 0.0f);
    carry_back(in, views, grad.const_data_ptr<float>() + i * H * W * C, image);
    float* to = out.mutable_data_ptr<float>() + i * H * W * C;
    for (int64_t pixel = 0; pixel < H * W; ++pixel)
      for (int64_t c = 0; c < C; ++c) to[pixel * C + c] = image[4 * pixel + c];
  });
  return out;
}

}  // namespace
}  // namespace gcl

#ifdef WITH_CUDA
namespace gcl {
namespace {

struct DeviceViews {
  DeviceWorkspace source, target;
  Tensor shown, marks, unknown;
  DeviceViews(const Tensor& like, const Meshes<int64_t>& m)
      : source(like, m, true), target(like, m, true), shown(torch::stable::new_empty(like, {m.B, m.V})),
        marks(torch::stable::new_empty(like, {m.B, m.H, m.W}, ScalarType::Byte)),
        unknown(torch::stable::new_empty(like, {m.B, m.H, m.W}, ScalarType::Byte)) {}
  TransferWorkspace get() const {
    return {source.get(), target.get(), shown.mutable_data_ptr<float>(), marks.mutable_data_ptr<uint8_t>(),
        unknown.mutable_data_ptr<uint8_t>()};
  }
};

std::tuple<Tensor, Tensor> transfer_appearance_on_cuda(const Tensor& images, const Tensor& vertices,
    const Tensor& target_vertices, const Tensor& faces, const Tensor& donors, const Tensor& donor_weight,
    const Tensor& source, const Tensor& target, double tolerance, double margin) {
  const char* op = "transfer_appearance";
  const torch::stable::accelerator::DeviceGuard guard(gpu_of(op, "images", images));
  check_images(op, images, vertices);
  const int64_t C = images.size(1), H = images.size(2), W = images.size(3);
  const Arguments a(
      op, "images", vertices, target_vertices, faces, donors, donor_weight, source, target, C, H, W, tolerance, margin);
  const TransferInputs<int64_t> in = a.inputs(a.meshes.faces, tolerance, margin, C);
  Tensor colour = torch::stable::new_empty(images, {in.B, H, W, C}),
         confidence = torch::stable::new_empty(images, {in.B, 1, H, W});
  if (in.B > 0) {
    const DeviceViews work(images, a.meshes);
    STD_CUDA_CHECK(transfer_cuda(in, work.get(),
        {images.const_data_ptr<float>(), {images.stride(0), images.stride(1), images.stride(2), images.stride(3)}},
        colour.mutable_data_ptr<float>(), confidence.mutable_data_ptr<float>(),
        current_stream(images.get_device_index())));
  }
  return {colour, confidence};
}

Tensor transfer_appearance_backward_on_cuda(const Tensor& grad_any, const Tensor& vertices,
    const Tensor& target_vertices, const Tensor& faces, const Tensor& donors, const Tensor& donor_weight,
    const Tensor& source, const Tensor& target, double tolerance, double margin) {
  const char* op = "transfer_appearance_backward";
  const torch::stable::accelerator::DeviceGuard guard(gpu_of(op, "grad", grad_any));
  const Tensor grad = torch::stable::contiguous(grad_any);
  check_gradient(op, grad, vertices);
  const int64_t H = grad.size(1), W = grad.size(2), C = grad.size(3);
  const Arguments a(
      op, "grad", vertices, target_vertices, faces, donors, donor_weight, source, target, C, H, W, tolerance, margin);
  const TransferInputs<int64_t> in = a.inputs(a.meshes.faces, tolerance, margin, C);
  Tensor out = torch::stable::new_empty(grad, {in.B, H, W, C});
  if (in.B > 0) {
    const DeviceViews work(grad, a.meshes);
    const Tensor sums = torch::stable::new_empty(grad, {in.B, H, W, C}, ScalarType::Long),
                 largest = torch::stable::new_empty(grad, {1}, ScalarType::Long);
    STD_CUDA_CHECK(transfer_backward_cuda(in, work.get(), grad.const_data_ptr<float>(),
        static_cast<Key*>(sums.mutable_data_ptr()), static_cast<Key*>(largest.mutable_data_ptr()),
        out.mutable_data_ptr<float>(), current_stream(grad.get_device_index())));
  }
  return out;
}

}  // namespace
}  // namespace gcl

STABLE_TORCH_LIBRARY_IMPL(gcl_fast, CUDA, m) {
  m.impl("transfer_appearance", TORCH_BOX(&gcl::transfer_appearance_on_cuda));
  m.impl("transfer_appearance_backward", TORCH_BOX(&gcl::transfer_appearance_backward_on_cuda));
}
#endif

STABLE_TORCH_LIBRARY_FRAGMENT(gcl_fast, m) {
  m.def("transfer_appearance(Tensor images, Tensor vertices, Tensor target_vertices, Tensor faces, Tensor donors,"
        " Tensor donor_weight, Tensor source, Tensor target, float tolerance, float margin)"
        " -> (Tensor colour, Tensor confidence)");
  m.def(
      "transfer_appearance_backward(Tensor grad, Tensor vertices, Tensor target_vertices, Tensor faces, Tensor donors,"
      " Tensor donor_weight, Tensor source, Tensor target, float tolerance, float margin) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(gcl_fast, CPU, m) {
  m.impl("transfer_appearance", TORCH_BOX(&gcl::transfer_appearance));
  m.impl("transfer_appearance_backward", TORCH_BOX(&gcl::transfer_appearance_backward));
}
