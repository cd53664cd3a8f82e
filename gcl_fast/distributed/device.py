"""Explain why a GPU cannot be used, in a sentence with the way out."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import torch

from gcl_fast.errors import UserError

DRIVER = Path("/proc/driver/nvidia/version")  # exists where the NVIDIA driver is loaded


def why_no_gpu() -> str:
    """Return why torch finds no GPU although a driver is installed, or "" on a machine without one.

    There are three reasons. The driver is older than the CUDA that torch was built with, torch was built without CUDA,
    or CUDA_VISIBLE_DEVICES hides the GPUs.
    """
    if torch.cuda.is_available() or not (DRIVER.exists() or shutil.which("nvidia-smi")):
        return ""
    if torch.version.cuda is None:
        return f"an NVIDIA driver is here, but torch {torch.__version__} was built without CUDA: install a CUDA build"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns with the same text
            torch.cuda.init()
        reason = "no GPU is visible"
    except RuntimeError as error:
        reason = str(error).split(". ")[0].split("\n")[0]
    return (
        f"an NVIDIA driver is here, but torch {torch.__version__} cannot use it ({reason}): update the driver to one"
        f" for CUDA {torch.version.cuda}, install a torch for the driver's CUDA, or check CUDA_VISIBLE_DEVICES"
    )


def check_architecture(device: torch.device) -> None:
    """Refuse a GPU for which this torch has no kernels; its first launch would raise an error without a way out.

    Raises:
        UserError: the GPU is older than every architecture that torch was built for.
    """
    architectures = sorted(int(name.removeprefix("sm_")) for name in torch.cuda.get_arch_list() if name[3:].isdigit())
    major, minor = torch.cuda.get_device_capability(device)
    if architectures and 10 * major + minor < architectures[0]:
        raise UserError(
            f"--device {device}: {torch.cuda.get_device_name(device)} is sm_{major}{minor}, and torch"
            f" {torch.__version__} has kernels from sm_{architectures[0]} on; install a torch built for an older CUDA,"
            " or pass --device cpu"
        )
