// flags: --fmad=false
// transfer_appearance on the GPU: both views are drawn by the rasterizer's kernels, then one thread for each pixel. The
// gradient is summed in integers, whose sum does not depend on the order of the threads. As in rasterize.cu, nothing asks
// the host, and the host compiler builds this file too.
#include "cuda_on_host.h"
#include "transfer_cuda.h"

namespace gcl {
namespace {

constexpr int THREADS = 128;
constexpr int GRADIENT_BITS = 40;  // of the largest gradient as an integer; 2^22 of them can be added to one pixel

__device__ inline int64_t thread() { return int64_t(blockIdx.x) * blockDim.x + threadIdx.x; }
inline dim3 blocks(int64_t threads) { return dim3(unsigned((threads + THREADS - 1) / THREADS)); }

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

// Calls tap(x, y, weight) for the taps of pixel i of the batch, and returns its confidence.
template <class Tap>
__device__ inline float pixel_taps(
    const TransferInputs<int64_t>& in, const TransferWorkspace& work, int64_t i, Tap tap) {
  const int64_t crop = i / (int64_t(in.H) * in.W), pixel = i % (int64_t(in.H) * in.W), first = crop * in.H * in.W;
  const int row = int(pixel / in.W), column = int(pixel % in.W);
  const SourceView source = {work.source.projected + 3 * crop * in.V, work.source.keys + first, work.unknown + first,
      pixels_of(in.source + 12 * crop, in.tolerance), in.V, in.H, in.W};
  const Key key = work.target.keys[i];
  if (key == EMPTY) {
    const uint8_t* unknown = source.unknown + int64_t(row) * in.W;
    int left = column, right = column;
    while (left >= 0 && unknown[left]) --left;
    while (right < in.W && unknown[right]) ++right;
    return background_taps(source, row, column, left, right, tap);
  }
  const int64_t* corner = in.faces + 3 * int64_t(face_of(key));
  const int face[3] = {int(corner[0]), int(corner[1]), int(corner[2])};  // drawn, so they name vertices
  const Fragment seen = interpolate<false>(
      load(work.target.projected + 3 * crop * in.V, face[0], face[1], face[2]), column + 0.5, row + 0.5);
  const Key* normals = work.source.normals + 3 * crop * in.V;
  const auto normal = [normals](int v) {
    const Key* n = normals + 3 * int64_t(v);
    return Vector{
        float(int64_t(n[0]) / FIXED_POINT), float(int64_t(n[1]) / FIXED_POINT), float(int64_t(n[2]) / FIXED_POINT)};
  };
  return body_taps(source, face, seen, in.donors, normal, tap);
}

// images: (B, C, H, W) by their strides. colour: (B, H, W, C), confidence: (B, 1, H, W).
__global__ void carry_kernel(
    TransferInputs<int64_t> in, TransferWorkspace work, StridedImages images, float* colour, float* confidence) {
  const int64_t i = thread();
  if (i >= int64_t(in.B) * in.H * in.W) return;
  const float* image = images.data + i / (int64_t(in.H) * in.W) * images.stride[0];
  float sum[4] = {};
  confidence[i] = pixel_taps(in, work, i, [&](float x, float y, float weight) {
    const Corners at = corners_of(x, y, in.H, in.W);
    for (int k = 0; k < 4; ++k) {
      const int64_t place = at.at[k] / in.W * images.stride[2] + at.at[k] % in.W * images.stride[3];
      for (int c = 0; c < 4; ++c)
        if (c < in.C) sum[c] += weight * at.weight[k] * image[place + c * images.stride[1]];
    }
  });
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
  pixel_taps(in, work, i, [&](float x, float y, float weight) {
    const Corners at = corners_of(x, y, in.H, in.W);
    for (int k = 0; k < 4; ++k)
      for (int c = 0; c < in.C; ++c) {
        const float part = weight * at.weight[k] * grad[i * in.C + c];
        atomicAdd(&image[int64_t(at.at[k]) * in.C + c], Key(int64_t(part * scale)));
      }
  });
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
  draw_transformed_cuda(m, in.source, work.source, stream);
  m.vertices = in.target_vertices;
  draw_transformed_cuda(m, in.target, work.target, stream);
  LAUNCH(mark_rows_kernel, blocks(pixels), dim3(THREADS), stream, in, work.source.keys, work.marks);
  LAUNCH(mark_columns_kernel, blocks(pixels), dim3(THREADS), stream, in, work.marks, work.unknown);
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
