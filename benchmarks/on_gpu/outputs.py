"""Compare each network on a device with the CPU, at both presets' sizes, in float32, TF32 and bfloat16.

python -m on_gpu.outputs --device cuda

A CPU is compared with itself, in float32 and bfloat16, at the demo's size.
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext

import torch
from torch import Tensor

from gcl_fast.losses import DiscriminatorLoss
from gcl_fast.models import GCL
from gcl_fast.process import prepare_process
from gcl_fast.settings import preset
from on_gpu.ops import off
from on_gpu.rows import check, emit

BATCH = 4
# arithmetic -> share of an output's norm, and of a gradient's, that it may be off the CPU's float32. TF32 keeps 11 bits
# of an operand, bfloat16 8; fifty layers and their norms amplify that, and ReLUs that fall to the other side of zero
ALLOWED = {"float32": (1e-3, 2e-2), "TF32": (1e-2, 0.2), "bfloat16": (0.05, 0.6)}


def outputs(gcl: GCL, image: Tensor, maps: Tensor, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Return each network's output for a batch, and the gradient of one of its weights."""
    device = image.device.type
    with torch.autocast(device, dtype) if dtype else nullcontext():
        parts, embedding = gcl.identity(image)
        code = gcl.structure(maps)
        generated = gcl.generator(code.detach(), parts.detach())
        realism = gcl.discriminator(image)[0]
        adversarial = DiscriminatorLoss(gcl.discriminator, 1.0)(image, *3 * [image.flip(0)]).total
    pairs = {
        "identity encoder, parts": (parts, gcl.identity),
        "identity encoder, embedding": (embedding, gcl.identity),
        "structure encoder": (code, gcl.structure),
        "generator": (generated, gcl.generator),
        "discriminator": (realism, gcl.discriminator),
        "discriminator loss with R1": (adversarial, gcl.discriminator),
    }
    tensors: dict[str, Tensor] = {}
    for name, (output, network) in pairs.items():
        weight = next(p for p in network.parameters() if p.dim() == 4)
        direction = output.detach().sin()  # a mean square is constant behind a norm
        (gradient,) = torch.autograd.grad((output.float() * direction).sum(), weight, retain_graph=True)
        tensors |= {name: output.detach().cpu(), f"gradient of {name}": gradient.cpu()}
    return tensors


def main() -> None:
    """Compare and report."""
    prepare_process()  # as train.py does
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), required=True)
    device = parser.parse_args().device
    for name in ("demo", "paper") if device == "cuda" else ("demo",):
        config = preset(name)
        torch.manual_seed(0)
        gcl = GCL(config.model).eval().to(memory_format=torch.channels_last)
        image, maps = torch.randn(BATCH, 3, *config.size), torch.rand(BATCH, 1, *config.size) * 2 - 1
        truth = outputs(gcl, image, maps, None)
        gcl.to(device)
        for arithmetic in ALLOWED if device == "cuda" else ("float32", "bfloat16"):
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = arithmetic == "TF32"
            dtype = torch.bfloat16 if arithmetic == "bfloat16" else None
            for what, value in outputs(gcl, image.to(device), maps.to(device), dtype).items():
                allowed = ALLOWED[arithmetic][what.startswith("gradient")]
                size = f"{name}, {arithmetic}" + ("" if arithmetic == "TF32" else ", TF32 off")
                emit(check(what, size, off(value, truth[what]), allowed))


if __name__ == "__main__":
    main()
