"""Compare the adversarial losses with their definition by double backward, eager and compiled."""

import contextlib

import pytest
import torch

from gcl_fast.losses import DiscriminatorLoss, GeneratorAdversarialLoss, LossWeights, Views, frozen, generator_losses
from gcl_fast.models import Discriminator, DiscriminatorConfig

GAMMA = 1.0  # at the recipe's 0.01 the penalty would be too small a share of the gradients
KINDS = 3


def images(batch: int = 4, device: str = "cpu") -> tuple[torch.Tensor, ...]:
    """Draw crops and three kinds of fakes, (B, 3, 40, 40) each."""
    kinds = torch.randn(1 + KINDS, batch, 3, 40, 40, generator=torch.Generator().manual_seed(1))
    return kinds.to(device).unbind()


def make(dtype: torch.dtype = torch.float32) -> Discriminator:
    torch.manual_seed(0)
    discriminator = Discriminator(DiscriminatorConfig(scales=2, channels=4, blocks=0))
    for parameter in discriminator.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # N(0, 0.02) leaves gradients of 1e-9
    return discriminator.to(dtype)


def autocast(amp: bool, device: str = "cpu"):
    return torch.autocast(device, torch.bfloat16) if amp else contextlib.nullcontext()


def definition(discriminator: Discriminator, real: torch.Tensor, *fakes: torch.Tensor) -> torch.Tensor:
    """Compute the loss as the official loop does: real crops once per kind of fake, R1 with create_graph=True."""
    total = 0
    for fake in fakes:
        real = real.detach().requires_grad_()
        for r, f in zip(discriminator(real), discriminator(fake.detach()), strict=True):
            (gradient,) = torch.autograd.grad(r.sum(), real, create_graph=True)
            penalty = gradient.double().square().sum((1, 2, 3)).mean()
            total = total + f.double().square().mean() + (r.double() - 1).square().mean() + GAMMA * penalty
    return total


def value_and_gradients(total: torch.Tensor, discriminator: Discriminator) -> list[torch.Tensor]:
    return [total.detach(), *torch.autograd.grad(total, list(discriminator.parameters()))]


def reference(dtype: torch.dtype = torch.float32, amp: bool = False) -> list[torch.Tensor]:
    discriminator = make(dtype)
    with autocast(amp):
        total = definition(discriminator, *(p.to(dtype) for p in images()))
    return value_and_gradients(total, discriminator)


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["eager", "compiled"])
@pytest.mark.parametrize("amp", [False, True], ids=["fp32", "bf16"])
def test_equals_eager_double_backward(exact_float32, compiled, amp, device):
    if compiled:
        torch.compiler.reset()
    module = DiscriminatorLoss(make().to(device), GAMMA)
    if compiled:
        module.compile(fullgraph=True)
    with autocast(amp, device):
        terms = module(*images(device=device))
    assert terms.total.dtype == torch.float32
    torch.testing.assert_close(terms.total, terms.fake.sum() + KINDS * (terms.real + GAMMA * terms.penalty))
    for ours, plain, truth in zip(
        value_and_gradients(terms.total, module.discriminator),
        reference(amp=amp),
        reference(torch.float64),
        strict=True,
    ):
        allowed = 2 * (plain - truth).abs().max() + (1e-2 if amp else 1e-5) * truth.abs().max()
        assert (ours.cpu() - truth).abs().max() <= allowed


def test_penalty_reaches_every_weight():
    def gradients(gamma: float) -> list[torch.Tensor]:
        discriminator = make()
        return value_and_gradients(DiscriminatorLoss(discriminator, gamma)(*images()).total, discriminator)[1:]

    names = [name for name, _ in make().named_parameters()]
    for name, with_penalty, without in zip(names, gradients(GAMMA), gradients(0.0), strict=True):
        if name.endswith("weight"):
            assert (with_penalty - without).norm() > 1e-3 * without.norm(), name


def test_lazy_penalty_is_left_out_or_heavier():
    module = DiscriminatorLoss(make(), GAMMA)
    each, never, fourth = (module(*images(), every=every) for every in (1, 0, 4))
    assert never.penalty == 0
    torch.testing.assert_close(never.real, each.real)
    torch.testing.assert_close(each.total - never.total, KINDS * GAMMA * each.penalty)
    torch.testing.assert_close(fourth.total - never.total, 4 * KINDS * GAMMA * each.penalty)


def test_float16_leaves_the_penalty_in_float32():
    truth = DiscriminatorLoss(make(), GAMMA)(*images())
    with torch.autocast("cpu", torch.float16):
        half = DiscriminatorLoss(make(), GAMMA)(*images())
    assert torch.equal(half.penalty, truth.penalty)
    assert not torch.equal(half.fake, truth.fake)


def test_generator_loss_reaches_images_and_not_the_discriminator():
    discriminator = make()
    fakes = [p.requires_grad_() for p in images()[1:]]
    losses = GeneratorAdversarialLoss(discriminator)(*fakes)
    for ours, fake in zip(losses, fakes, strict=True):
        torch.testing.assert_close(ours, 2 * sum((m - 1).square().mean() for m in discriminator(fake)))
    losses.sum().backward()
    assert all(fake.grad.abs().sum() > 0 for fake in fakes)
    assert all(p.grad is None and p.requires_grad for p in discriminator.parameters())


def test_frozen_restores_trainable_parameters_even_after_an_error():
    discriminator = make()
    first, *rest = discriminator.parameters()
    first.requires_grad_(False)
    with pytest.raises(RuntimeError), frozen(discriminator):
        discriminator(images()[0])[0].sum().backward()  # nothing to differentiate
    assert not first.requires_grad
    assert all(p.requires_grad for p in rest)


def test_weights_and_the_feature_switch():
    real, x_rec, x_new, x_cyc = images()
    parts, parts_rec, parts_new, parts_cyc = torch.randn(4, 4, 8, generator=torch.Generator().manual_seed(2))
    views = Views(x_rec, x_new, x_cyc, parts, parts_rec, parts_new, parts_cyc, parts, parts_new, code=parts)
    adversarial = GeneratorAdversarialLoss(make())
    weights = LossWeights(image=2, feature=3, adversarial=0.5, view=7, mixup=11)
    code = generator_losses(views, real, adversarial, weights, view=torch.tensor(1.5), mixup=torch.tensor(0.5))
    kinds = adversarial(*views.fakes)
    expected = 2 * ((x_rec - real).abs().mean() + (x_cyc - real).abs().mean()) + 0.5 * kinds.sum() + 7 * 1.5 + 11 * 0.5
    expected = expected + 3 * ((parts_rec - parts).abs().mean() + (parts_cyc - parts).abs().mean())
    torch.testing.assert_close(code["total"], expected)
    paper = generator_losses(views, real, adversarial, LossWeights(feature_loss_on="novel_view"))
    torch.testing.assert_close(paper["feature_new"], (parts_new - parts).abs().mean())
    assert "feature_rec" not in paper
    assert not {"view", "mixup"} & paper.keys()
