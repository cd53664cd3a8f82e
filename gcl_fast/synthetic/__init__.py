"""Make the embedded dataset: a small synthetic world of clothed people and several cameras, in Market-1501's layout.

A name is imported with its module when it is used, so that `gcl-fast synthetic --help` waits for no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

from gcl_fast.settings import WorldConfig

if TYPE_CHECKING:
    from gcl_fast.synthetic.colour_baseline import colour_retrieval
    from gcl_fast.synthetic.world_folder import make_world, read_config, true_views

__all__ = ["WorldConfig", "colour_retrieval", "make_world", "read_config", "true_views"]

_MODULES = {"colour_retrieval": "colour_baseline"} | dict.fromkeys(
    ("make_world", "read_config", "true_views"), "world_folder"
)


def __getattr__(name: str) -> Any:
    """Return a name of `__all__` from its module."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
