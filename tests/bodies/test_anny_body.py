"""AnnyBody agrees with arrays by Anny itself, and behaves as a body must.

tests/golden/anny_vertices.npz holds 200 vertices of six bodies by anny 0.6.2 in float64, turned to our axes and set on
the ground. Pose parameters are "local-ref", with `reference_bone_orientations = None`, so that zero is the rest pose.
"""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from gcl_fast.bodies import AnnyBody, BodyParameters
from gcl_fast.bodies.anny_body import ASSET
from gcl_fast.bodies.rotation import axis_angle_to_matrix
from gcl_fast.errors import UserError

ADULT = torch.tensor([[0.0, 2 / 3, 0.5, 0.5, 0.48, 0.5]])


@pytest.fixture(scope="module")
def body():
    return AnnyBody()


def zero_pose(body, count=1):
    return torch.zeros(count, 3 * body.num_joints)


def test_vertices_are_those_of_anny(body, golden):
    with np.load(golden / "anny_vertices.npz", allow_pickle=False) as file:
        reference = {key: torch.from_numpy(file[key]) for key in file.files}
    vertices = body(reference["pose"], reference["shape"])
    error = (vertices[:, reference["index"]] - reference["vertices"]).norm(dim=-1)
    assert error.max() < 4e-3
    assert error.square().mean().sqrt() < 5e-4
    torch.testing.assert_close(vertices[..., 1].amax(1), reference["height"], atol=3e-3, rtol=0)


def test_needs_a_small_asset_and_no_anny(body):
    assert ASSET.stat().st_size < 2 * 2**20
    assert "anny" not in sys.modules  # although `body` exists


def test_stands_on_the_ground_with_the_pelvis_above_the_origin(body):
    pose = torch.randn(4, 3 * body.num_joints, generator=torch.Generator().manual_seed(0)) * 0.3
    posed = body.articulate(pose, torch.rand(4, 6, generator=torch.Generator().manual_seed(1)))
    assert posed.vertices[..., 1].amin(1).abs().max() < 1e-6
    assert posed.joints[:, 0, [0, 2]].abs().max() < 1e-5
    assert (posed.joints[:, 0, 1] > 0.2).all()


def test_faces_the_camera_with_its_left_on_positive_x(body):
    joints = body.articulate(zero_pose(body), ADULT).joints[0]
    place = dict(zip(body.joint_names, joints))
    for name in ("hip", "knee", "ankle", "shoulder", "elbow", "wrist"):
        assert place[f"left_{name}"][0] > 0.05 > -0.05 > place[f"right_{name}"][0]
    face = body.template[body.part == body.part_names.index("head")]
    assert face[:, 2].max() > 0.1 > -face[:, 2].min()  # the nose points to the front
    foot = body.template[body.part == body.part_names.index("left_foot")]
    assert foot[:, 2].max() > 0.15  # the toes point to the front


def test_faces_are_counter_clockwise_and_closed_enough_to_hold_a_body(body):
    corners = body(zero_pose(body), ADULT)[0][body.faces]
    volume = torch.linalg.cross(corners[:, 0], corners[:, 1]).mul(corners[:, 2]).sum() / 6
    assert 0.05 < volume < 0.12  # cubic metres of a person


def test_turning_the_pelvis_turns_the_whole_body(body):
    pose = zero_pose(body)
    rest = body.articulate(pose, ADULT)
    pose[:, :3] = torch.tensor([0.2, 0.9, -0.1])
    posed = body.articulate(pose, ADULT)
    rotation = axis_angle_to_matrix(pose[:, :3])[0]
    expected = (rest.vertices - rest.joints[:, :1]) @ rotation.T
    torch.testing.assert_close(posed.vertices - posed.joints[:, :1], expected, atol=1e-5, rtol=0)


def test_a_knee_moves_only_what_hangs_below_it(body):
    pose = zero_pose(body)
    knee = body.joint_names.index("left_knee")
    pose[0, 3 * knee] = 1.0  # heel backwards
    rest, bent = (body.articulate(p, ADULT) for p in (zero_pose(body), pose))
    change = bent.vertices - bent.joints[:, :1] - (rest.vertices - rest.joints[:, :1])
    parts = {name: change[0, body.part == i].norm(dim=-1) for i, name in enumerate(body.part_names)}
    for name in ("head", "torso", "right_upper_leg", "right_lower_leg", "right_foot", "left_hand"):
        assert parts[name].max() < 1e-5, name
    assert parts["left_foot"].min() > 0.2
    assert change[0, body.part == body.part_names.index("left_foot"), 2].max() < 0


def test_phenotypes_do_what_they_are_called(body):
    shapes = ADULT.repeat(7, 1)
    shapes[1, 4] = 0.7  # height
    shapes[2, 3] = 1.0  # weight
    shapes[3, 1] = 1 / 3  # a child
    shapes[4:6, 1] = torch.tensor([1.0, 1.5])  # values outside 0..1 are clamped
    vertices = body(zero_pose(body, 7), shapes)
    height = vertices[..., 1].amax(1)
    assert 1.6 < height[0] < 1.95
    assert height[1] > height[0] + 0.1
    assert height[3] < height[0] - 0.2
    corners = vertices[:, body.faces]
    volume = torch.linalg.cross(corners[:, :, 0], corners[:, :, 1]).mul(corners[:, :, 2]).sum((1, 2)) / 6
    assert volume[2] > 1.05 * volume[0]
    torch.testing.assert_close(vertices[4], vertices[5])
    torch.testing.assert_close(vertices[0], vertices[6])


def test_bodies_of_a_batch_do_not_touch_each_other(body):
    generator = torch.Generator().manual_seed(2)
    pose, shape = torch.randn(5, 57, generator=generator) * 0.2, torch.rand(5, 6, generator=generator)
    single = torch.cat([body(pose[i : i + 1], shape[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(body(pose, shape), single, atol=2e-6, rtol=0)
    assert body(pose[:0], shape[:0]).shape == (0, len(body.part), 3)


def test_gradients_reach_pose_and_shape_and_are_finite_at_zero(body):
    pose, shape = zero_pose(body).requires_grad_(), ADULT.clone().requires_grad_()
    body(pose, shape).square().sum().backward()
    for gradient in (pose.grad, shape.grad):
        assert gradient.isfinite().all()
        assert gradient.abs().max() > 0
    # the slope along one coordinate, by finite differences
    step = torch.zeros_like(pose)
    step[0, 3 * body.joint_names.index("left_shoulder") + 2] = 1e-2
    with torch.no_grad():
        rise = (body(step, ADULT).double().square().sum() - body(-step, ADULT).double().square().sum()) / 2e-2
    torch.testing.assert_close(pose.grad[step > 0].double(), rise[None], rtol=1e-2, atol=1.0)


def test_is_one_graph_for_the_compiler(body):
    pose = torch.randn(2, 57, generator=torch.Generator().manual_seed(3)) * 0.1
    compiled = torch.compile(body.forward, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(pose, ADULT.expand(2, -1)), body(pose, ADULT.expand(2, -1)))


def test_wrong_widths_are_named(body):
    with pytest.raises(ValueError, match=r"pose must be \(B, 57\)"):
        body(torch.zeros(1, 72), ADULT)
    for columns in (5, 10):
        with pytest.raises(ValueError, match=f"shape has {columns} columns, expected 6"):
            body(zero_pose(body), torch.zeros(1, columns))
    with pytest.raises(ValueError, match="one row per body"):
        body(zero_pose(body, 2), ADULT)
    with pytest.raises(ValueError, match="both pose and shape"):
        body(zero_pose(body))


def test_body_parameters_are_taken_whole(body):
    one = torch.ones(1)
    params = BodyParameters(["a.jpg"], "anny", zero_pose(body) + 0.1, ADULT, one, torch.ones(1, 4), one)
    assert torch.equal(body(params), body(params.pose, params.shape))
    with pytest.raises(UserError, match="body model 'smpl', not 'anny'"):
        body(replace(params, model="smpl"))


def test_autocast_does_not_touch_the_vertices(body):
    pose = torch.randn(2, 57, generator=torch.Generator().manual_seed(5)) * 0.2
    with torch.autocast("cpu", torch.bfloat16):
        inside = body(pose, ADULT.expand(2, -1))
    assert torch.equal(inside, body(pose, ADULT.expand(2, -1)))


def test_every_vertex_has_a_part_and_limbs_run_from_joint_to_joint(body):
    counts = torch.bincount(body.part, minlength=len(body.part_names))
    assert (counts > 100).all()
    for side, sign in (("left", 1), ("right", -1)):
        for limb in ("upper_arm", "lower_arm", "hand", "upper_leg", "lower_leg", "foot"):
            mask = body.part == body.part_names.index(f"{side}_{limb}")
            assert (body.template[mask, 0] * sign > 0).all()
        mask = body.part == body.part_names.index(f"{side}_lower_leg")
        height, along = body.template[mask, 1], body.along[mask]
        assert torch.corrcoef(torch.stack((height, along)))[0, 1] < -0.99  # 0 at the knee, 1 at the ankle


def test_a_gpu_gives_the_same_vertices(body, device):
    generator = torch.Generator().manual_seed(4)
    pose, shape = torch.randn(3, 57, generator=generator) * 0.2, torch.rand(3, 6, generator=generator)
    vertices = AnnyBody().to(device)(pose.to(device), shape.to(device))
    assert vertices.device.type == device
    torch.testing.assert_close(vertices.cpu(), body(pose, shape), atol=2e-3, rtol=0)  # TF32 may be on
