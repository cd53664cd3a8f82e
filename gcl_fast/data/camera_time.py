"""Makes sure that cameras and frames are known where time between cameras is to count."""

from gcl_fast.data.records import Records
from gcl_fast.errors import UserError


def check_time(records: Records, way_out: str) -> None:
    """Make sure that the camera and the frame of the crops are known.

    Args:
        way_out: how to go on without, for the message.

    Raises:
        UserError: a crop without a camera, or not one with a frame.
    """
    known = {"camera": bool((records.camera > 0).all()), "frame": bool((records.frame > 0).any())}
    missing = [name for name, there in known.items() if not there]
    if missing:
        raise UserError(
            f"joint visual-temporal similarity: no {' and no '.join(missing)} is known of the crops in {records.root} "
            f"(the first is {records.paths[0].name}); names such as 0002_c1s1_000451_01.jpg tell both. {way_out}"
        )
