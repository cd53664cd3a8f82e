"""Choose the donors of each vertex: the vertices that lend it their colour where a crop does not show it.

Clothes are alike on both sides of a person, and mostly in front and behind. So the donors of a point are its mirror
image, and the points across its limb along the body's depth and width, with their mirror images. From every side the
camera sees one of these eight, unless another part of the body hides it. Then the nearest of some landmarks, spread
over the body, serve.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from gcl_fast.kernels.structure_maps import vertex_normals
from gcl_fast.kernels.transfer_appearance import Donors

WEIGHTS = (0.6, 0.4, 0.35, 0.3, 0.3, 0.25, 0.25)  # of the mirror image, of the others as `make_donors` lists them
LANDMARK_WEIGHTS = (0.1, 0.08, 0.06, 0.05)
LANDMARKS = 64  # vertices spread over the body
DEPTH = 0.35  # factor of the depth where landmarks are near: front and back of a jacket share their colour
NORMAL = 0.1  # metres that a unit of the normal counts in a search
ACROSS = 0.15  # factor of the axis along which a search crosses the limb


def make_donors(vertices: Tensor, faces: Tensor) -> Donors:
    """Choose the donors of each vertex of a body.

    Args:
        vertices: (V, 3) of the body in its rest pose in metres: y up, facing +z, the left hand towards +x.
        faces: (F, 3) int64, counter-clockwise seen from outside.

    Returns:
        For each vertex 11 others, the best one first: its mirror image, the point across the limb along z, that one's
        mirror image, the point across along x, its mirror image, the point across along both, its mirror image, and
        the four nearest landmarks.

    Example:
        >>> from gcl_fast.bodies import AnnyBody
        >>> body = AnnyBody()
        >>> donors = make_donors(body.template, body.faces)
        >>> hand = int(body.template[:, 0].argmax())  # of the left hand
        >>> float(body.template[hand, 0]) > 0.5, float(body.template[donors.vertex[hand, 0], 0]) < -0.5
        (True, True)
    """
    place = vertices.double().cpu().numpy()
    normal = vertex_normals(vertices[None], faces)[0].double().cpu().numpy()

    def nearest(place_factor: tuple[float, ...], search: tuple[float, ...], normal_factor: tuple[float, ...]) -> Tensor:
        """Return for each vertex, moved by the factors, the vertex that is nearest in place and normal."""
        tree = cKDTree(np.hstack((place * np.abs(place_factor), NORMAL * normal * np.abs(normal_factor))))
        return torch.from_numpy(tree.query(np.hstack((place * search, NORMAL * normal * normal_factor)))[1])

    mirror = nearest((1, 1, 1), (-1, 1, 1), (-1, 1, 1))
    in_depth = nearest((1, 1, ACROSS), (1, 1, ACROSS), (0.6, 0.6, -0.6))
    in_width = nearest((ACROSS, 1, 1), (ACROSS, 1, 1), (-0.6, 0.6, 0.6))
    both = in_width[in_depth]
    lists = [mirror, in_depth, mirror[in_depth], in_width, mirror[in_width], both, mirror[both]]
    near = _nearest_landmarks(place * (1, 1, DEPTH), len(LANDMARK_WEIGHTS))
    vertex = torch.cat((torch.stack(lists, 1), near), 1).int()
    return Donors(vertex.to(vertices.device), vertices.new_tensor([*WEIGHTS, *LANDMARK_WEIGHTS]))


def _nearest_landmarks(place: np.ndarray, count: int) -> Tensor:
    """Return the `count` nearest landmarks of each vertex, (V, count), by farthest-point sampling."""
    landmarks = [0]
    distance = np.full(len(place), np.inf)
    for _ in range(max(LANDMARKS, count) - 1):
        distance = np.minimum(distance, np.linalg.norm(place - place[landmarks[-1]], axis=1))
        landmarks.append(int(distance.argmax()))
    order = cKDTree(place[landmarks]).query(place, count)[1]
    return torch.from_numpy(np.array(landmarks)[order])
