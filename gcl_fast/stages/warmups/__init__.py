"""Holds the warm-ups by name."""

from __future__ import annotations

from collections.abc import Callable

from gcl_fast.distributed.ranks import Ranks
from gcl_fast.errors import UserError
from gcl_fast.inputs import Inputs
from gcl_fast.models import GCL
from gcl_fast.optim.precision import Precision
from gcl_fast.settings import RunConfig
from gcl_fast.stages.stage import Stage
from gcl_fast.stages.warmups.cluster import Warmup
from gcl_fast.stages.warmups.jvtc import JVTC
from gcl_fast.stages.warmups.mmcl import MMCL

WARMUPS: dict[str, Callable[..., Stage]] = {"cluster": Warmup, "jvtc": JVTC, "mmcl": MMCL}


def make_warmup(config: RunConfig, gcl: GCL, inputs: Inputs, ranks: Ranks, precision: Precision) -> Stage:
    """Make the warm-up that the settings name.

    Raises:
        UserError: the settings name no warm-up.
    """
    if config.warmup is None:
        raise UserError("--warmup none: there is no warm-up to run; leave it out of --stages")
    return WARMUPS[config.warmup.method](config, gcl, inputs, ranks, precision)
