"""Build query and gallery of labelled crops that come without them, by a fixed rule.

The protocol of evaluation drops gallery crops of the query's person in the query's camera. A query therefore needs a
crop of its person in another camera, which the rule ensures for each query:

1. People count whom two cameras or more have seen.
2. The first crop of such a person in each camera is a query, unless it is the only one of that camera. Where each
   camera has one crop alone, that of the first camera is the query.
3. All other crops are the gallery, with those of people whom one camera has seen.
4. Crops without identity or camera are left out, since a match with them could not be judged.

"First" is the order of the paths. Where tracklets are known, the rule takes a whole tracklet for a crop.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from gcl_fast.data.layouts.reading import Reading, Row

RULE = "of people in two cameras or more, the first {unit} in each camera is a query, the rest is the gallery"


def build_query_gallery(rows: Sequence[Row], reading: Reading, source: str) -> tuple[list[Row], list[Row]]:
    """Divide labelled crops into queries and gallery; both are empty where no person is seen by two cameras.

    Args:
        rows: the crops in record order; an identity of -1 and a camera of 0 are unknown.
        reading: takes a note on what was built, or why nothing was.
        source: where the crops come from, for the note.
    """
    known = [row for row in rows if row.identity >= 0 and row.camera > 0]
    first = _queries(known)
    if not first:
        if any(row.identity > 0 for row in rows):
            reading.notes.append(
                f"{reading.name}: no person in {source} was seen by two known cameras, so there is no query and"
                " gallery, and nothing can be evaluated"
            )
        return [], []
    query = [row for row in known if _unit(row) in first]
    gallery = [row for row in known if _unit(row) not in first]
    unit = "crop" if all(row.tracklet < 0 for row in known) else "tracklet"
    left_out = len(rows) - len(known)
    without = f"; {left_out:,} without identity or camera are left out" if left_out else ""
    reading.notes.append(
        f"{reading.name}: query ({len(query):,} crops) and gallery ({len(gallery):,}) are chosen from {source}:"
        f" {RULE.format(unit=unit)}{without}"
    )
    return query, gallery


def _queries(rows: Sequence[Row]) -> set[object]:
    """Return the units that are queries, by rules 1 and 2."""
    queries: set[object] = set()
    by_person = lambda row: row.identity
    for identity, crops in groupby(sorted(rows, key=by_person), by_person):
        units: dict[int, list[object]] = {}  # the units of each camera, in the order of the rows
        for row in crops:
            of_camera = units.setdefault(row.camera, [])
            if _unit(row) not in of_camera[-1:]:
                of_camera.append(_unit(row))
        if identity == 0 or len(units) < 2:
            continue
        several = [of_camera[0] for of_camera in units.values() if len(set(of_camera)) > 1]
        queries.update(several or [units[min(units)][0]])
    return queries


def _unit(row: Row) -> object:
    """Return what the rule counts: the tracklet of a crop, or the crop where that is unknown."""
    return row.path if row.tracklet < 0 else row.tracklet
