"""List every setting with its value, its type and its meaning, which is the comment at its field."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
import typing
from typing import Any

import yaml

from gcl_fast.settings.ranges import field_types, options_of, range_of
from gcl_fast.settings.settings import RunConfig


def list_settings(config: RunConfig) -> str:
    """Return a line for each setting: its key for --set, its value in `config`, its type or choices, its meaning.

    Example:
        >>> (line,) = [line for line in list_settings(RunConfig()).splitlines() if line.startswith("log_every")]
        >>> " ".join(line.split())
        'log_every 10 int: 1 or more steps between two records of the losses'
    """
    rows = [("setting", "value", "type", "meaning"), *_rows(config, "")]
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def _rows(config: Any, prefix: str) -> list[tuple[str, str, str, str]]:
    """Return the cells of the settings in a dataclass and in those within it."""
    rows, hints, meanings = [], typing.get_type_hints(type(config)), comments(type(config))
    for name in (field.name for field in dataclasses.fields(config)):
        value = getattr(config, name)
        if dataclasses.is_dataclass(value):
            rows += _rows(value, f"{prefix}{name}.")
        else:
            allowed = range_of(field_types(type(config))[name])
            kind = _type(hints[name]) + (f": {allowed}" if allowed is not None else "")
            rows.append((prefix + name, _text(value), kind, meanings.get(name, "")))
    return rows


def comments(kind: type) -> dict[str, str]:
    """Return the comments at the fields of a dataclass: of the lines before a field, then of its own line."""
    source = textwrap.dedent(inspect.getsource(kind))
    lines = source.splitlines()
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.ClassDef)
    meanings = {}
    for node in definition.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            first = node.lineno - 1
            while lines[first - 1].lstrip().startswith("#"):
                first -= 1
            # From the end of the statement on: its text may hold a "#", and counts bytes
            rest = lines[(node.end_lineno or node.lineno) - 1].encode()[node.end_col_offset :].decode()
            parts = [line.strip().lstrip("# ") for line in [*lines[first : node.lineno - 1], rest]]
            meanings[node.target.id] = " ".join(filter(None, parts))
    return meanings


def _type(hint: Any) -> str:
    """Return the name of a type, or the choices of a Literal."""
    if len(options := options_of(hint)) > 1:
        names = ["settings" if dataclasses.is_dataclass(option) else _type(option) for option in options]
        return " or ".join(dict.fromkeys(names))
    if typing.get_origin(hint) is typing.Literal:
        return "|".join(map(str, typing.get_args(hint)))
    if typing.get_origin(hint) is tuple:
        elements = typing.get_args(hint)
        count = "" if elements[-1] is Ellipsis else f"{len(elements)} "
        return f"list of {count}{_type(elements[0])}"
    return {type(None): "null"}.get(hint, hint.__name__)


def _text(value: Any) -> str:
    """Return a value as --set takes it: YAML on one line."""
    plain = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump([plain], default_flow_style=True, width=10_000).strip()[1:-1]
