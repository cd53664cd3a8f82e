"""Check that cameras and frames are known, where the time between cameras counts."""

from gcl_fast.data.records import Records
from gcl_fast.errors import UserError


def check_time(records: Records, way_out: str) -> None:
    """Make sure that the camera and the frame of the crops are known.

    Args:
        records: the crops.
        way_out: the end of the message: how to go on without cameras and frames.

    Raises:
        UserError: a crop has no camera, no crop has a frame, or there are no crops.
    """
    if not len(records):
        raise UserError(f"joint visual-temporal similarity: there are no crops to learn it from. {way_out}")
    presence = {"camera": bool((records.camera > 0).all()), "frame": bool((records.frame > 0).any())}
    missing = [name for name, present in presence.items() if not present]
    if missing:
        raise UserError(
            f"joint visual-temporal similarity: no {' and no '.join(missing)} is known for the crops in {records.root} "
            f"(the first is {records.paths[0].name}); names such as "
            f"0002_c1s1_000451_01.jpg and a manifest give both. {way_out}"
        )
