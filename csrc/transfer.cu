// flags: --fmad=false
// transfer_appearance on the GPU: both views are drawn by the rasterizer's kernels, then one thread for each pixel. The
// gradient is summed in integers, whose sum does not depend on the order of the threads. As in rasterize.cu, nothing asks
// the host, and the host compiler builds this file too.
#include "cuda_on_host.h"
#include "threads.h"
#include "transfer_cuda.h"

namespace gcl {
namespace {

constexpr int GRADIENT_BITS = 40;  // of the largest gradient as an integer; 2^22 of them can be added to one pixel

// One thread for each pixel: whether a drawn one is within reach along its row.
__global__ void mark_rows_kernel(TransferInputs<int64_t> in, const Key* keys, uint8_t* marks) {
  const int64_t i = thread();
  if (i >= int64_t(in.B) * in.H * in.W) return;
  const int column = int(i % in.W),
            reach = reach_of(in.source + i / (int64_t(in.H) * in.W) * 12, in.margin, larger(in.H, in.W));
  const int first = larger(column - reach, 0), last = smaller(column + reach, in.W - 1);
  bool near = false;
  for (int c = first; c <= last && !near; ++c) near = keys[i - column + c] != EMPTY;
  marks[i] = near;
}

// The same along its column, of the marks of rows.
__global__ void mark_columns_kernel(TransferInputs<int64_t> in, const uint8_t* marks, uint8_t* unknown) {
  const int64_t i = thread();
  if (i >= int64_t(in.B) * in.H * in.W) return;
  const int row = int(i / in.W % in.H),
            reach = reach_of(in.source + i / (int64_t(in.H) * in.W) * 12, in.margin, larger(in.H, in.W));
  const int first = larger(row - reach, 0), last = smaller(row + reach, in.H - 1);
  bool near = false;
  for (int r = first; r <= last && !near; ++r) near = marks[i + int64_t(r - row) * in.W];
  unknown[i] = near;
}

__device__ inline SourceView source_of(const TransferInputs<int64_t>& in, const TransferWorkspace& work, int64_t crop) {
  const int64_t first = crop * in.H * in.W;
  return {work.source.projected + 3 * crop * in.V, work.shown + crop * in.V, work.source.keys + first,
      work.unknown + first, pixels_of(in.source + 12 * crop, in.tolerance), in.V, in.H, in.W};
}

// One thread for each vertex.
__global__ void show_kernel(TransferInputs<int64_t> in, TransferWorkspace work) {
  const int64_t i = thread();
  if (i >= int64_t(in.B) * in.V) return;
  work.shown[i] = vertex_visibility(source_of(in, work, i / in.V), int(i % in.V), normal_at(work.source.normals, i));
}

// Calls tap(x, y, weight) or whole(index, weight) for the taps of pixel i of the batch, as the CPU's code does, and returns
// its confidence.
template <class Tap, class Whole>
__device__ inline float pixel_taps(
    const TransferInputs<int64_t>& in, const TransferWorkspace& work, int64_t i, Tap tap, Whole whole) {
  const int64_t crop = i / (int64_t(in.H) * in.W), pixel = i % (int64_t(in.H) * in.W);
  const int row = int(pixel / in.W), column = int(pixel % in.W);
  const SourceView source = source_of(in, work, crop);
  const Key key = work.target.keys[i];
  if (key == EMPTY) {
    const uint8_t* unknown = source.unknown + int64_t(row) * in.W;
    int left = column, right = column;
    while (left >= 0 && unknown[left]) --left;
    while (right < in.W && unknown[right]) ++right;
    return background_taps(column, left, right, in.W, [&](int at, float weight) { whole(row * in.W + at, weight); });
  }
  const int64_t* corner = in.faces + 3 * int64_t(face_of(key));
  const int face[3] = {int(corner[0]), int(corner[1]), int(corner[2])};  // drawn, so they name vertices
  const Fragment seen = interpolate<false>(
      load(work.target.projected + 3 * crop * in.V, face[0], face[1], face[2]), column + 0.5, row + 0.5);
  const Key* normals = work.source.normals + 3 * crop * in.V;
  return body_taps(source, face, seen, in.donors, [normals](int v) { return normal_at(normals, v); }, tap);
}

// images: (B, C, H, W) by their strides. colour: (B, H, W, C), confidence: (B, 1, H, W).
__global__ void carry_kernel(
    TransferInputs<int64_t> in, TransferWorkspace work, StridedImages images, float* colour, float* confidence) {
  const int64_t i = thread();
  if (i >= int64_t(in.B) * in.H * in.W) return;
  const float* image = images.data + i / (int64_t(in.H) * in.W) * images.stride[0];
  float sum[4] = {};
  const auto add = [&](int at, float weight) {
    const int64_t place = at / in.W * images.stride[2] + at % in.W * images.stride[3];
    for (int c = 0; c < 4; ++c)
      if (c < in.C) sum[c] += weight * image[place + c * images.stride[1]];
  };
  const auto tap = [&](float x, float y, float weight) {
    const Corners at = corners_of(x, y, in.H, in.W);
    for (int k = 0; k < 4; ++k) add(at.at[k], weight * at.weight[k]);
  };
  confidence[i] = pixel_taps(in, work, i, tap, add);
  for (int c = 0; c < 4; ++c)
    if (c < in.C) colour[i * in.C + c] = sum[c];
}

// Largest magnitude of the gradient, as the bits of a float, which sort as the floats do. A NaN is larger than all.
__global__ void largest_kernel(const float* grad, int64_t count, Key* largest) {
  const int64_t i = thread();
  if (i >= count) return;
  uint32_t bits;
  memcpy(&bits, grad + i, 4);
  atomicMin(largest, ~Key(bits & 0x7fffffffu));  // a minimum, as the rasterizer's: of the complement
}

// What an integer of the sums is worth: a power of two below which no bit of the largest gradient lies; NaN if that is not
// finite, which makes all gradients NaN.
__device__ inline float unit_of(const Key* largest) {
  const uint32_t bits = uint32_t(~*largest);
  float value;
  memcpy(&value, &bits, 4);
  if (!(value <= FLT_MAX)) return NAN;
  int exponent;
  frexpf(larger(value, FLT_MIN), &exponent);
  return ldexpf(1.0f, larger(exponent - GRADIENT_BITS, -126));
}

__global__ void carry_back_kernel(
    TransferInputs<int64_t> in, TransferWorkspace work, const float* grad, const Key* largest, Key* sums) {
  const int64_t i = thread();
  if (i >= int64_t(in.B) * in.H * in.W) return;
  const double scale = 1 / double(unit_of(largest));
  if (!(scale > 0)) return;
  Key* image = sums + i / (int64_t(in.H) * in.W) * in.H * in.W * in.C;
  const auto add = [&](int at, float weight) {
    for (int c = 0; c < in.C; ++c)
      atomicAdd(&image[int64_t(at) * in.C + c], Key(int64_t(weight * grad[i * in.C + c] * scale)));
  };
  const auto tap = [&](float x, float y, float weight) {
    const Corners at = corners_of(x, y, in.H, in.W);
    for (int k = 0; k < 4; ++k) add(at.at[k], weight * at.weight[k]);
  };
  pixel_taps(in, work, i, tap, add);
}

__global__ void to_float_kernel(const Key* sums, int64_t count, const Key* largest, float* out) {
  const int64_t i = thread();
  if (i < count) out[i] = float(double(int64_t(sums[i])) * unit_of(largest));
}

__global__ void zero_kernel(Key* sums, int64_t count, Key* largest) {
  const int64_t i = thread();
  if (i < count) sums[i] = 0;
  if (i == 0) *largest = EMPTY;
}

void draw_views(const TransferInputs<int64_t>& in, const TransferWorkspace& work, cudaStream_t stream) {
  const int64_t pixels = int64_t(in.B) * in.H * in.W;
  Meshes<int64_t> m = {in.vertices, in.faces, false, in.B, in.V, in.F, in.H, in.W};
  draw_transformed_cuda(m, in.source, true, work.source, stream);
  m.vertices = in.target_vertices;
  draw_transformed_cuda(m, in.target, false, work.target, stream);
  LAUNCH(mark_rows_kernel, blocks(pixels), dim3(THREADS), stream, in, work.source.keys, work.marks);
  LAUNCH(mark_columns_kernel, blocks(pixels), dim3(THREADS), stream, in, work.marks, work.unknown);
  if (in.V > 0) LAUNCH(show_kernel, blocks(int64_t(in.B) * in.V), dim3(THREADS), stream, in, work);
}

}  // namespace

cudaError_t transfer_cuda(const TransferInputs<int64_t>& in, TransferWorkspace work, StridedImages images,
    float* colour, float* confidence, cudaStream_t stream) {
  draw_views(in, work, stream);
  LAUNCH(
      carry_kernel, blocks(int64_t(in.B) * in.H * in.W), dim3(THREADS), stream, in, work, images, colour, confidence);
  return cudaGetLastError();
}

cudaError_t transfer_backward_cuda(const TransferInputs<int64_t>& in, TransferWorkspace work, const float* grad,
    Key* sums, Key* largest, float* out, cudaStream_t stream) {
  const int64_t pixels = int64_t(in.B) * in.H * in.W, count = pixels * in.C;
  draw_views(in, work, stream);
  LAUNCH(zero_kernel, blocks(count), dim3(THREADS), stream, sums, count, largest);
  LAUNCH(largest_kernel, blocks(count), dim3(THREADS), stream, grad, count, largest);
  LAUNCH(carry_back_kernel, blocks(pixels), dim3(THREADS), stream, in, work, grad, largest, sums);
  LAUNCH(to_float_kernel, blocks(count), dim3(THREADS), stream, sums, count, largest, out);
  return cudaGetLastError();
}

}  // namespace gcl
