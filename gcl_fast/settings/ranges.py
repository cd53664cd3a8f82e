"""Define the ranges that stand at the fields of settings, and check settings by them.

A range is the metadata of an `Annotated` type, as in `lr: NotNegative = 3.5e-4`. The check, the listing of settings and
the messages of errors read it there.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from gcl_fast.errors import UserError


@dataclass(frozen=True)
class Range:
    """Holds the numbers that a setting may have: finite ones from `least` to `most`.

    Attributes:
        least: the smallest number.
        most: the largest one; infinity for no limit.
        above: `least` itself is not among them.
        below: `most` itself is not among them.
        multiple: they are multiples of this integer.
    """

    least: float
    most: float = math.inf
    above: bool = False
    below: bool = False
    multiple: int = 1

    def __contains__(self, number: float) -> bool:
        beyond = number <= self.least if self.above else number < self.least
        beyond |= number >= self.most if self.below else number > self.most
        finite = isinstance(number, int) or math.isfinite(number)  # an integer may be too large for a float
        return finite and not beyond and (self.multiple == 1 or number % self.multiple == 0)

    def __str__(self) -> str:
        if self.most == math.inf:
            text = f"more than {self.least}" if self.above else f"{self.least} or more"
        else:
            text = f"{'above ' * self.above}{self.least} to {'below ' * self.below}{self.most}"
        return text + (f", a multiple of {self.multiple}" if self.multiple > 1 else "")


Count = Annotated[int, Range(1)]
Whole = Annotated[int, Range(0)]
Seed = Annotated[int, Range(0, 2**63 - 1)]  # torch's generators and the kernels take int64
Pixels = Annotated[int, Range(40, 4096, multiple=4)]  # as `check_size` asks
Positive = Annotated[float, Range(0, above=True)]
NotNegative = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]
ShareBelowOne = Annotated[float, Range(0, 1, below=True)]
Cosine = Annotated[float, Range(-1, 1)]
PathText = Annotated[str, "path"]  # of a file or folder: a leading ~ of the command line is the home folder


def field_types(kind: Any) -> dict[str, Any]:
    """Return the types of a dataclass's fields, with their ranges."""
    return _field_types(kind)


@functools.cache
def _field_types(kind: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def options_of(hint: Any) -> tuple[Any, ...]:
    """Return the types of a union, or the type itself alone."""
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def range_of(hint: Any) -> Range | None:
    """Return the range in a type, also within an optional type or a list; None without one.

    Example:
        >>> str(range_of(Count)), str(range_of(Share | None)), range_of(int)
        ('1 or more', '0 to 1', None)
    """
    if typing.get_origin(hint) is Annotated:
        return next((note for note in hint.__metadata__ if isinstance(note, Range)), None)
    if typing.get_origin(hint) is Literal:
        return None
    return next((found for part in typing.get_args(hint) if (found := range_of(part)) is not None), None)


def check_ranges(config: Any, prefix: str = "") -> None:
    """Check the settings in a dataclass and in those within it.

    Args:
        config: the dataclass.
        prefix: its dotted key with a dot at its end, "" for all settings.

    Raises:
        UserError: a setting is out of range; without this it would fail in its stage, after hours.
    """
    for name, hint in field_types(type(config)).items():
        value = getattr(config, name)
        if dataclasses.is_dataclass(value):
            check_ranges(value, f"{prefix}{name}.")
            continue
        allowed = range_of(hint)
        numbers = value if isinstance(value, tuple) else (value,)
        if allowed is not None and not all(n in allowed for n in numbers if isinstance(n, int | float)):
            shown = f"{list(value)}: expected numbers of " if isinstance(value, tuple) else f"{value}: expected "
            raise UserError(f"{prefix}{name}={shown}{', or '.join([str(allowed), *_words(hint)])}")


def paths_of(config: Any, prefix: str = "") -> dict[str, str]:
    """Return the settings that are paths, by dotted key, in a dataclass and in those within it."""
    paths: dict[str, str] = {}
    for name, hint in field_types(type(config)).items():
        value = getattr(config, name)
        if dataclasses.is_dataclass(value):
            paths |= paths_of(value, f"{prefix}{name}.")
        elif typing.get_origin(hint) is Annotated and "path" in hint.__metadata__:
            paths[prefix + name] = value
    return paths


def _words(hint: Any) -> list[str]:
    """Return the words that a type allows besides numbers, null among them."""
    words: list[str] = []
    for option in options_of(hint):
        words += map(str, typing.get_args(option)) if typing.get_origin(option) is Literal else ()
        words += ["null"] if option is type(None) else []
    return words
