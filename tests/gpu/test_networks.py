"""Each network on a device beside the CPU: outputs and gradients in float32, with TF32, under autocast."""

from contextlib import nullcontext

import pytest
import torch

from gcl_fast.losses import DiscriminatorLoss
from gcl_fast.models import GCL, ModelConfig

SIZE = (64, 40)
# arithmetic -> how far outputs and gradients may be off, as a share of their norm: about three times what a CPU is
# off in bfloat16 (0.013, 0.18) and float16 (0.044, 0.064), whose 11 bits are those of TF32. fp32 is without TF32
ALLOWED = {"fp32": (1e-3, 2e-2), "tf32": (1e-2, 0.2), "bf16": (0.04, 0.5), "fp16": (0.13, 0.2)}
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
CASES = [
    ("cpu", "fp32"),
    ("cpu", "bf16"),
    *(pytest.param("cuda", arithmetic, marks=pytest.mark.gpu) for arithmetic in ALLOWED),
]


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.fixture(scope="module")
def networks() -> GCL:
    torch.manual_seed(0)
    return GCL(ModelConfig.demo())


def results(name: str, gcl: GCL, device: str, dtype: torch.dtype | None) -> dict[str, torch.Tensor]:
    """What network `name` makes of a batch, and the gradients of its weights, on the CPU in float64."""
    gcl = gcl.to(device).to(memory_format=torch.channels_last).eval()
    image = randn(4, 3, *SIZE).to(device, memory_format=torch.channels_last)
    code = randn(4, gcl.config.structure.code, SIZE[0] // 4, SIZE[1] // 4).to(device)
    parts = randn(4, gcl.config.identity.part_features).to(device)
    calls = {
        "identity": lambda: gcl.identity(image),
        "structure": lambda: [gcl.structure(image[:, :1])],
        "generator": lambda: [gcl.generator(code, parts)],
        "discriminator": lambda: gcl.discriminator(image),
        "discriminator with R1": lambda: [DiscriminatorLoss(gcl.discriminator, 1.0)(image, *image.flip(0)[None]).total],
    }
    with torch.autocast(device, dtype) if dtype else nullcontext():
        tensors = {f"output {i}": output for i, output in enumerate(calls[name]())}
    # Random directions: sums behind a norm are constant, and their gradients noise
    loss = sum((output.float() * randn(*output.shape).to(device)).sum() for output in tensors.values())
    network = getattr(gcl, name.split()[0])
    weights = {weight: p for weight, p in network.named_parameters() if p.dim() > 1}
    gradients = dict(zip(weights, torch.autograd.grad(loss, list(weights.values()), allow_unused=True), strict=True))
    tensors |= {weight: gradient for weight, gradient in gradients.items() if gradient is not None}
    return {key: value.detach().double().cpu() for key, value in tensors.items()}


@pytest.mark.parametrize(("device", "arithmetic"), CASES)
@pytest.mark.parametrize("name", ["identity", "structure", "generator", "discriminator", "discriminator with R1"])
def test_equals_the_cpu(networks, allow_tf32, name, device, arithmetic):
    truth = results(name, networks, "cpu", None)
    allow_tf32(arithmetic == "tf32")
    outcome = results(name, networks, device, AUTOCAST.get(arithmetic))
    networks.cpu()
    assert outcome.keys() == truth.keys()
    largest = max(value.norm() for key, value in truth.items() if not key.startswith("output"))
    for key, exact in truth.items():
        of_output, of_gradient = ALLOWED[arithmetic]
        is_output = key.startswith("output")
        allowed = of_output * exact.norm() if is_output else of_gradient * exact.norm() + 1e-3 * largest
        assert (outcome[key] - exact).norm() <= allowed, key
