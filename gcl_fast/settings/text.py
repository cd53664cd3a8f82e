"""Convert settings to text and back: `KEY=VALUE` overrides, the dictionaries of config.yaml, and their differences."""

from __future__ import annotations

import copy
import dataclasses
import typing
from typing import Any

import yaml

from gcl_fast.errors import UserError
from gcl_fast.settings.ranges import options_of
from gcl_fast.settings.settings import RunConfig


def override(config: RunConfig, assignments: list[str]) -> RunConfig:
    """Return the settings with each `KEY=VALUE` applied; the last of one key counts.

    They are checked together at the end, so settings that must fit each other may come in any order.

    Args:
        config: the settings to begin with; they are not changed.
        assignments: `dotted.key=value` each. Values are read as YAML and converted to the field's type.

    Raises:
        UserError: an unknown key (the keys at its place are listed), or a value of another type or out of range.

    Example:
        >>> config = override(RunConfig(), ["joint.epochs=5", "joint.terms=[1, 0, 1]"])
        >>> config.joint.epochs, config.joint.terms
        (5, (1.0, 0.0, 1.0))
    """
    draft = _Draft(config)
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        if not separator:
            raise UserError(f"--set {assignment}: expected KEY=VALUE, for example joint.epochs=5")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UserError(
                f"--set {assignment}: the value after = is not YAML; quote values with spaces or brackets, as in --set"
                " 'joint.terms=[1, 0, 1]'"
            ) from error
        draft.assign(key.split("."), value, key)
    return draft.made()


def assign(config: RunConfig, values: dict[str, Any]) -> RunConfig:
    """Return the settings with each value under its dotted key, as `override` does with text.

    Example:
        >>> assign(RunConfig(), {"joint.epochs": 5}).joint.epochs
        5
    """
    draft = _Draft(config)
    for key, value in values.items():
        draft.assign(key.split("."), value, key)
    return draft.made()


# Names and values in the config.yaml of gcl_fast 0.1 -> those of this version
RENAMED: dict[str, tuple[str, dict[Any, Any]]] = {
    "joint.own_entry": ("joint.own_entry", {"code": "stored", "paper": "live"}),
    "joint.negatives": ("joint.negatives_of", {"code": "novel_view", "paper": "crop"}),
    "joint.decay": ("joint.decay", {"paper": "all", "code": "identity"}),
    "generative.yaws": ("generative.last_yaw", {"paper": 315, "code": 270}),
    "generative.weights.feature_loss_on": (
        "generative.weights.feature_loss_on",
        {"code": "reconstruction", "paper": "novel_view"},
    ),
}


def _renamed(data: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of a run's settings in which those of RENAMED have the names and values of this version."""
    data = copy.deepcopy(data)
    for path, (new_path, values) in RENAMED.items():
        *sections, name = path.split(".")
        section: Any = data
        for key in sections:
            section = section.get(key) if isinstance(section, dict) else None
        if isinstance(section, dict) and name in section:
            value = section.pop(name)
            section[new_path.rpartition(".")[2]] = values.get(value, value)
    return data


def to_dict(config: Any) -> dict[str, Any]:
    """Return settings as the plain dictionaries, lists, numbers and strings that go to config.yaml.

    Args:
        config: a `RunConfig` or one of its parts.

    Example:
        >>> to_dict(RunConfig().joint)["terms"]
        [1.0, 1.0, 1.0]
    """
    return _plain(dataclasses.asdict(config))


def from_dict(data: dict[str, Any], base: RunConfig | None = None) -> RunConfig:
    """Return the settings that a dictionary of `to_dict` describes.

    Args:
        data: the dictionary, of this version or of gcl_fast 0.1. It may hold some of the settings alone.
        base: the settings that `data` lacks; None for the defaults.

    Raises:
        UserError: an unknown setting, or a value of another type or out of range.

    Example:
        >>> config = RunConfig(seed=3)
        >>> from_dict(to_dict(config)) == config
        True
        >>> from_dict({"joint": {"epochs": 5}}, config).seed
        3
    """
    return _update(base or RunConfig(), _renamed(data), "config")


def flat(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the settings of a nested dictionary by their dotted keys.

    Args:
        data: a dictionary of `to_dict`.
        prefix: the dotted key of `data` in the whole dictionary, with a dot at its end.

    Example:
        >>> flat({"seed": 0, "joint": {"lr": 1e-4}})
        {'seed': 0, 'joint.lr': 0.0001}
    """
    settings: dict[str, Any] = {}
    for key, value in data.items():
        settings |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return settings


def difference(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Return a line `key: old -> new` for each setting that differs.

    Args:
        old: a dictionary of `to_dict`, or a value in it.
        new: the same of other settings.
        prefix: the dotted key of `old` and `new` in the whole dictionary.

    Example:
        >>> difference(to_dict(RunConfig(seed=0)), to_dict(RunConfig(seed=1)))
        ['seed: 0 -> 1']
    """
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        return [line for k in keys for line in difference(old.get(k), new.get(k), f"{prefix}.{k}".lstrip("."))]
    return [] if old == new else [f"{prefix}: {old} -> {new}"]


class _Draft:
    """Holds changes to a dataclass, which is made once from all of them.

    Args:
        config: the dataclass, which stays as it is; another value has no settings to change.
    """

    def __init__(self, config: Any) -> None:
        self.config = config
        self.changes: dict[str, Any] = {}  # values, or drafts of dataclasses

    def assign(self, path: list[str], value: Any, key: str) -> None:
        """Set the setting at `path` to `value`; `key` is for messages."""
        config, (name, *rest) = self.config, path
        names = [f.name for f in dataclasses.fields(config)] if dataclasses.is_dataclass(config) else []
        if name not in names:
            if key in RENAMED and RENAMED[key][0] != key:
                new, values = RENAMED[key]
                meaning = ", ".join(f"{old} is now {value}" for old, value in values.items())
                raise UserError(f"--set {key}: this setting is now {new} ({meaning})")
            raise UserError(f"--set {key}: there is no setting {name!r} here; there are {', '.join(names) or 'none'}")
        if rest:
            part = self.changes.get(name, getattr(config, name))
            part = part if isinstance(part, _Draft) else _Draft(part)
            part.assign(rest, value, key)
            self.changes[name] = part
        else:
            self.changes[name] = _convert(typing.get_type_hints(type(config))[name], value, key)

    def made(self) -> Any:
        """Return a copy of the dataclass with the changes."""
        changes = {name: part.made() if isinstance(part, _Draft) else part for name, part in self.changes.items()}
        return dataclasses.replace(self.config, **changes) if changes else self.config


def _convert(hint: Any, value: Any, key: str) -> Any:
    """Return `value` as the type `hint`, or raise a UserError that names `key`."""
    options = options_of(hint)
    kinds = [option for option in options if dataclasses.is_dataclass(option)]
    if kinds and value is not None:
        method = value.get("method") if isinstance(value, dict) else None
        kind = next((k for k in kinds if method is not None and getattr(k, "method", None) == method), kinds[0])
        return _build(kind, value, key)
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, (list, tuple)):
            raise UserError(f"{key}: expected a list, got {value!r}")
        elements = typing.get_args(hint)
        if elements[-1] is Ellipsis:
            elements = elements[:1] * len(value)
        if len(elements) != len(value):
            raise UserError(f"{key}: expected {len(elements)} values, got {len(value)}: {value!r}")
        return tuple(_convert(element, item, key) for element, item in zip(elements, value))
    for option in options:
        if typing.get_origin(option) is typing.Literal:
            word = {True: "on", False: "off"}[value] if isinstance(value, bool) else value  # as YAML 1.1 reads them
            if word in typing.get_args(option):
                return word
            continue
        if option is type(None) and value is None:
            return None
        if option is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
            try:
                return float(value)  # of a text too, since YAML 1.1 reads 1e-4 as one
            except (ValueError, OverflowError):
                continue
        if isinstance(option, type) and type(value) is option:
            return value
    raise UserError(f"{key}: expected {' or '.join(map(_type_name, options))}, got {value!r}")


def _type_name(kind: Any) -> str:
    """Return the name that messages give to a type of a setting."""
    if typing.get_origin(kind) is typing.Literal:
        return " or ".join(map(str, typing.get_args(kind)))
    return {type(None): "null"}.get(kind, kind.__name__)


def _update(config: Any, data: Any, key: str) -> Any:
    """Return a copy of the settings `config` with those of `data`, or raise a UserError that names `key`."""
    hints = typing.get_type_hints(type(config))
    _check_names(data, hints, key)
    changes = {}
    for name, value in data.items():
        part, place = getattr(config, name), f"{key}.{name}"
        nested = isinstance(value, dict) and dataclasses.is_dataclass(part)
        same = nested and value.get("method") in (None, getattr(part, "method", None))  # else another warm-up
        changes[name] = _update(part, value, place) if same else _convert(hints[name], value, place)
    return dataclasses.replace(config, **changes)


def _build(kind: Any, data: Any, key: str) -> Any:
    """Make the dataclass `kind` of a dictionary, or raise a UserError that names `key`."""
    hints = typing.get_type_hints(kind)
    _check_names(data, hints, key)
    return kind(**{name: _convert(hints[name], value, f"{key}.{name}") for name, value in data.items()})


def _check_names(data: Any, known: dict[str, Any], key: str) -> None:
    """Raise a UserError where `data` is no dictionary, or has a name that is not in `known`."""
    if not isinstance(data, dict):
        raise UserError(f"{key}: expected the settings {', '.join(known)}, got {data!r}")
    if unknown := [name for name in data if name not in known]:
        raise UserError(f"{key}: there is no setting {unknown[0]!r} here; there are {', '.join(known)}")


def _plain(value: Any) -> Any:
    """Return `value` with its tuples as lists."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value
