"""Compute confidence intervals of figures over seeds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import t


def interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean, and half the width of its 95 % confidence interval by Student's t; None from one value."""
    if len(values) < 2:
        return float(values[0]), None
    error = float(np.std(values, ddof=1)) / len(values) ** 0.5
    return float(np.mean(values)), float(t.ppf(0.975, len(values) - 1)) * error
