"""Weights made elsewhere: checkpoints of the official GCL implementation, and torchvision's ResNet-50."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gcl_fast.errors import UserError
from gcl_fast.models.gcl import GCL
from gcl_fast.models.identity_encoder import IdentityEncoder
from gcl_fast.models.sizes import ModelConfig

Weights = Mapping[str, Tensor]
PARTS = ("gen", "dis", "id")

# Ours -> official, in order: the first pattern that matches a name's beginning rewrites it.
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
    """(part, name) in the official checkpoints of one of `GCL().state_dict()`'s names; part is gen, dis or id."""
    if mlp := _MLP.fullmatch(name):
        block, kind, layer, tensor = mlp.groups()
        return "gen", f"mlp_{'w' if kind == 'scale' else 'b'}{int(block) + 1}.model.{int(layer) // 2}.fc.{tensor}"
    for pattern, replacement in _RULES:
        if match := re.match(pattern, name):
            part, start = match.expand(replacement).split("/")
            return part, start + name[match.end() :]
    raise KeyError(f"{name} has no counterpart in the official checkpoints")


def load_official(source: str | Path | Mapping[str, Weights], parts: Sequence[str] = PARTS) -> dict[str, Tensor]:
    """Official weights as a state dict that `GCL().load_state_dict` takes.

    The official code keeps no memory bank: its joint stage fills the bank from the identity encoder, and so does ours.

    Args:
        source: what `read_official` gives or reads.
        parts: those to load, of gen, dis and id.

    Raises:
        UserError: a tensor is missing, unknown or of another shape (all are named), or a file cannot be read.
    """
    where = "the official weights" if isinstance(source, Mapping) else str(source)
    weights = source if isinstance(source, Mapping) else read_official(Path(source))
    if absent := [part for part in parts if part not in weights]:
        raise UserError(f"{where}: no {', '.join(absent)}; expected the state dicts gen, dis and id")
    with torch.device("meta"):
        ours = GCL().state_dict()
    official = {name: "/".join(official_name(name)) for name in ours}
    wanted = {theirs: ours[name] for name, theirs in official.items() if theirs.split("/")[0] in parts}
    given = {f"{part}/{name}": t for part in parts for name, t in weights[part].items() if not _UNUSED.match(name)}
    if faults := misfits(wanted, given):
        raise UserError(f"{where}: not the official GCL architecture: " + "; ".join(faults))
    count = torch.tensor(0)  # of batches, where the weights have none
    return {name: given.get(theirs, count) for name, theirs in official.items() if theirs in wanted}


def read_official(path: Path) -> dict[str, Weights]:
    """The state dicts gen, dis and id, those that are there, of official weights.

    Args:
        path: a folder with gen_*.pt, dis_*.pt, id_*.pt, of which the last of each counts; a file of all three; or a
            file of the identity encoder alone, as the official joint stage leaves its best (model_best.pth) and as
            JVTC leaves it, whose classifier counts for nothing. Nothing is found in other files of tensors.

    Raises:
        UserError: an empty folder, or a file that cannot be read.
    """
    if not path.is_dir():
        content = read_state_dict(path)
        if "feat_bn.weight" in content:
            return {"id": {name: t for name, t in content.items() if not name.startswith("classifier.")}}
        return {part: content[part] for part in PARTS if isinstance(content.get(part), dict)}
    found = {part: sorted(path.glob(f"{part}_*.pt")) for part in PARTS}
    if not any(found.values()):
        raise UserError(f"{path}: no gen_*.pt, dis_*.pt, id_*.pt, which an official run leaves")
    contents = {part: read_state_dict(files[-1]).get(part) for part, files in found.items() if files}
    return {part: weights if isinstance(weights, dict) else {} for part, weights in contents.items()}


def to_official(model: GCL) -> dict[str, dict[str, Tensor]]:
    """The inverse of `load_official`, for a GCL of the paper's sizes: {"gen": ..., "dis": ..., "id": ...}.

    The official AdaIN layers carry running statistics that nothing reads; they come as fresh ones, zeros and ones.

    Raises:
        UserError: the model has other sizes.
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


def load_imagenet_backbone(identity: IdentityEncoder, path: str | Path) -> None:
    """Load a torchvision ResNet state dict (such as resnet50-11ad3fa6.pth) into the encoder, in place, without its
    classifier; `feat` and `feat_bn` stay as they are.

    Raises:
        UserError: the file cannot be read, or its tensors are not those of this encoder's backbone (all are named).
    """
    weights = {name: tensor for name, tensor in read_state_dict(Path(path)).items() if not name.startswith("fc.")}
    backbone = {name: t for name, t in identity.state_dict().items() if not name.startswith(("feat.", "feat_bn."))}
    if faults := misfits(backbone, weights):
        raise UserError(f"{path}: not torchvision weights of this backbone: " + "; ".join(faults))
    identity.load_state_dict(weights, strict=False)


def misfits(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    """What keeps the tensors `given` from being those `wanted`: one sentence for each that is missing, unknown or of
    another shape. Batch norms' counts of batches may be missing, as they are in weights of old."""
    faults = [f"missing {name}" for name in wanted if name not in given and not name.endswith("num_batches_tracked")]
    faults += [f"unknown {name}" for name in given if name not in wanted]
    faults += [
        f"{name} is {shape or 'no tensor'}, expected {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in given and (shape := tuple(getattr(given[name], "shape", ()))) != tuple(tensor.shape)
    ]
    return sorted(faults)


def read_state_dict(path: Path) -> dict[str, Any]:
    """Tensors by name, as torch.save left them.

    Raises:
        UserError: no such file, or one that holds anything but tensors.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file of weights")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except Exception as error:  # text, HTML or a pickle of code: what it raises depends on the first bytes
        raise UserError(f"{path}: not a PyTorch file of plain tensors, as torch.save leaves a state dict") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, expected a state dict")
    return content
