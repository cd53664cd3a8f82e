"""Parse the arguments of a command: one sentence about wrong ones, and the arguments that several commands share."""

from __future__ import annotations

import argparse
import math
import sys
import textwrap
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from gcl_fast import __version__
from gcl_fast.entry import REFUSED, print_error
from gcl_fast.errors import UserError
from gcl_fast.settings import DATASETS
from gcl_fast.settings.ranges import Range

DEGREES = Range(-36_000, 36_000)  # of a yaw
PATHS = ("DIR", "FILE", "RUN", "PNG", "INDEX", "QUERY", "FOLDER", "IMAGES")  # names of values that are paths


class _HelpLines(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of the description, and breaks no line of a flag's help within a name such as cuhk03-np."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)


class Parser(argparse.ArgumentParser):
    """Parses the arguments of a command; wrong ones end the process in one sentence, with status 2.

    It has --help and --version, and names the flag that is nearest to an unknown one.

    Args:
        prog: how a user calls the command, such as "gcl-fast train".
        description: what the command does, for --help.
        **options: those of `argparse.ArgumentParser`.

    Example:
        >>> parser = Parser("gcl-fast train", "Train a run.")
        >>> action = parser.add_argument("--seed", type=int)
        >>> parser.parse_args(["--seed", "3"]).seed
        3
    """

    def __init__(self, prog: str, description: str, **options: Any) -> None:
        super().__init__(prog=prog, description=description, formatter_class=_HelpLines, **options)
        self.add_argument("--version", action="version", version=f"gcl_fast {__version__}", help="show the version")

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> argparse.Namespace:  # type: ignore[override]
        """Parse `args`, or the arguments of the process; what is unknown is refused before what is missing.

        A leading ~ in a path is the home folder, which a shell leaves as it is in --out=~/file.
        """
        return self._expanded(super().parse_args(self._known(args), namespace))

    def parse_intermixed_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> argparse.Namespace:  # type: ignore[override]
        """Parse `args` as `parse_args` does; a list of positional arguments may go on behind flags."""
        return self._expanded(super().parse_intermixed_args(self._known(args), namespace))

    def _expanded(self, options: argparse.Namespace) -> argparse.Namespace:
        """Return the options with the home folder in their paths."""
        try:
            for action in self._actions:
                value: Any = getattr(options, action.dest, None)
                if value is not None and (action.type is Path or action.metavar in PATHS):
                    expanded = [*map(from_home, value)] if isinstance(value, list) else from_home(value)
                    setattr(options, action.dest, expanded)
        except UserError as error:
            self.refuse(str(error))
        return options

    def _known(self, args: Sequence[str] | None) -> list[str]:
        """Return the arguments as text; end the process at a flag that is unknown."""
        args = sys.argv[1:] if args is None else [*map(str, args)]
        for argument in args[: args.index("--")] if "--" in args else args:
            flag = argument.partition("=")[0]
            if flag.startswith("--") and not any(known.startswith(flag) for known in self._option_string_actions):
                self.error(f"there is no flag {flag}{did_you_mean(flag, self._option_string_actions)}")
        return args

    def error(self, message: str) -> NoReturn:
        """Print the message and where the flags are listed, and end the process with status 2."""
        self.refuse(f"{message} ({self.prog} --help lists what there is)")

    def refuse(self, message: str) -> NoReturn:
        """Print the message in one line, and end the process with status 2."""
        print_error(message)
        self.exit(REFUSED)


def number(kind: Callable[[str], float], allowed: Range) -> Callable[[str], float]:
    """Return the type of a flag whose number must lie in a range.

    Args:
        kind: int or float.
        allowed: the range.

    Example:
        >>> number(int, Range(1))("3")
        3
    """

    def parse(text: str) -> float:
        """Return the number, or raise an error of argparse, which names the flag."""
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if value not in allowed:
            raise argparse.ArgumentTypeError(f"{text}: expected {allowed}")
        return value

    return parse


PathOrText = TypeVar("PathOrText", Path, str)


def from_home(path: PathOrText) -> PathOrText:
    """Return a path with a leading ~ as the home folder.

    Raises:
        UserError: there is no home folder.
    """
    if not str(path).startswith("~"):
        return path
    try:
        expanded = Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{path}: no home folder is known for ~; write the whole path, or set HOME") from error
    return expanded if isinstance(path, Path) else str(expanded)


def did_you_mean(word: str, known: Sequence[str] | Any) -> str:
    """Return "; did you mean ...?" with the nearest of `known`, or "" where none is near.

    Example:
        >>> did_you_mean("trian", ["train", "export"])
        '; did you mean train?'
        >>> did_you_mean("walk", ["train", "export"])
        ''
    """
    nearest = get_close_matches(word, [*known], 1)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what every command on trained weights takes: the run, other inputs than its own, precision and device."""
    parser.add_argument("run", type=Path, help="folder of a run, such as runs/NAME, or official weights")
    parser.add_argument(
        "--dataset",
        choices=DATASETS,
        metavar="NAME",
        help=f"another dataset than the run's (required for official weights): {', '.join(DATASETS)}",
    )
    parser.add_argument("--data-root", metavar="DIR", help="folder of the dataset")
    parser.add_argument(
        "--structure-maps", metavar="DIR", help="official pre-rendered structure maps instead of rendering"
    )
    parser.add_argument("--smpl", metavar="FILE", help="file of the SMPL body model, for body parameters of SMPL")
    add_precision(parser)
    add_device(parser)


def add_precision(parser: argparse.ArgumentParser) -> None:
    """Add --amp and --no-amp of a command on trained weights."""
    parser.add_argument(
        "--amp", action=argparse.BooleanOptionalAction, help="mixed precision (default: as the run was trained)"
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add --device, on which a command computes."""
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: cuda where there is a GPU"
    )
