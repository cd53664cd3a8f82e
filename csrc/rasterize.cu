// flags: --fmad=false
// Rasterizer on the GPU: one thread per triangle, then one per pixel. The 64-bit minimum of keys makes it deterministic; no
// buffer can overflow, nothing asks the host, so it can be captured in a CUDA graph. All maths is in raster.h. Neither shared
// memory nor barriers: the host compiler builds this file too (cuda_on_host.h), and the tests run it so.
#include "cuda_on_host.h"
#include "rasterize_cuda.h"
#include "threads.h"

namespace gcl {
namespace {

constexpr int LARGE = 256;  // box pixels beyond which one thread no longer draws a triangle alone
constexpr int TILE = 16;  // side of the tiles that large triangles are split into
constexpr unsigned WORKERS = 1024;  // blocks that share the tiles: enough for the largest GPU, idle ones end at once

struct Face {
  Triangle triangle;
  int left, top, right, bottom;  // pixels that can be covered: columns left..right-1
};

__device__ inline const int64_t* face_at(const Meshes<int64_t>& m, int64_t mesh, int f) {
  return m.faces + 3 * (f + (m.own_faces ? mesh * m.F : 0));
}

__device__ inline Triangle triangle_at(const Meshes<int64_t>& m, int64_t mesh, int f) {
  const int64_t* face = face_at(m, mesh, f);
  return load(m.vertices + mesh * m.V * 3, int(face[0]), int(face[1]), int(face[2]));
}

// The face and its box; false when it cannot cover a pixel, or names a vertex that is not there.
__device__ inline bool find(const Meshes<int64_t>& m, int64_t mesh, int f, Options options, Face* out) {
  const int64_t* face = face_at(m, mesh, f);
  for (int k = 0; k < 3; ++k)
    if (uint64_t(face[k]) >= uint64_t(m.V)) return false;
  const Triangle t = triangle_at(m, mesh, f);
  out->triangle = t;
  out->left = cell(smaller(smaller(t.ax, t.bx), t.cx), m.W), out->right = cell(larger(larger(t.ax, t.bx), t.cx), m.W);
  out->top = cell(smaller(smaller(t.ay, t.by), t.cy), m.H), out->bottom = cell(larger(larger(t.ay, t.by), t.cy), m.H);
  return drawable(t.ax, t.ay, t.az, options.perspective) && drawable(t.bx, t.by, t.bz, options.perspective) &&
      drawable(t.cx, t.cy, t.cz, options.perspective) && out->left < out->right && out->top < out->bottom &&
      !(options.cull_backfaces && surely_clockwise(t));
}

__device__ inline void draw_box(
    const Meshes<int64_t>& m, const Face& face, int64_t mesh, int f, Options options, Key* keys) {
  const Sides s = sides(face.triangle);
  for (int row = face.top; row < face.bottom; ++row)
    for (int column = face.left; column < face.right; ++column) {
      float depth;
      const float x = column + 0.5f, y = row + 0.5f;
      const bool inside = options.perspective ? cover<true>(face.triangle, s, x, y, options.cull_backfaces, &depth)
                                              : cover<false>(face.triangle, s, x, y, options.cull_backfaces, &depth);
      if (inside) atomicMin(&keys[(mesh * m.H + row) * m.W + column], pack(depth, f));
    }
}

__global__ void clear_kernel(Key* keys, int64_t pixels, Key* num_large) {
  const int64_t i = thread();
  if (i < pixels) keys[i] = EMPTY;
  if (i == 0) *num_large = 0;
}

// One thread per face of every mesh. A large one is put on a list, which has room for all; its order does not matter.
__global__ void cover_kernel(Meshes<int64_t> m, Options options, Key* keys, Key* num_large, int64_t* large) {
  const int64_t i = thread();
  if (i >= int64_t(m.B) * m.F) return;
  const int64_t mesh = i / m.F;
  const int f = int(i % m.F);
  Face face;
  if (!find(m, mesh, f, options, &face)) return;
  if (int64_t(face.right - face.left) * (face.bottom - face.top) > LARGE) large[atomicAdd(num_large, Key(1))] = i;
  else draw_box(m, face, mesh, f, options, keys);
}

// A fixed grid takes (large face, tile of the picture) pairs in turn: how many there are is known on the GPU only.
__global__ void tile_kernel(Meshes<int64_t> m, Options options, Key* keys, const Key* num_large, const int64_t* large) {
  const int columns = (m.W + TILE - 1) / TILE, tiles = columns * ((m.H + TILE - 1) / TILE);
  for (int64_t i = thread(); i < int64_t(*num_large) * tiles; i += int64_t(gridDim.x) * blockDim.x) {
    const int64_t mesh = large[i / tiles] / m.F;
    const int f = int(large[i / tiles] % m.F), left = int(i % tiles) % columns * TILE,
              top = int(i % tiles) / columns * TILE;
    Face face;
    if (!find(m, mesh, f, options, &face)) continue;
    face.left = larger(face.left, left), face.right = smaller(face.right, left + TILE);
    face.top = larger(face.top, top), face.bottom = smaller(face.bottom, top + TILE);
    draw_box(m, face, mesh, f, options, keys);
  }
}

__device__ inline Fragment fragment_at(const Meshes<int64_t>& m, int64_t pixel, int f, bool perspective) {
  const Triangle t = triangle_at(m, pixel / (int64_t(m.H) * m.W), f);
  const double x = pixel % m.W + 0.5, y = pixel / m.W % m.H + 0.5;
  return perspective ? interpolate<true>(t, x, y) : interpolate<false>(t, x, y);
}

__global__ void resolve_kernel(Meshes<int64_t> m, bool perspective, const Key* keys, Pixels out) {
  const int64_t i = thread();
  if (i >= int64_t(m.B) * m.H * m.W) return;
  const int f = face_of(keys[i]);  // -1 where EMPTY
  const Fragment s = f < 0 ? Fragment{0, 0, 0, 0} : fragment_at(m, i, f, perspective);
  out.face_index[i] = f, out.depth[i] = s.depth;
  out.barycentric[3 * i] = s.a, out.barycentric[3 * i + 1] = s.b, out.barycentric[3 * i + 2] = s.c;
}

// One thread per pixel. Float additions meet in any order: gradients may differ in the last bits from run to run.
__global__ void backward_kernel(Meshes<int64_t> m, bool perspective, PixelGradients in, float* grad_vertices) {
  const int64_t i = thread();
  if (i >= int64_t(m.B) * m.H * m.W || in.face_index[i] < 0) return;
  const int64_t mesh = i / (int64_t(m.H) * m.W);
  const int f = in.face_index[i];
  if (f >= m.F) return;  // the CPU's op raises; here to tell the host would cost a synchronization
  const int64_t* face = face_at(m, mesh, f);
  for (int k = 0; k < 3; ++k)
    if (uint64_t(face[k]) >= uint64_t(m.V)) return;
  float grad[9] = {};
  interpolate_backward(triangle_at(m, mesh, f), i % m.W + 0.5f, i / m.W % m.H + 0.5f, perspective,
      in.barycentric + 3 * i, in.depth[i], grad);
  for (int k = 0; k < 9; ++k) atomicAdd(&grad_vertices[(mesh * m.V + face[k / 3]) * 3 + k % 3], grad[k]);
}

// One thread per vertex: to pixels and depth; its sum of normals starts at zero.
__global__ void transform_kernel(Meshes<int64_t> m, const float* transform, float* projected, Key* normals) {
  const int64_t i = thread();
  if (i >= int64_t(m.B) * m.V) return;
  const float *vertex = m.vertices + 3 * i, *matrix = transform + 12 * (i / m.V);
  for (int k = 0; k < 3; ++k) {
    projected[3 * i + k] = affine(matrix + 4 * k, vertex[0], vertex[1], vertex[2]);
    normals[3 * i + k] = 0;
  }
}

// One thread per face of every mesh. Normals are summed as integers (fixed point, wrapping like two's complement), whose
// sum does not depend on the order of the threads: a picture is the same in every run.
__global__ void normal_kernel(Meshes<int64_t> m, Key* normals) {
  const int64_t i = thread();
  if (i >= int64_t(m.B) * m.F) return;
  const int64_t mesh = i / m.F;
  const int64_t* face = face_at(m, mesh, int(i % m.F));
  for (int k = 0; k < 3; ++k)
    if (uint64_t(face[k]) >= uint64_t(m.V)) return;
  const Vector n = face_normal(triangle_at(m, mesh, int(i % m.F)));
  if (!drawable(n.x, n.y, n.z, false)) return;
  const float part[3] = {n.x, n.y, n.z};
  for (int k = 0; k < 9; ++k)
    atomicAdd(&normals[(mesh * m.V + face[k / 3]) * 3 + k % 3], Key(int64_t(double(part[k % 3]) * FIXED_POINT)));
}

__global__ void shade_kernel(Meshes<int64_t> m, const Key* keys, const Key* normals, float* out) {
  const int64_t i = thread();
  if (i >= int64_t(m.B) * m.H * m.W) return;
  const int f = face_of(keys[i]);
  out[i] = 1;
  if (f < 0) return;
  const int64_t mesh = i / (int64_t(m.H) * m.W), *face = face_at(m, mesh, f), first = mesh * m.V;
  out[i] = shade_mean(fragment_at(m, i, f, false), normal_at(normals, first + face[0]),
      normal_at(normals, first + face[1]), normal_at(normals, first + face[2]));
}

void draw(const Meshes<int64_t>& m, Options options, Workspace work, cudaStream_t stream) {
  const int64_t pixels = int64_t(m.B) * m.H * m.W, faces = int64_t(m.B) * m.F;
  LAUNCH(clear_kernel, blocks(pixels), dim3(THREADS), stream, work.keys, pixels, work.num_large);
  if (faces == 0) return;
  LAUNCH(cover_kernel, blocks(faces), dim3(THREADS), stream, m, options, work.keys, work.num_large, work.large);
  LAUNCH(tile_kernel, dim3(WORKERS), dim3(THREADS), stream, m, options, work.keys, work.num_large, work.large);
}

}  // namespace

cudaError_t rasterize_cuda(const Meshes<int64_t>& m, Options options, Workspace work, Pixels out, cudaStream_t stream) {
  draw(m, options, work, stream);
  LAUNCH(
      resolve_kernel, blocks(int64_t(m.B) * m.H * m.W), dim3(THREADS), stream, m, options.perspective, work.keys, out);
  return cudaGetLastError();
}

cudaError_t rasterize_backward_cuda(
    const Meshes<int64_t>& m, bool perspective, PixelGradients in, float* grad_vertices, cudaStream_t stream) {
  LAUNCH(backward_kernel, blocks(int64_t(m.B) * m.H * m.W), dim3(THREADS), stream, m, perspective, in, grad_vertices);
  return cudaGetLastError();
}

void draw_transformed_cuda(
    const Meshes<int64_t>& m, const float* transform, bool shading, Workspace work, cudaStream_t stream) {
  if (m.V > 0)
    LAUNCH(transform_kernel, blocks(int64_t(m.B) * m.V), dim3(THREADS), stream, m, transform, work.projected,
        work.normals);
  Meshes<int64_t> seen = m;
  seen.vertices = work.projected;
  if (shading && m.F > 0) LAUNCH(normal_kernel, blocks(int64_t(m.B) * m.F), dim3(THREADS), stream, seen, work.normals);
  draw(seen, {true, false}, work, stream);
}

cudaError_t structure_cuda(
    const Meshes<int64_t>& m, const float* transform, Workspace work, float* out, cudaStream_t stream) {
  draw_transformed_cuda(m, transform, true, work, stream);
  Meshes<int64_t> seen = m;
  seen.vertices = work.projected;
  LAUNCH(shade_kernel, blocks(int64_t(m.B) * m.H * m.W), dim3(THREADS), stream, seen, work.keys, work.normals, out);
  return cudaGetLastError();
}

}  // namespace gcl
