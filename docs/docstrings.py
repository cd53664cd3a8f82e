"""Teach griffe how the docstrings of this package are written.

`Example:` is code: griffe calls that section `Examples:`, and takes the other for prose. One line of `Args:` may
describe several parameters, `query_ids, gallery_ids: ...`; each of them must be a parameter of the call.
"""

import re
from typing import Any

import griffe

EXAMPLE = re.compile(r"^Example:$", re.MULTILINE)
ARGUMENTS = re.compile(r"^Args:\n((?: {4}.*\n?|\n)*)", re.MULTILINE)
NAMES = re.compile(r"^ {4}([*\w]+(?:, [*\w]+)*): ", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Changes and checks every docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rename the section of examples, and warn of a described parameter that the call does not take."""
        if obj.docstring is None:
            return
        text = obj.docstring.value = EXAMPLE.sub("Examples:", obj.docstring.value)
        if not isinstance(obj, griffe.Function):
            return
        known = {parameter.name for parameter in obj.parameters}
        described = [
            name.strip("* ")
            for block in ARGUMENTS.findall(text)
            for line in NAMES.findall(block)
            for name in line.split(",")
        ]
        for name in described:
            if name not in known:
                griffe.logger.warning(f"{obj.path}: Args describes {name}, which is no parameter")
