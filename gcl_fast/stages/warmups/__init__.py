"""The warm-ups by name."""

from __future__ import annotations

from collections.abc import Callable

from gcl_fast.errors import UserError
from gcl_fast.settings import RunConfig
from gcl_fast.stages.stage import Stage
from gcl_fast.stages.warmups.cluster import Warmup
from gcl_fast.stages.warmups.jvtc import JVTC
from gcl_fast.stages.warmups.mmcl import MMCL

WARMUPS: dict[str, Callable[..., Stage]] = {"cluster": Warmup, "jvtc": JVTC, "mmcl": MMCL}


def warmup_of(config: RunConfig) -> Callable[..., Stage]:
    """The stage that `config` warms up with.

    Raises:
        UserError: it has none.
    """
    if config.warmup is None:
        raise UserError("--warmup none: there is no warm-up to run; leave it out of --stages")
    return WARMUPS[config.warmup.method]
