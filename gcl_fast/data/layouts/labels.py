"""Turn labels of people, cameras and tracklets into numbers; labels may be text."""

from __future__ import annotations

import re
from collections.abc import Sequence

from gcl_fast.data.layouts.reading import first_of

# Spreadsheets write 3.0 for 3 in a column with empty cells. More digits than int64 has are text
NUMBER = re.compile(r"(-?\d{1,18})(?:\.0*)?")

# c1, C2, cam1, camera_1; a letter needs the whole word and a separator, as in cam_a
CAMERA = re.compile(r"(?<![a-z])c(?:am(?:era)?)?[ _-]?(\d{1,4})(?!\d)", re.IGNORECASE)
CAMERA_LETTER = re.compile(r"(?<![a-z])cam(?:era)?[ _-]([a-z])(?![a-z0-9])", re.IGNORECASE)


def number_labels(labels: Sequence[str], unknown: int) -> tuple[list[int], str]:
    """Return a number for each label, and a sentence on the numbering where the labels are text.

    Integers stay as they are. Where one label is no integer, all are numbered in sorted order, from 1.

    Args:
        labels: N labels; an empty one is unknown.
        unknown: the number of an unknown label.

    Example:
        >>> number_labels(["hall", "", "door"], unknown=0)
        ([2, 0, 1], 'numbered in sorted order: 1 is door, 2 is hall')
        >>> number_labels(["7", "3.0"], unknown=0)
        ([7, 3], '')
    """
    matches = [NUMBER.fullmatch(label) for label in labels]
    if all(match is not None or not label for match, label in zip(matches, labels)):
        return [unknown if match is None else int(match[1]) for match in matches], ""
    texts = sorted(set(labels) - {""})
    numbers = {text: number for number, text in enumerate(texts, 1)} | {"": unknown}
    legend = first_of([f"{number} is {text}" for text, number in numbers.items() if text])
    return [numbers[label] for label in labels], f"numbered in sorted order: {legend}"


def camera_in(*names: str) -> str:
    """Return the camera that the first name with one gives, or "".

    Example:
        >>> camera_in("0002_c1s1_000451_03.jpg"), camera_in("0001.jpg", "cam_b"), camera_in("crop1.jpg")
        ('1', 'b', '')
    """
    for name in names:
        if match := CAMERA.search(name) or CAMERA_LETTER.search(name):
            return match[1].lower()
    return ""
