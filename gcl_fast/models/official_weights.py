"""Weights of the official GCL implementation."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gcl_fast.errors import UserError
from gcl_fast.models.checkpoint_files import read_checkpoint
from gcl_fast.models.gcl import GCL
from gcl_fast.settings.model_sizes import ModelConfig

Weights = Mapping[str, Tensor]
PARTS = ("gen", "dis", "id")

# Our names -> official names. The first pattern that matches the beginning of a name rewrites it.
_RULES: list[tuple[str, str]] = [
    (r"identity\.", "id/"),
    (r"structure\.stem\.", "gen/enc_content.model."),
    (r"structure\.blocks\.(\d)\.first\.", r"gen/enc_content.model.4.model.\1.model.0."),
    (r"structure\.blocks\.(\d)\.second\.", r"gen/enc_content.model.4.model.\1.model.1."),
    (r"structure\.near\.", "gen/enc_content.model.5.conv1."),
    (r"structure\.dilated\.0\.", "gen/enc_content.model.5.conv6."),
    (r"structure\.dilated\.1\.", "gen/enc_content.model.5.conv12."),
    (r"structure\.dilated\.2\.", "gen/enc_content.model.5.conv18."),
    (r"structure\.fuse\.", "gen/enc_content.model.5.fuse."),
    (r"generator\.blocks\.(\d)\.first\.", r"gen/dec.model.1.model.\1.model.0.conv."),
    (r"generator\.blocks\.(\d)\.second\.", r"gen/dec.model.1.model.\1.model.1.conv."),
    (r"generator\.up\.0\.", "gen/dec.model.3."),
    (r"generator\.up\.1\.", "gen/dec.model.5."),
    (r"generator\.refine\.0\.", "gen/dec.model.6."),
    (r"generator\.refine\.1\.", "gen/dec.model.7."),
    (r"generator\.paint\.", "gen/dec.model.8.conv."),
    (r"discriminator\.scales\.(\d)\.([5-8])\.first\.", r"dis/cnns.\1.\2.model.0."),
    (r"discriminator\.scales\.(\d)\.([5-8])\.second\.", r"dis/cnns.\1.\2.model.1."),
    (r"discriminator\.scales\.", "dis/cnns."),
]
_MLP = re.compile(r"generator\.blocks\.(\d)\.(scale|shift)\.(\d)\.(weight|bias)")
_UNUSED = re.compile(r"dec\.model\.1\..*\.norm\.running_(mean|var)")  # buffers of the official AdaIN that nothing reads


def official_name(name: str) -> tuple[str, str]:
    """Translate a name of `GCL().state_dict()` into the official checkpoints' name.

    Args:
        name: such as "identity.conv1.weight".

    Returns:
        The part, "gen", "dis" or "id", and the name in the part's state dict.

    Raises:
        KeyError: the official checkpoints have no such tensor.
    """
    if mlp := _MLP.fullmatch(name):
        block, kind, layer, tensor = mlp.groups()
        return "gen", f"mlp_{'w' if kind == 'scale' else 'b'}{int(block) + 1}.model.{int(layer) // 2}.fc.{tensor}"
    for pattern, replacement in _RULES:
        if match := re.match(pattern, name):
            part, start = match.expand(replacement).split("/")
            return part, start + name[match.end() :]
    raise KeyError(f"{name} has no counterpart in the official checkpoints")


def load_official(source: str | Path | Mapping[str, Weights], parts: Sequence[str] = PARTS) -> dict[str, Tensor]:
    """Turn official weights into a state dict that `GCL().load_state_dict` takes.

    The official code stores no memory bank: its joint stage fills the bank from the identity encoder, and so does ours.

    Args:
        source: a path that `read_official` reads, or its result.
        parts: the parts to load, of "gen", "dis" and "id".

    Returns:
        Tensors by our names, those of `parts`.

    Raises:
        UserError: a tensor is missing, unknown or of another shape (the first ten are named), or a file cannot be read.

    Example:
        >>> with torch.device("meta"):  # the paper's sizes, without memory
        ...     gcl, official = GCL(), to_official(GCL())
        >>> gcl.load_state_dict(load_official(official))  # or load_official("a/folder/of/official/checkpoints")
        <All keys matched successfully>
    """
    origin = "the official weights" if isinstance(source, Mapping) else str(source)
    weights = source if isinstance(source, Mapping) else read_official(Path(source))
    if gaps := [part for part in parts if part not in weights]:
        raise UserError(f"{origin}: no {', '.join(gaps)}; expected the state dicts gen, dis and id")
    with torch.device("meta"):
        ours = GCL().state_dict()
    official = {name: "/".join(official_name(name)) for name in ours}
    expected = {theirs: ours[name] for name, theirs in official.items() if theirs.split("/")[0] in parts}
    tensors = {f"{part}/{name}": t for part in parts for name, t in weights[part].items() if not _UNUSED.match(name)}
    if faults := misfits(expected, tensors):
        raise UserError(f"{origin}: not the official GCL architecture: {first_of(faults)}")
    count = torch.tensor(0)  # of batches, where the weights have none
    return {name: tensors.get(theirs, count) for name, theirs in official.items() if theirs in expected}


def read_official(path: Path) -> dict[str, Weights]:
    """Read the state dicts of official weights.

    Args:
        path: one of three. A folder with gen_*.pt, dis_*.pt, id_*.pt, where the last file of each is read. A file with
            all three. A file of the identity encoder alone, which the official joint stage (model_best.pth) and JVTC
            write; its classifier is dropped.

    Returns:
        State dicts by part, "gen", "dis" and "id", those that `path` has; none for any other file of tensors.

    Raises:
        UserError: a folder without such files, or a file that cannot be read.

    Example:
        >>> torch.save({"feat_bn.weight": torch.ones(512), "classifier.weight": torch.ones(702, 512)}, "model_best.pth")
        >>> {part: list(weights) for part, weights in read_official(Path("model_best.pth")).items()}
        {'id': ['feat_bn.weight']}
    """
    if not path.is_dir():
        content = read_checkpoint(path)
        if "feat_bn.weight" in content and "base.0.weight" not in content:  # ClusterContrast has both
            return {"id": {name: t for name, t in content.items() if not name.startswith("classifier.")}}
        return {part: content[part] for part in PARTS if isinstance(content.get(part), dict)}
    files = {part: sorted(path.glob(f"{part}_*.pt")) for part in PARTS}
    if not any(files.values()):
        raise UserError(f"{path}: no gen_*.pt, dis_*.pt, id_*.pt, which an official run writes")
    contents = {part: read_checkpoint(names[-1]).get(part) for part, names in files.items() if names}
    return {part: weights if isinstance(weights, dict) else {} for part, weights in contents.items()}


def to_official(model: GCL) -> dict[str, dict[str, Tensor]]:
    """Turn a GCL of the paper's sizes into official state dicts; `load_official` does the inverse.

    The official AdaIN layers have running statistics that nothing reads; they get zeros and ones.

    Args:
        model: networks of the paper's sizes.

    Returns:
        State dicts by part: "gen", "dis" and "id".

    Raises:
        UserError: the model has other sizes.

    Example:
        >>> with torch.device("meta"):  # the paper's sizes, without memory
        ...     official = to_official(GCL())
        >>> {part: len(tensors) for part, tensors in official.items()}
        {'gen': 134, 'dis': 84, 'id': 325}
    """
    if model.config != ModelConfig():
        raise UserError("the official checkpoints have the paper's sizes; this model has others")
    official: dict[str, dict[str, Tensor]] = {part: {} for part in PARTS}
    for name, tensor in model.state_dict().items():
        part, theirs = official_name(name)
        official[part][theirs] = tensor
    for block in range(model.config.generator.blocks):
        for conv in range(2):
            norm = f"dec.model.1.model.{block}.model.{conv}.norm"
            official["gen"][f"{norm}.running_mean"] = torch.zeros(model.config.structure.code)
            official["gen"][f"{norm}.running_var"] = torch.ones(model.config.structure.code)
    return official


def misfits(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> list[str]:
    """List the tensors that are missing, unknown or of another shape.

    The counts of batches of batch norms may be missing, because old versions of PyTorch did not store them.

    Args:
        expected: the tensors that a network has, by name.
        tensors: the tensors of a file, by name.

    Returns:
        One line per fault, sorted; empty where the tensors fit.
    """
    faults = [
        f"missing {name}" for name in expected if name not in tensors and not name.endswith("num_batches_tracked")
    ]
    faults += [f"unknown {name}" for name in tensors if name not in expected]
    faults += [
        f"{name} is {shape or 'no tensor'}, expected {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in tensors and (shape := tuple(getattr(tensors[name], "shape", ()))) != tuple(tensor.shape)
    ]
    return sorted(faults)


def first_of(items: list[Any], separator: str = "; ", count: int = 10) -> str:
    """Return the first `count` items, such as faults of `misfits`, in one line, and how many there are more.

    Example:
        >>> first_of(["missing a", "missing b", "unknown c"], count=2)
        'missing a; missing b; and 1 more'
    """
    more = [f"and {len(items) - count} more"] if len(items) > count else []
    return separator.join([*map(str, items[:count]), *more])
