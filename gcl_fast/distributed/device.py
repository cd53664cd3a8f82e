"""Why a GPU that is there cannot be used, in a sentence with the way out."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import torch

from gcl_fast.errors import UserError

DRIVER = Path("/proc/driver/nvidia/version")  # there where the NVIDIA driver is loaded


def why_no_gpu() -> str:
    """Say why torch finds no GPU although a driver is here, or return "" on a machine without one.

    The driver can be older than the CUDA that torch was built with, torch can be built without CUDA, or the GPUs are
    hidden by CUDA_VISIBLE_DEVICES.
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
        f" for CUDA {torch.version.cuda}, install a torch for the driver's CUDA, or look at CUDA_VISIBLE_DEVICES"
    )


def check_architecture(device: torch.device) -> None:
    """Refuse a GPU for which this torch has no kernels: its first launch would end in an error of CUDA's own.

    Raises:
        UserError: the GPU is older than every architecture that torch was built for.
    """
    built = sorted(int(name.removeprefix("sm_")) for name in torch.cuda.get_arch_list() if name[3:].isdigit())
    major, minor = torch.cuda.get_device_capability(device)
    if built and 10 * major + minor < built[0]:
        raise UserError(
            f"--device {device}: {torch.cuda.get_device_name(device)} is sm_{major}{minor}, and torch"
            f" {torch.__version__} has kernels from sm_{built[0]} on; install a torch built for an older CUDA, or pass"
            " --device cpu"
        )
