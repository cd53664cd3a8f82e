"""Load a backbone from weights of other projects, whatever wraps them and however their tensors are named.

A checkpoint is flattened to dotted names, so that wrappers such as `state_dict`, `model` or `teacher` and prefixes such
as `module.` or `encoder_q.` are one thing: what stands before the names of the backbone. These are the names of its
library, and torchvision's for a residual network. The prefix that fits most tensors is taken. Two other namings of
ResNets are translated first: an nn.Sequential, as SpCL and ClusterContrast have it, and that of Hugging Face's
transformers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from torch import Tensor

from gcl_fast.errors import UserError
from gcl_fast.models.checkpoint_files import read_checkpoint
from gcl_fast.models.identity_encoder import IdentityEncoder
from gcl_fast.models.official_weights import first_of

ENOUGH = 0.9  # share of the backbone's tensors that a file must hold
# Of two copies in a file, the one of the first of these names is taken: averaged weights, and the encoder of a query
PREFERRED = ("ema", "teacher", "encoder_q", "online_encoder")
HEAD = ("feat.", "feat_bn.")  # of the identity encoder, which no other project has
GUIDE = "docs/guide.md#weights lists what can be read"

_BLOCK = r"encoder\.stages\.(\d+)\.layers\.(\d+)\."
_TRANSFORMERS = {  # names of Hugging Face's ResNet -> names of torchvision
    r"embedder\.embedder\.convolution\.": lambda m: "conv1.",
    r"embedder\.embedder\.normalization\.": lambda m: "bn1.",
    _BLOCK + r"shortcut\.convolution\.": lambda m: f"layer{int(m[1]) + 1}.{m[2]}.downsample.0.",
    _BLOCK + r"shortcut\.normalization\.": lambda m: f"layer{int(m[1]) + 1}.{m[2]}.downsample.1.",
    _BLOCK + r"layer\.(\d)\.convolution\.": lambda m: f"layer{int(m[1]) + 1}.{m[2]}.conv{int(m[3]) + 1}.",
    _BLOCK + r"layer\.(\d)\.normalization\.": lambda m: f"layer{int(m[1]) + 1}.{m[2]}.bn{int(m[3]) + 1}.",
}


def load_backbone(encoder: IdentityEncoder, path: str | Path) -> str:
    """Load the backbone of an identity encoder from weights of another project, in place.

    The encoder's own `feat` and `feat_bn` stay as they are, and so does a tensor that the file lacks.

    Args:
        encoder: with any backbone.
        path: a file that torch.save or safetensors wrote.

    Returns:
        A phrase that says how many tensors were loaded, and which of the file were left out.

    Raises:
        UserError: the file cannot be read, it lacks more than a tenth of the backbone's tensors, or it is of a deeper
            network.

    Example:
        >>> import torch
        >>> from gcl_fast.models import IdentityEncoder, ModelConfig
        >>> encoder = IdentityEncoder(ModelConfig.demo().identity)
        >>> names = {f"module.{name}": t for name, t in encoder.state_dict().items() if not name.startswith("feat")}
        >>> torch.save({"state_dict": names | {"module.fc.weight": torch.zeros(9, 256)}}, "resnet.pth.tar")
        >>> load_backbone(encoder, "resnet.pth.tar")
        '60 of 60 tensors of the backbone; left out: fc'
    """
    path = Path(path)
    state = {name: tensor for name, tensor in encoder.state_dict().items() if _counts(name)}
    expected = {name.removeprefix(encoder.prefix): tensor for name, tensor in state.items()}
    tensors = dict(_flatten(read_checkpoint(path)))
    prefix, candidates = _best_prefix(expected, tensors)
    candidates = encoder.adapt(candidates)
    fitting = {name: t for name, t in candidates.items() if name in expected and t.shape == expected[name].shape}
    if len(fitting) < ENOUGH * len(expected) or _deeper(expected, candidates):  # 101 layers hold those of 50
        raise UserError(f"{path}: {_misfit(expected, candidates, len(fitting))}; {GUIDE}")
    encoder.load_state_dict({encoder.prefix + name: tensor for name, tensor in fitting.items()}, strict=False)
    missing = [name for name in expected if name not in fitting]
    others = {name.split(".")[0] for name in candidates if name not in expected and _counts(name)}
    others |= {_branch(name, prefix) for name in tensors if not name.startswith(prefix) and _counts(name)}
    text = f"{len(fitting)} of {len(expected)} tensors of the backbone"
    text += f"; still random: {first_of(missing, ', ')}" if missing else ""
    return text + (f"; left out: {first_of(sorted(others), ', ')}" if others else "")


def _flatten(content: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in nested dictionaries by dotted names."""
    if isinstance(content, Tensor):
        yield prefix.removesuffix("."), content
    elif isinstance(content, Mapping):
        for key, value in content.items():
            yield from _flatten(value, f"{prefix}{key}.")


def _best_prefix(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    """Return the prefix after which most names and shapes are those of `expected`, and the tensors behind it.

    Where no name fits, the prefix is empty, and the tensors have the names of the file.
    """
    choices: dict[str, dict[str, Tensor]] = {"": dict(tensors)}
    anchor = max(expected, key=lambda name: name.count("."))  # it ends no other name by chance
    by_own_names = ((prefix, _behind(prefix, tensors)) for prefix in _prefixes(tensors, anchor))
    for prefix, candidates in chain(by_own_names, _as_sequence(tensors), _as_transformers(tensors)):
        old = choices.get(prefix)
        if old is None or _fit(expected, candidates) > _fit(expected, old):
            choices[prefix] = candidates
    prefix = max(choices, key=lambda p: (_fit(expected, choices[p]), -_preference(p), -len(p)))
    return prefix, choices[prefix]


def _fit(expected: Mapping[str, Tensor], candidates: Mapping[str, Tensor]) -> int:
    """Return how many tensors of `expected` have a candidate of their name and shape."""
    return sum(name in candidates and candidates[name].shape == t.shape for name, t in expected.items())


def _preference(prefix: str) -> int:
    """Return the rank of a prefix among copies of the same networks; smaller is better."""
    return next((rank for rank, name in enumerate(PREFERRED) if name in prefix), len(PREFERRED))


def _as_sequence(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield each prefix of a Sequential of stem, norm and four stages, and the tensors by names of torchvision."""
    for prefix in dict.fromkeys(m[1] for name in tensors if (m := re.fullmatch(r"(.*?)0\.weight", name))):
        behind = _behind(prefix, tensors)
        numbers = sorted({int(head) for name in behind if (head := name.split(".")[0]).isdigit()})
        if len(numbers) != 6:
            continue
        parts = dict(zip(map(str, numbers), ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")))
        split = {name: name.partition(".") for name in behind}
        yield prefix, {parts.get(head, head) + dot + rest: behind[name] for name, (head, dot, rest) in split.items()}


def _as_transformers(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield each prefix of a ResNet of Hugging Face's transformers, and the tensors by names of torchvision."""
    for prefix in _prefixes(tensors, "embedder.embedder.convolution.weight"):
        renamed = {}
        for name, tensor in _behind(prefix, tensors).items():
            for pattern, replacement in _TRANSFORMERS.items():
                name = re.sub(pattern, replacement, name)
            renamed[name] = tensor
        yield prefix, renamed


def _prefixes(tensors: Mapping[str, Tensor], anchor: str) -> list[str]:
    """Return what stands before `anchor` in the names that end with it."""
    return [name.removesuffix(anchor) for name in tensors if name.endswith(anchor)]


def _behind(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin with `prefix`, by their names without it."""
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _counts(name: str) -> bool:
    """Return whether a tensor belongs to a backbone's coverage: the head is ours, and counts of batches may lack."""
    return not name.startswith(HEAD) and not name.endswith("num_batches_tracked")


def _branch(name: str, prefix: str) -> str:
    """Return the beginning of a dotted name up to the part in which it leaves `prefix`."""
    parts, path = name.split("."), prefix.split(".")
    same = next(i for i, part in enumerate(parts) if i >= len(path) or part != path[i])
    return ".".join(parts[: same + 1])


def _misfit(expected: Mapping[str, Tensor], candidates: Mapping[str, Tensor], fitting: int) -> str:
    """Return why the candidates are no weights of this backbone."""
    ours, theirs = _depth(expected), _depth(candidates)
    if theirs and ours != theirs:
        return (
            f"weights of a ResNet with {first_of(theirs, ', ')} blocks in its stages, and this run's encoder has"
            f" {first_of(ours, ', ')} (model.identity.blocks)"
        )
    if fitting == len(expected):
        return (
            f"weights of a deeper network; this run's backbone has no {first_of(_deeper(expected, candidates), ', ')}"
        )
    faults = [
        f"{name} is {tuple(candidates[name].shape) if name in candidates else 'missing'}, expected {tuple(t.shape)}"
        for name, t in expected.items()
        if name not in candidates or candidates[name].shape != t.shape
    ]
    return f"{fitting} of {len(expected)} tensors of the backbone fit; " + first_of(faults)


def _deeper(expected: Mapping[str, Tensor], candidates: Mapping[str, Tensor]) -> list[str]:
    """Return the candidates that are named as tensors of the backbone are, in a layer of a number that it lacks."""
    patterns = {re.sub(r"\d+", "#", name) for name in expected}
    others = [name for name in candidates if name not in expected and _counts(name)]
    return [name for name in others if re.sub(r"\d+", "#", name) in patterns]


def _depth(tensors: Mapping[str, Tensor]) -> list[int]:
    """Return the number of blocks in each stage, from names such as `layer3.22.conv1.weight`."""
    blocks = {(int(m[1]), int(m[2])) for name in tensors if (m := re.match(r"layer(\d)\.(\d+)\.conv1\.weight", name))}
    return [sum(stage == number for stage, _ in blocks) for number in sorted({stage for stage, _ in blocks})]
