// The vertices of one mesh on the CPU: to the image frame, and their normals there.
#pragma once

#include <stdint.h>

namespace gcl {

// projected (V, 3) = matrix (3, 4) times vertices (V, 3): pixels and depth.
void transform_vertices(const float* vertices, int V, const float* matrix, float* projected);

// Sum of the normals of the faces around each vertex, (V, 4) of which the last means nothing, as face_normal and drawable
// have them: a face that must not be drawn gives none. Tells on the way which faces are seen from behind. Four floats are
// loaded at once, so one beyond the vertices must be there.
void sum_normals(const float* vertices, const int32_t* faces, int V, int F, float* normals, uint8_t* hidden);

// The second of these alone, for meshes that are not shaded.
void find_hidden(const float* vertices, const int32_t* faces, int F, uint8_t* hidden);

}  // namespace gcl
