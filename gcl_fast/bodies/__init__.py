"""Pose body models, read and write body-parameter files, and make structure maps."""

from typing import TYPE_CHECKING, Any

from gcl_fast.bodies.anny_body import AnnyBody
from gcl_fast.bodies.body_model import BodyModel, Posed
from gcl_fast.bodies.donors import make_donors
from gcl_fast.bodies.gait import walking_pose
from gcl_fast.bodies.parameters import BodyParameters, align, load_body_parameters, save_body_parameters
from gcl_fast.bodies.smpl import SMPLBody
from gcl_fast.bodies.structure_maps import OnlineStructureMaps, PrerenderedStructureMaps

if TYPE_CHECKING:
    from gcl_fast.bodies.estimates import import_estimates

__all__ = [
    "AnnyBody",
    "BodyModel",
    "BodyParameters",
    "OnlineStructureMaps",
    "Posed",
    "PrerenderedStructureMaps",
    "SMPLBody",
    "align",
    "import_estimates",
    "load_body_parameters",
    "make_donors",
    "save_body_parameters",
    "walking_pose",
]


def __getattr__(name: str) -> Any:
    """Import `estimates` when it is first asked for: it is a command as well, and `python -m` imports it itself."""
    if name == "import_estimates":
        from gcl_fast.bodies.estimates import import_estimates

        return import_estimates
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
