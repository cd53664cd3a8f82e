"""Compare layers with their definitions, and check the networks of the demo: shapes, limits, compiled equals eager."""

import contextlib
import dataclasses
from copy import deepcopy
from functools import partial

import pytest
import torch
from torch.nn import functional as F

from gcl_fast.errors import UserError
from gcl_fast.models import GCL, ModelConfig, check_size, generator, layers, min_size, upsampled_conv
from gcl_fast.models.identity_encoder import generalized_mean, stripe_means
from gcl_fast.models.upsampled_conv import UpsampledConv

CHANNELS_LAST = torch.channels_last


def randn(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("way", [UpsampledConv.forward, UpsampledConv.framed])  # of a CPU and of a GPU
@pytest.mark.parametrize("size", [(6, 5), (10, 2), (2, 3)])
def test_upsampled_convolution_equals_its_definition(size, way):
    layer = UpsampledConv(3, 4).double()
    layer.forward = partial(way, layer)
    x = randn(2, 3, *size, dtype=torch.float64).requires_grad_()
    plain = F.conv2d(F.pad(F.interpolate(x, scale_factor=2), (2, 2, 2, 2), mode="reflect"), layer.weight, layer.bias)
    torch.testing.assert_close(layer(x), plain)
    inputs = (x, layer.weight, layer.bias)
    direction = randn(*plain.shape, dtype=torch.float64)
    ours = torch.autograd.grad(layer(x), inputs, direction)
    torch.testing.assert_close(ours, torch.autograd.grad(plain, inputs, direction))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_generalized_mean_and_its_gradient(dtype):
    x = F.relu(randn(3, 5, 4, 6, dtype=dtype)).contiguous(memory_format=CHANNELS_LAST)
    x[1, 2] = 0  # the mean of a map of zeros is above zero, and its gradient is zero
    x.requires_grad_()
    wide = x.detach().double().requires_grad_()
    plain = (wide.clamp(min=1e-6) ** 3).mean((2, 3)) ** (1 / 3)
    direction = randn(3, 5)
    ours = generalized_mean(x)
    assert ours.dtype == torch.promote_types(dtype, torch.float32)
    torch.testing.assert_close(ours.double(), plain, rtol=1e-6, atol=0)
    (gradient,) = torch.autograd.grad(ours, x, direction.to(ours.dtype))
    (truth,) = torch.autograd.grad(plain, wide, direction.double())
    assert gradient.dtype == dtype
    assert gradient.is_contiguous(memory_format=CHANNELS_LAST)
    torch.testing.assert_close(gradient.double(), truth, rtol=1e-12 if dtype == torch.float64 else 1e-2, atol=1e-12)


@pytest.mark.parametrize(("height", "count"), [(8, 4), (6, 1), (6, 4)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_stripe_means_and_their_gradient(dtype, height, count):
    x = randn(3, 5, height, 7, dtype=dtype).contiguous(memory_format=CHANNELS_LAST).requires_grad_()
    wide = x.detach().double().requires_grad_()
    plain = F.adaptive_avg_pool2d(wide, (count, 1)).squeeze(3)
    direction = randn(3, 5, count)
    ours = stripe_means(x, count)
    assert ours.dtype == torch.promote_types(dtype, torch.float32)
    torch.testing.assert_close(ours.double(), plain, rtol=1e-5, atol=1e-6)
    (gradient,) = torch.autograd.grad(ours, x, direction.to(ours.dtype))
    (truth,) = torch.autograd.grad(plain, wide, direction.double())
    assert gradient.dtype == dtype
    torch.testing.assert_close(gradient.double(), truth, rtol=1e-6 if dtype == torch.float64 else 1e-2, atol=1e-12)
    if height % count == 0:
        assert gradient.is_contiguous(memory_format=CHANNELS_LAST)


@pytest.fixture(scope="module")
def demo() -> GCL:
    torch.manual_seed(0)
    return GCL(ModelConfig.demo()).eval()


@torch.no_grad()
@pytest.mark.parametrize("size", [(128, 64), min_size(), (44, 100)])
def test_demo_shapes(demo, size):
    height, width = size
    check_size(height, width)
    identity = demo.config.identity
    image, structure_map = randn(2, 3, *size), randn(2, 1, *size)
    parts, embedding = demo.identity(image)
    assert parts.shape == (2, identity.part_features)
    assert embedding.shape == (2, identity.embedding)
    code = demo.structure(structure_map)
    assert code.shape == (2, demo.config.structure.code, height // 4, width // 4)
    assert demo.generator(code, parts).shape == image.shape
    assert len(demo.discriminator(image)) == demo.config.discriminator.scales


@torch.no_grad()
def test_part_features_are_channel_major_stripes(demo):
    image = randn(1, 3, 128, 64)
    last = demo.identity.feature_map(image)  # (1, C, 16, 8)
    parts, _ = demo.identity(image)
    torch.testing.assert_close(parts[0, 5 * 4 + 2], last[0, 5, 8:12].mean())


@torch.no_grad()
def test_each_slice_of_the_part_features_drives_its_own_block(demo):
    blocks = demo.config.generator.blocks
    parts = randn(1, demo.config.identity.part_features)
    changed = parts.clone()
    changed[:, -parts.shape[1] // blocks :] += 1
    seen: list[list[torch.Tensor]] = [[], []]
    for run, features in enumerate((parts, changed)):
        hooks = [b.register_forward_hook(lambda m, i, o, run=run: seen[run].append(o)) for b in demo.generator.blocks]
        demo.generator(randn(1, demo.config.structure.code, 16, 16), features)
        for hook in hooks:
            hook.remove()
    same = [torch.equal(a, b) for a, b in zip(*seen, strict=True)]
    assert same == [True] * (blocks - 1) + [False]


def test_a_compiled_relu_needs_no_mask():
    operations: list[str] = []

    def backend(graph, inputs):
        operations.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    x = randn(5)
    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(layers.relu, backend=backend)(x), x.clamp(min=0))
    assert "abs" in operations


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_generator_of_a_gpu_equals_that_of_a_cpu(demo, device, monkeypatch):
    """Compare the operations of a GPU (MLPs as one, border convolved by itself) with those of a CPU, also on a CPU."""
    network = deepcopy(demo.generator).to(torch.float64 if device == "cpu" else torch.float32)
    inputs = [randn(2, demo.structure.fuse.conv.out_channels, 9, 6), randn(2, 1024)]
    results = []
    for place in ("cpu", device):
        network.zero_grad(set_to_none=True)
        here = deepcopy(network).to(place)
        leaves = [t.to(place, network.paint.weight.dtype).requires_grad_() for t in inputs]
        image = here(*leaves)
        image.backward(randn(*image.shape).to(image))
        results.append([t.detach().cpu() for t in (image, *(t.grad for t in (*leaves, *here.parameters())))])
        for module in (upsampled_conv, generator) if device == "cpu" else ():
            monkeypatch.setattr(module, "triton_serves", lambda x: True)
    tolerance = (1e-10 if device == "cpu" else 2e-3) * max(float(t.abs().max()) for t in results[0])
    for cpu, gpu in zip(*results, strict=True):  # the gradient of a bias before an instance norm is rounding noise
        torch.testing.assert_close(gpu, cpu, rtol=0, atol=tolerance)


def test_every_norm_of_the_encoder_counts_its_batches(demo):
    encoder = deepcopy(demo.identity)
    for training in (True, True, False):
        encoder.train(training)(randn(2, 3, 40, 40))
    counts = [int(module.num_batches_tracked) for module in encoder.modules() if hasattr(module, "num_batches_tracked")]
    assert counts == [2] * len(counts)
    assert len(counts) == 13


@pytest.mark.parametrize("size", [(36, 64), (128, 36), (130, 64)])
def test_sizes_that_do_not_fit_are_refused(demo, size):
    with pytest.raises(UserError, match="at least 40x40"):
        check_size(*size)
    with pytest.raises(UserError, match=f"{size[0]}x{size[1]}"):
        demo.structure(torch.zeros(1, 1, *size))


def test_config_refuses_slices_that_do_not_divide():
    config = ModelConfig.demo()
    with pytest.raises(UserError, match="3 equal slices"):
        dataclasses.replace(config, generator=dataclasses.replace(config.generator, blocks=3))


def test_initialization():
    torch.manual_seed(0)
    gcl = GCL(ModelConfig.demo())
    conv = gcl.generator.refine[0].conv
    assert conv.weight.std().item() == pytest.approx((2 / (conv.in_channels * 9)) ** 0.5, rel=0.1)
    assert gcl.discriminator.scales[0][1].conv.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert not any(
        p.any() for n, p in [*gcl.generator.named_parameters(), *gcl.structure.named_parameters()] if n.endswith("bias")
    )
    gamma = gcl.generator.up[0].norm.gamma
    assert gamma.min() >= 0
    assert gamma.max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("amp", [False, True], ids=["fp32", "bf16"])
def test_compiled_networks_equal_eager(amp):
    """Check that outputs and gradients of full graphs are as near to float64 as those of eager networks.

    There are several eager runs, on images that differ by rounding: one ReLU on the other side of zero changes these
    gradients by half a percent, and chance decides which run has one.
    """
    torch.compiler.reset()
    torch.manual_seed(0)
    demo = ModelConfig.demo()
    few = {  # every kind of layer once, because compiling takes long
        "structure": dataclasses.replace(demo.structure, blocks=1),
        "generator": dataclasses.replace(demo.generator, blocks=1),
        "discriminator": dataclasses.replace(demo.discriminator, scales=1),
    }
    gcl = GCL(dataclasses.replace(demo, **few)).to(memory_format=CHANNELS_LAST)
    image, structure_map = randn(8, 3, 48, 40).to(memory_format=CHANNELS_LAST), randn(8, 1, 48, 40)
    buffers = {name: buffer.clone() for name, buffer in gcl.named_buffers()}

    def outputs(gcl: GCL, amp: bool, image: torch.Tensor = image) -> dict[str, torch.Tensor]:
        for name, buffer in gcl.named_buffers():
            buffer.copy_(buffers[name])
        dtype = next(gcl.parameters()).dtype
        with torch.autocast("cpu", torch.bfloat16) if amp else contextlib.nullcontext():
            parts, embedding = gcl.identity(image.to(dtype))
            code = gcl.structure(structure_map.to(dtype))
            picture = gcl.generator(code, parts)
            (score,) = gcl.discriminator(picture)
        results = {"parts": parts, "embedding": embedding, "code": code, "picture": picture, "score": score}
        # Random directions, because mean squares are constant after a norm and their gradients are noise
        loss = sum((r.double() * randn(*r.shape, dtype=torch.float64)).sum() for r in results.values())
        gradients = torch.autograd.grad(loss, list(gcl.parameters()))
        results |= {name: gradient for (name, _), gradient in zip(gcl.named_parameters(), gradients, strict=True)}
        return {name: r.detach().double() for name, r in results.items()}

    def distances(made: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: (made[name] - exact).norm() for name, exact in truth.items()}

    truth = outputs(deepcopy(gcl).double(), False)
    rounded = [image * (1 + 1e-7 * noise) for noise in randn(6, *image.shape)]
    eager = [distances(outputs(gcl, amp, picture)) for picture in (image, *rounded)]
    for network in (gcl.identity, gcl.structure, gcl.generator, gcl.discriminator):
        network.compile(fullgraph=True)
    compiled = distances(outputs(gcl, amp))
    gradients = {name for name, _ in gcl.named_parameters()}
    largest = max(truth[name].norm() for name in gradients)
    floor = 1e-3 if amp else 1e-5
    for name, exact in truth.items():
        # The gradient of a bias before a norm is rounding alone, so it is compared with the largest gradient
        allowed = 2 * max(run[name] for run in eager) + floor * (largest if name in gradients else exact.norm())
        assert compiled[name] <= allowed, name
