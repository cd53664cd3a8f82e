"""People walk through a camera's view, and the boxes are where the frame differs from the empty place."""

import numpy as np
import pytest

from gcl_fast.settings import WorldConfig
from gcl_fast.synthetic import walks
from gcl_fast.synthetic.walks import FRAME, Walk, film, plan_walks
from gcl_fast.synthetic.world import TEST, TRAIN

CONFIG = WorldConfig(identities=3, cameras=2, seed=4)
PEOPLE = [(TRAIN, 0), (TRAIN, 1), (TEST, 0), (TRAIN, 0)]
GAIT = {"stride": 0.8, "arm_swing": 0.8, "phase": 0.2}


def standing(person: int, depth: float, across: float, frames: int = 1) -> Walk:
    """Return a person who stands at a place."""
    return Walk((TRAIN, person), 0, np.tile([depth, across], (frames, 1)), 0.0, GAIT, 0)


@pytest.fixture
def no_grain(monkeypatch):
    """Leave out the grain and the drift of the exposure."""
    monkeypatch.setattr(walks, "gaussian_filter", lambda grain, sigma: np.zeros_like(grain))
    monkeypatch.setattr(walks, "DRIFT", 0.0)


def test_everybody_passes_in_a_straight_line_at_a_walking_pace():
    planned = plan_walks(CONFIG, 1, PEOPLE)
    assert sorted(walk.person for walk in planned) == sorted(PEOPLE)
    assert [walk.begin for walk in planned] == sorted(walk.begin for walk in planned)
    for walk in planned:
        assert walks.LEAST_FRAMES <= len(walk.places) <= walks.MOST_FRAMES
        steps = np.diff(walk.places, axis=0)
        np.testing.assert_allclose(steps, np.broadcast_to(steps[0], steps.shape))
        speed = np.linalg.norm(steps[0]) * walks.FRAMES_A_SECOND
        assert walks.SPEED[0] <= speed <= walks.SPEED[1]
        ahead = np.array([-np.cos(np.radians(walk.yaw)), np.sin(np.radians(walk.yaw))])
        np.testing.assert_allclose(steps[0] / np.linalg.norm(steps[0]), ahead, atol=1e-9)


def test_a_film_is_a_function_of_the_world_and_the_walks():
    planned = plan_walks(CONFIG, 0, PEOPLE[:2])
    frames = [next(film(CONFIG, 0, plan)) for plan in (planned, plan_walks(CONFIG, 0, PEOPLE[:2]))]
    assert frames[0][0].shape == (*FRAME, 3)
    assert np.array_equal(frames[0][0], frames[1][0])
    assert frames[0][1] == frames[1][1]


def test_boxes_are_where_people_are(no_grain):
    (image, (box,)) = next(film(CONFIG, 0, [standing(0, 6.0, 0.5)]))
    empty, boxes = next(film(CONFIG, 0, [standing(0, 6.0, 90.0)]))
    assert boxes == []  # far outside the view
    changed = np.abs(image.astype(int) - empty).max(2) > 60
    rows, columns = np.nonzero(changed)
    assert box.visibility == 1
    inside = (rows >= box.top) & (rows < box.top + box.height) & (columns >= box.left)
    inside &= columns < box.left + box.width
    assert inside.mean() > 0.98  # all but blurred edges
    assert abs(rows.min() - box.top) <= 4
    assert box.height == pytest.approx(600 * 0.6 / 6 * 1.75, rel=0.15)  # of somebody of 1.75 m


def test_who_is_nearer_hides_others(no_grain):
    _, boxes = next(film(CONFIG, 0, [standing(0, 5.5, 0.0), standing(1, 7.0, 0.1)]))
    nearer, farther = boxes
    assert (nearer.walk, farther.walk) == (0, 1)
    assert nearer.visibility == 1
    assert farther.visibility < 0.5


def test_people_at_the_border_have_the_box_of_what_is_seen(no_grain):
    half = walks._half_width(6.0)
    _, (box,) = next(film(CONFIG, 0, [standing(0, 6.0, half)]))
    assert box.left + box.width == FRAME[1]
    assert box.visibility == 1
