"""The learning rate over a stage: a linear rise, a constant share, a cosine to zero."""

import math

import pytest

from gcl_fast.optim.schedule import ramp_then_cosine


def test_rise_constant_share_and_cosine():
    factors = [ramp_then_cosine(step, 100, 10, 0.4) for step in range(100)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[10:40] == [1.0] * 30
    assert factors[70] == pytest.approx(0.5, abs=0.02)
    assert factors[40:] == pytest.approx(
        [0.5 * (1 + math.cos(math.pi * (s - 40) / 60)) for s in range(40, 100)], abs=0.03
    )
    assert factors == sorted(factors[:10]) + sorted(factors[10:], reverse=True)
    assert factors[-1] < 0.01


def test_without_a_rise_the_first_step_has_the_whole_rate():
    assert ramp_then_cosine(0, 100, 0, 1.0) == 1.0
    assert ramp_then_cosine(99, 100, 0, 1.0) == 1.0
