"""Walking poses alternate left and right by half a cycle, and the legs and arms move as in a step."""

import pytest
import torch

from gcl_fast.bodies import AnnyBody, walking_pose

ADULT = torch.tensor([[0.5, 2 / 3, 0.5, 0.5, 0.48, 0.5]])


@pytest.fixture(scope="module")
def body():
    return AnnyBody()


def mirrored(pose, names):
    """Return the pose of the mirror image: sides are swapped, and rotations about y and z are reversed."""
    swap = [names.index(n.replace("left", "?").replace("right", "left").replace("?", "right")) for n in names]
    return (pose.unflatten(1, (-1, 3))[:, swap] * torch.tensor([1.0, -1.0, -1.0])).flatten(1)


def test_half_a_cycle_later_is_the_mirror_image(body):
    phase = torch.linspace(0, 1, 9)
    later = walking_pose(phase + 0.5, 0.9, 1.1, elbow=20.0)
    torch.testing.assert_close(
        later, mirrored(walking_pose(phase, 0.9, 1.1, elbow=20.0), body.joint_names), atol=1e-5, rtol=0
    )


def test_the_cycle_closes():
    torch.testing.assert_close(walking_pose(torch.tensor([0.3])), walking_pose(torch.tensor([1.3])), atol=1e-5, rtol=0)


def test_at_the_left_heel_strike_the_left_leg_and_the_right_arm_are_in_front(body):
    joints = body.articulate(walking_pose(torch.zeros(1)), ADULT).joints[0]
    z = {name: float(joint[2]) for name, joint in zip(body.joint_names, joints)}
    assert z["left_ankle"] > z["right_ankle"] + 0.4
    assert z["right_wrist"] > z["left_wrist"] + 0.2


def test_the_swinging_foot_leaves_the_ground_and_the_standing_knee_is_nearly_straight(body):
    posed = body.articulate(walking_pose(torch.tensor([0.75])), ADULT)  # the left leg swings, the right one stands
    y = {name: float(joint[1]) for name, joint in zip(body.joint_names, posed.joints[0])}
    assert y["left_ankle"] > y["right_ankle"] + 0.1
    pose = walking_pose(torch.tensor([0.75])).unflatten(1, (-1, 3))[0]
    assert pose[body.joint_names.index("left_knee"), 0] > 0.8
    assert pose[body.joint_names.index("right_knee"), 0] < 0.3


def test_standing_is_still_and_symmetric(body):
    stand = walking_pose(torch.tensor([0.1, 0.6]), 0.0, 0.0)
    torch.testing.assert_close(stand[0], stand[1])
    joints = body.articulate(stand[:1], ADULT).joints[0]
    wrist = joints[body.joint_names.index("left_wrist")]
    hip = joints[body.joint_names.index("left_hip")]
    assert abs(float(wrist[1] - hip[1])) < 0.2  # the hands hang next to the hips
    assert 0.08 < float(wrist[0] - hip[0]) < 0.3  # and outside of the thighs


def test_arguments_can_differ_per_body_and_do_what_they_say(body):
    phase = torch.full((3,), 0.2)
    pose = walking_pose(
        phase,
        torch.tensor([0.0, 0.5, 1.0]),
        torch.tensor([0.0, 0.5, 1.0]),
        lean=torch.tensor([0.0, 10.0, 20.0]),
        head_turn=torch.tensor([0.0, 30.0, -30.0]),
    )
    joints = body.articulate(pose, ADULT.expand(3, -1)).joints
    head, hip = joints[:, body.joint_names.index("head")], joints[:, 0]
    forward = (head - hip)[:, 2]
    assert forward[0] < forward[1] < forward[2]
    torch.testing.assert_close(pose[1:2], walking_pose(phase[:1], 0.5, 0.5, lean=10.0, head_turn=30.0))
    rotations = body.articulate(pose, ADULT.expand(3, -1)).rotations[:, body.joint_names.index("head")]
    facing = rotations[:, 0, 2]  # x of the head's front: positive is to the person's left
    assert facing[1] > 0.3
    assert facing[2] < -0.3
