"""Weights of other projects: thirteen forms of one ResNet-50, each with the names and wrappers of its project."""

import argparse
import pickle
import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import resnet18, resnet50, resnet101

from gcl_fast.errors import UserError
from gcl_fast.models import GCL, IdentityEncoder, ModelConfig
from gcl_fast.models.foreign_weights import load_backbone
from gcl_fast.run.initialize import initialize
from gcl_fast.settings import override, preset


@pytest.fixture(scope="module")
def network():
    """torchvision's ResNet-50 of random weights and statistics, with the stride of person re-identification."""
    torch.manual_seed(0)
    network = resnet50().eval()
    for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.running_mean.normal_(0, 0.1)
        norm.running_var.uniform_(0.5, 1.5)
    return network


@pytest.fixture(scope="module")
def encoder():
    return IdentityEncoder(ModelConfig().identity).eval()


def prefixed(prefix, state):
    return {prefix + name: tensor for name, tensor in state.items()}


def zeroed(state):
    """Return another copy of the networks, which must not be taken."""
    return {name: torch.zeros_like(tensor) for name, tensor in state.items()}


def without_classifier(state):
    return {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}


def sequence(state, numbers):
    """Return the names of an nn.Sequential whose children have these numbers."""
    parts = dict(zip(("conv1", "bn1", "layer1", "layer2", "layer3", "layer4"), numbers))
    split = {name: name.split(".", 1) for name in without_classifier(state)}
    return {f"{parts[head]}.{rest}": state[name] for name, (head, rest) in split.items()}


def transformers(state):
    """Return the names of Hugging Face's ResNetForImageClassification."""
    rules = [
        (r"^conv1\.", "resnet.embedder.embedder.convolution."),
        (r"^bn1\.", "resnet.embedder.embedder.normalization."),
        (r"^layer(\d)\.(\d+)\.downsample\.0\.", r"resnet.encoder.stages.\1.layers.\2.shortcut.convolution."),
        (r"^layer(\d)\.(\d+)\.downsample\.1\.", r"resnet.encoder.stages.\1.layers.\2.shortcut.normalization."),
        (r"^layer(\d)\.(\d+)\.conv(\d)\.", r"resnet.encoder.stages.\1.layers.\2.layer.\3.convolution."),
        (r"^layer(\d)\.(\d+)\.bn(\d)\.", r"resnet.encoder.stages.\1.layers.\2.layer.\3.normalization."),
    ]
    renamed = {}
    for name, tensor in without_classifier(state).items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        name = re.sub(r"stages\.(\d)", lambda m: f"stages.{int(m[1]) - 1}", name)
        renamed[re.sub(r"layer\.(\d)", lambda m: f"layer.{int(m[1]) - 1}", name)] = tensor
    return renamed | {"classifier.1.weight": torch.zeros(1000, 2048)}


def arguments():
    return argparse.Namespace(lr=0.1, milestones=[20, 40], name="run")


FORMS = {
    "torchvision": lambda s: s,
    "timm in safetensors": lambda s: s,
    "pytorch_model.bin": lambda s: s,
    "DistributedDataParallel": lambda s: {"epoch": 3, "state_dict": prefixed("module.", s), "optimizer": {"lr": 0.1}},
    "torch.compile": lambda s: {"model": prefixed("_orig_mod.", s)},
    "MoCo, LUPerson": lambda s: {
        "state_dict": {
            **prefixed("module.encoder_k.", zeroed(s)),
            **prefixed("module.encoder_q.", s),
            "module.queue": torch.zeros(128, 9),
        }
    },
    "DINO": lambda s: {
        "student": prefixed("module.backbone.", zeroed(without_classifier(s))),
        "teacher": prefixed("backbone.", without_classifier(s)) | {"head.mlp.0.weight": torch.zeros(3, 2048)},
        "args": arguments(),
    },
    "averaged weights": lambda s: {"state_dict": zeroed(s), "state_dict_ema": s, "best": np.float64(0.5)},
    "ClusterContrast": lambda s: {
        "state_dict": prefixed("module.base.", sequence(s, (0, 1, 3, 4, 5, 6)))
        | {"module.feat_bn.weight": torch.ones(2048)}
    },
    "SpCL": lambda s: {"state_dict": prefixed("base.", sequence(s, (0, 1, 4, 5, 6, 7))), "best_mAP": np.float32(1)},
    "fast-reid": lambda s: {
        "model": prefixed("backbone.", without_classifier(s))
        | {"pixel_mean": torch.zeros(1, 3, 1, 1), "heads.bottleneck.0.weight": torch.ones(2048)}
    },
    "torchreid": lambda s: {"state_dict": prefixed("module.", without_classifier(s)), "rank1": np.float64(0.9)},
    "transformers": transformers,
}


def write(form, content, folder):
    """Write a checkpoint in the format of its form, and return the path."""
    if form == "timm in safetensors":
        save_file(content, folder / "model.safetensors")
        return folder / "model.safetensors"
    name = {"pytorch_model.bin": "pytorch_model.bin", "torchreid": "model.pth.tar-60"}.get(form, "checkpoint.pth")
    torch.save(content, folder / name)
    return folder / name


@pytest.mark.parametrize("form", FORMS)
def test_features_are_those_of_the_source(form, network, encoder, tmp_path):
    text = load_backbone(encoder, write(form, FORMS[form](network.state_dict()), tmp_path))
    assert text.startswith("265 of 265 tensors of the backbone")
    images = torch.randn(2, 3, 64, 32)
    with torch.no_grad():
        ours = encoder.feature_map(images)
        last = network.layer4[0]
        last.conv2.stride = last.downsample[0].stride = (1, 1)
        x = network.maxpool(network.relu(network.bn1(network.conv1(images))))
        theirs = network.layer4(network.layer3(network.layer2(network.layer1(x))))
    assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-5 * float(theirs.abs().max()))


@pytest.mark.parametrize(
    ("form", "others"),
    [
        ("torchvision", "fc"),
        ("MoCo, LUPerson", "fc, state_dict.module.encoder_k, state_dict.module.queue"),
        ("DINO", "student, teacher.head"),
        ("torchreid", None),
        ("fast-reid", "model.heads, model.pixel_mean"),
    ],
)
def test_what_is_left_out_is_named(form, others, network, encoder, tmp_path):
    text = load_backbone(encoder, write(form, FORMS[form](network.state_dict()), tmp_path))
    assert text.partition("; left out: ")[2] == (others or "")


def test_the_head_stays_and_a_missing_tensor_is_named(network, tmp_path):
    encoder = IdentityEncoder(ModelConfig().identity)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    state = without_classifier(network.state_dict())
    del state["layer4.2.conv3.weight"]
    torch.save(state, tmp_path / "r50.pth")
    text = load_backbone(encoder, tmp_path / "r50.pth")
    assert text == "264 of 265 tensors of the backbone; still random: layer4.2.conv3.weight"
    for name in ("feat.weight", "feat_bn.running_mean", "layer4.2.conv3.weight"):
        assert torch.equal(encoder.state_dict()[name], before[name])


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (resnet101, r"a ResNet with 3, 4, 23, 3 blocks in its stages, and this run's encoder has 3, 4, 6, 3 \("),
        (resnet18, "a ResNet with 2, 2, 2, 2 blocks"),
        (
            lambda: nn.Linear(2, 2),
            "0 of 265 tensors of the backbone fit; conv1.weight is missing, .*; and 255 more; docs",
        ),
    ],
)
def test_other_networks_are_refused_in_one_sentence(make, reason, encoder, tmp_path):
    torch.save(make().state_dict(), tmp_path / "weights.pth")
    before = encoder.conv1.weight.clone()
    with pytest.raises(UserError, match=reason) as caught:
        load_backbone(encoder, tmp_path / "weights.pth")
    assert "\n" not in str(caught.value)
    assert torch.equal(encoder.conv1.weight, before)


class Code:
    """An object whose unpickling would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_code_in_a_pickle_is_not_run(encoder, tmp_path):
    content = {"state_dict": {}, "hook": Code(tmp_path / "executed")}
    torch.save(content, tmp_path / "torch.pth")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(content, protocol=2))
    for name in ("torch.pth", "plain.pkl"):
        with pytest.raises(UserError, match=r"not a PyTorch file of plain tensors.*a pickled model is not read"):
            load_backbone(encoder, tmp_path / name)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("form", ["timm in safetensors", "MoCo, LUPerson", "torchreid"])
def test_init_takes_them(form, network, tmp_path):
    path = write(form, FORMS[form](network.state_dict()), tmp_path)
    gcl = GCL()
    origin = initialize(gcl, override(preset("paper"), [f"init={path}"]))
    assert origin.startswith("265 of 265 tensors of the backbone")
    assert origin.endswith(f", from {path}; all else random")
    assert torch.equal(gcl.identity.conv1.weight, network.conv1.weight)
