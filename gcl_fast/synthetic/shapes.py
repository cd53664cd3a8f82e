"""Make small meshes for hair, skirts, hats and bags, and define the mesh that carries the painter's coordinates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# materials of faces
BODY, SHOE, SKIRT, HAIR, HEADWEAR, BAG, COAT = range(7)


@dataclass
class Mesh:
    """Holds triangles in the body frame with cloth coordinates of their vertices.

    Attributes:
        vertices: (V, 3) metres.
        faces: (F, 3) int64.
        material: (F,) one of the constants above.
        cloth: (V, 6): x, y and z on the undressed template in metres; place along the arm (0 shoulder, 1 elbow,
            2 wrist; -1 off the arms); place along the leg (0 hip, 1 knee, 2 ankle; -1 off the legs); the arm's share in
            0..1. Pieces other than the body have x, y and z of their own.
    """

    vertices: np.ndarray
    faces: np.ndarray
    material: np.ndarray
    cloth: np.ndarray


def piece(vertices: np.ndarray, faces: np.ndarray, material: int, place: np.ndarray | None = None) -> Mesh:
    """Make a mesh of one material off arms and legs; `place` (V, 3) is its cloth's x, y, z, by default the vertices."""
    cloth = np.concatenate((vertices if place is None else place, np.tile([-1.0, -1.0, 0.0], (len(vertices), 1))), 1)
    return Mesh(vertices, faces, np.full(len(faces), material), cloth)


def join(meshes: list[Mesh]) -> Mesh:
    """Join meshes to one; vertices keep their order."""
    starts = np.cumsum([0] + [len(mesh.vertices) for mesh in meshes[:-1]])
    return Mesh(
        np.concatenate([mesh.vertices for mesh in meshes]).astype(np.float32),
        np.concatenate([mesh.faces + start for mesh, start in zip(meshes, starts)]),
        np.concatenate([mesh.material for mesh in meshes]),
        np.concatenate([mesh.cloth for mesh in meshes]).astype(np.float32),
    )


def grid_faces(rows: int, columns: int, closed: bool) -> np.ndarray:
    """Return the triangles (F, 3) of a (rows, columns) grid of vertices; `closed` joins the last column to the first.

    The triangles face outwards if rows run downwards and columns from +z towards +x.
    """
    row, column = np.mgrid[0 : rows - 1, 0 : columns if closed else columns - 1]
    a, b = row * columns + column, row * columns + (column + 1) % columns
    quads = np.stack((a, b, b + columns, a + columns), -1).reshape(-1, 4)
    return np.concatenate((quads[:, [0, 2, 1]], quads[:, [0, 3, 2]]))


def rounded_box(size: tuple[float, float, float], squareness: float = 0.45) -> tuple[np.ndarray, np.ndarray]:
    """Make a superellipsoid about the origin.

    Args:
        size: full width, height and depth, metres.
        squareness: 1 gives an ellipsoid, 0 a box.

    Returns:
        Vertices (V, 3) and faces (F, 3).
    """
    polar, turn = np.meshgrid(np.linspace(0, np.pi, 11), np.linspace(0, 2 * np.pi, 20, endpoint=False), indexing="ij")

    def power(values: np.ndarray) -> np.ndarray:
        """Raise absolute values to the exponent and keep their signs."""
        return np.sign(values) * np.abs(values) ** squareness

    x = power(np.sin(polar)) * power(np.sin(turn))
    z = power(np.sin(polar)) * power(np.cos(turn))
    vertices = np.stack((x, power(np.cos(polar)), z), -1).reshape(-1, 3) * np.array(size) / 2
    return vertices, grid_faces(*polar.shape, closed=True)


def tube(centres: np.ndarray, radii: np.ndarray, columns: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Make a round tube along `centres` (R, 3) with `radii` (R,); its rings are level, which suits things that hang.

    Returns:
        Vertices (R * columns, 3) and faces (F, 3).
    """
    turn = np.linspace(0, 2 * np.pi, columns, endpoint=False)
    ring = np.stack((np.sin(turn), np.zeros_like(turn), np.cos(turn)), -1)
    vertices = centres[:, None] + radii[:, None, None] * ring
    return vertices.reshape(-1, 3), grid_faces(len(centres), columns, closed=True)


def disc(inner: float, outer: float, half_angle: float, droop: float) -> tuple[np.ndarray, np.ndarray]:
    """Make a brim about the origin.

    Args:
        inner: inner radius.
        outer: outer radius.
        half_angle: radians to each side of +z.
        droop: how far the outer edge lies below the inner one.

    Returns:
        Vertices (V, 3) and faces (F, 3).
    """
    turn = np.linspace(-half_angle, half_angle, 21)
    radius = np.array([inner, 0.5 * (inner + outer), outer])
    drop = droop * np.array([0.0, 0.3, 1.0])
    vertices = np.stack(
        (radius[:, None] * np.sin(turn), -drop[:, None] * np.ones_like(turn), radius[:, None] * np.cos(turn)), -1
    )
    return vertices.reshape(-1, 3), grid_faces(3, len(turn), closed=False)


def mesh_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Return unit normals (V, 3): area-weighted means over the faces around each vertex."""
    a, b, c = (vertices.take(faces[:, corner], axis=0) for corner in range(3))
    (ux, uy, uz), (vx, vy, vz) = (b - a).T, (c - a).T  # planes, since np.cross is slower
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
    """Compute the radius of a cloth around points at each height.

    At each height the cloth is the convex outline of the points near that height, plus a margin. So legs stretch a
    skirt and cannot pass through it.

    Args:
        points: (P, 3) surface below the cloth, metres.
        centre: (3,) point of the cloth's vertical axis.
        heights: (rows,) metres.
        directions: number of directions, from +z towards +x.
        margin: distance of the cloth from the outline, metres.
        band: largest vertical distance of the points that count at a height, metres.

    Returns:
        Radius (rows, directions), metres.
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
