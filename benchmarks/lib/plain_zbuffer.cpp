// The z-buffer that everyone writes first: the yardstick of rasterize.py. One thread, one mesh after the other.
#include <cmath>
#include <cstdint>
#include <vector>

extern "C" void plain_zbuffer(const float* vertices, const int64_t* faces, int B, int V, int F, int H, int W, int32_t* face_index,
    float* depth, float* barycentric) {
  for (int mesh = 0; mesh < B; ++mesh, vertices += 3 * V, face_index += H * W, depth += H * W, barycentric += 3 * H * W) {
    for (int i = 0; i < H * W; ++i) face_index[i] = -1, depth[i] = 0;
    for (int i = 0; i < 3 * H * W; ++i) barycentric[i] = 0;
    for (int f = 0; f < F; ++f) {
      const float *a = vertices + 3 * faces[3 * f], *b = vertices + 3 * faces[3 * f + 1], *c = vertices + 3 * faces[3 * f + 2];
      const int left = int(std::fmax(std::ceil(std::fmin(a[0], std::fmin(b[0], c[0])) - 0.5f), 0.0f));
      const int right = int(std::fmin(std::floor(std::fmax(a[0], std::fmax(b[0], c[0])) - 0.5f), W - 1.0f));
      const int top = int(std::fmax(std::ceil(std::fmin(a[1], std::fmin(b[1], c[1])) - 0.5f), 0.0f));
      const int bottom = int(std::fmin(std::floor(std::fmax(a[1], std::fmax(b[1], c[1])) - 0.5f), H - 1.0f));
      const float area = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]);
      for (int row = top; row <= bottom; ++row) {
        for (int column = left; column <= right; ++column) {
          const float x = column + 0.5f, y = row + 0.5f;
          const float wa = ((b[0] - x) * (c[1] - y) - (b[1] - y) * (c[0] - x)) / area;
          const float wb = ((c[0] - x) * (a[1] - y) - (c[1] - y) * (a[0] - x)) / area;
          const float wc = 1 - wa - wb;
          if (!(wa >= 0 && wb >= 0 && wc >= 0)) continue;
          const float z = wa * a[2] + wb * b[2] + wc * c[2];
          const int i = row * W + column;
          if (face_index[i] >= 0 && z >= depth[i]) continue;
          face_index[i] = f, depth[i] = z;
          barycentric[3 * i] = wa, barycentric[3 * i + 1] = wb, barycentric[3 * i + 2] = wc;
        }
      }
    }
  }
}
