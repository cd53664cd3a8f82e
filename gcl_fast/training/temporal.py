"""Time between cameras as a run knows it: from its own pseudo-labels, never from identities."""

from __future__ import annotations

from gcl_fast.data import Records
from gcl_fast.errors import UserError


def check_time(records: Records, way_out: str) -> None:
    """Make sure that the camera and the frame of the crops are known.

    Args:
        way_out: how to go on without, for the message.

    Raises:
        UserError: a crop without a camera, or not one with a frame.
    """
    missing = [
        name
        for name, known in (("camera", bool((records.camera > 0).all())), ("frame", bool((records.frame > 0).any())))
        if not known
    ]
    if missing:
        raise UserError(
            f"joint visual-temporal similarity: no {' and no '.join(missing)} is known of the crops in {records.root} "
            f"(the first is {records.paths[0].name}); names such as 0002_c1s1_000451_01.jpg tell both. {way_out}"
        )
