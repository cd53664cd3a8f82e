"""Small meshes from which hair, skirts, hats and bags are made, and the mesh that carries what the painter needs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# What a face is made of.
BODY, SHOE, SKIRT, HAIR, HEADWEAR, BAG, COAT = range(7)


@dataclass
class Mesh:
    """Triangles in the body frame with per-vertex cloth coordinates.

    vertices (V, 3) metres; faces (F, 3) int64; material (F,) one of the constants above; cloth (V, 6): place on the
    undressed template (x, y, z, metres), place along the arm (0 shoulder, 1 elbow, 2 wrist; -1 off the arms) and along
    the leg (0 hip, 1 knee, 2 ankle; -1 off the legs), the arm's share 0..1. Extra pieces keep their own x, y, z.
    """

    vertices: np.ndarray
    faces: np.ndarray
    material: np.ndarray
    cloth: np.ndarray


def piece(vertices: np.ndarray, faces: np.ndarray, material: int, place: np.ndarray | None = None) -> Mesh:
    """A mesh of one material off arms and legs; `place` (V, 3) are its cloth coordinates (the vertices by default)."""
    cloth = np.concatenate((vertices if place is None else place, np.tile([-1.0, -1.0, 0.0], (len(vertices), 1))), 1)
    return Mesh(vertices, faces, np.full(len(faces), material), cloth)


def join(meshes: list[Mesh]) -> Mesh:
    starts = np.cumsum([0] + [len(mesh.vertices) for mesh in meshes[:-1]])
    return Mesh(
        np.concatenate([mesh.vertices for mesh in meshes]).astype(np.float32),
        np.concatenate([mesh.faces + start for mesh, start in zip(meshes, starts)]),
        np.concatenate([mesh.material for mesh in meshes]),
        np.concatenate([mesh.cloth for mesh in meshes]).astype(np.float32),
    )


def grid_faces(rows: int, columns: int, closed: bool) -> np.ndarray:
    """Triangles of a (rows, columns) grid of vertices; `closed` joins the last column to the first.

    They face outwards where rows run downwards and columns from +z towards +x.
    """
    row, column = np.mgrid[0 : rows - 1, 0 : columns if closed else columns - 1]
    a, b = row * columns + column, row * columns + (column + 1) % columns
    quads = np.stack((a, b, b + columns, a + columns), -1).reshape(-1, 4)
    return np.concatenate((quads[:, [0, 2, 1]], quads[:, [0, 3, 2]]))


def rounded_box(size: tuple[float, float, float], squareness: float = 0.45) -> tuple[np.ndarray, np.ndarray]:
    """Superellipsoid with the given full sizes in metres, about the origin; squareness 1 is an ellipsoid, 0 a box."""
    polar, turn = np.meshgrid(np.linspace(0, np.pi, 11), np.linspace(0, 2 * np.pi, 20, endpoint=False), indexing="ij")

    def power(values: np.ndarray) -> np.ndarray:
        return np.sign(values) * np.abs(values) ** squareness

    x = power(np.sin(polar)) * power(np.sin(turn))
    z = power(np.sin(polar)) * power(np.cos(turn))
    vertices = np.stack((x, power(np.cos(polar)), z), -1).reshape(-1, 3) * np.array(size) / 2
    return vertices, grid_faces(*polar.shape, closed=True)


def tube(centres: np.ndarray, radii: np.ndarray, columns: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Round tube along `centres` (R, 3) with `radii` (R,), rings level (good for things that hang)."""
    turn = np.linspace(0, 2 * np.pi, columns, endpoint=False)
    ring = np.stack((np.sin(turn), np.zeros_like(turn), np.cos(turn)), -1)
    vertices = centres[:, None] + radii[:, None, None] * ring
    return vertices.reshape(-1, 3), grid_faces(len(centres), columns, closed=True)


def disc(inner: float, outer: float, half_angle: float, droop: float) -> tuple[np.ndarray, np.ndarray]:
    """Brim in the plane y = 0 from `inner` to `outer` radius about the origin, `half_angle` to each side of +z."""
    turn = np.linspace(-half_angle, half_angle, 21)
    radius = np.array([inner, 0.5 * (inner + outer), outer])
    drop = droop * np.array([0.0, 0.3, 1.0])
    vertices = np.stack(
        (radius[:, None] * np.sin(turn), -drop[:, None] * np.ones_like(turn), radius[:, None] * np.cos(turn)), -1
    )
    return vertices.reshape(-1, 3), grid_faces(3, len(turn), closed=False)


def mesh_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Unit normals (V, 3), area-weighted means over the faces around each vertex."""
    a, b, c = (vertices.take(faces[:, corner], axis=0) for corner in range(3))
    (ux, uy, uz), (vx, vy, vz) = (b - a).T, (c - a).T  # np.cross takes three times as long
    corners = faces.T.reshape(-1)
    total = np.stack(
        [
            np.bincount(corners, np.tile(plane, 3), len(vertices))
            for plane in (uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx)
        ],
        1,
    )
    return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)


def drape(
    points: np.ndarray, centre: np.ndarray, heights: np.ndarray, directions: int, margin: float, band: float = 0.05
) -> np.ndarray:
    """Radius (rows, directions) of a cloth drawn around `points` (P, 3) at each height.

    The vertical through `centre` is its axis. At every height the cloth is the convex outline of the points within
    `band` of it, `margin` outside: legs that stride apart stretch a skirt and cannot poke through it. Directions run
    from +z towards +x.
    """
    turn = np.linspace(0, 2 * np.pi, directions, endpoint=False)
    ray = np.stack((np.sin(turn), np.cos(turn)))
    flat = points[:, [0, 2]] - centre[[0, 2]]
    reach = np.zeros((len(heights), directions))
    for row, height in enumerate(heights):
        near = np.abs(points[:, 1] - height) < band
        reach[row] = (flat[near] @ ray).max(0, initial=0.0)
    cosine = np.cos(turn[:, None] - turn)
    bound = np.where(cosine > 0.25, (reach[:, None] + margin) / np.maximum(cosine, 0.25), np.inf)
    return bound.min(-1)
