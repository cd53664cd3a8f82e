"""Compute confidence intervals of figures over seeds, and write them."""

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


def interval_text(values: Sequence[float], form: str = ".1f") -> str:
    """Return the mean, with half the width of its 95 % confidence interval where there are several values.

    Args:
        values: one for each seed or run.
        form: format of the mean; the half-width has the same without its sign.

    Example:
        >>> interval_text([1.0, 1.2, 1.4]), interval_text([0.5], "+.2f")
        ('1.2 ± 0.5', '+0.50')
    """
    mean, half = interval(values)
    return format(mean, form) + ("" if half is None else f" ± {format(half, form.removeprefix('+'))}")
