"""Print one line of JSON: the facts of this machine. Exit status 2, with a sentence, where there is no GPU.

python -m on_gpu.facts --device cuda
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from typing import Any

import torch

from lib.reporting import facts as benchmark_facts

OPTIONAL = {  # distribution, any of -> what it is for
    ("nvidia-dali-cuda130", "nvidia-dali-cuda120"): "DALI",
    ("cuml-cu13", "cuml-cu12"): "cuML",
    ("faiss-gpu", "faiss-cpu"): "faiss",
    ("apex",): "apex",
    ("pytorch3d",): "PyTorch3D",
    ("torchmetrics",): "torchmetrics",
    ("pytest",): "pytest",
}
NEEDED = ("torch", "torchvision", "triton", "numpy", "scipy", "scikit-learn", "pillow", "safetensors")


def version(*names: str) -> str:
    """Return the version of the first distribution that is installed, or "not installed"."""
    for name in names:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "not installed"


def output_of(*command: str) -> str:
    """Return what a program prints, or "" where it is not installed."""
    if shutil.which(command[0]) is None:
        return ""
    return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout.strip()


def of_gpu() -> dict[str, Any]:
    """Return card, memory and driver of the GPU."""
    properties = torch.cuda.get_device_properties(0)
    driver = output_of("nvidia-smi", "--query-gpu=driver_version,clocks.max.sm,power.limit", "--format=csv,noheader")
    return {
        "card": properties.name,
        "compute capability": f"{properties.major}.{properties.minor}, {properties.multi_processor_count} processors",
        "GPU memory": f"{properties.total_memory / 2**30:.1f} GiB",
        "driver, clock, power limit": driver.splitlines()[0] if driver else "unknown: no nvidia-smi",
        "cuDNN": str(torch.backends.cudnn.version()),
        "TF32": f"convolutions {torch.backends.cudnn.allow_tf32}, products {torch.backends.cuda.matmul.allow_tf32}"
        " unless a row says otherwise",
    }


def main() -> int:
    """Print the facts and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), required=True)
    device = parser.parse_args().device
    if device == "cuda" and not torch.cuda.is_available():
        print(
            f"benchmarks/gpu.py: no GPU here (torch {torch.__version__} finds no CUDA device);"
            " --device cpu tries the script with tiny sizes",
            file=sys.stderr,
        )
        return 2
    common, nvcc = benchmark_facts(device), re.search(r"release (\S+),", output_of("nvcc", "--version"))
    facts: dict[str, Any] = of_gpu() if device == "cuda" else {}
    facts |= {
        "CPU": f"{benchmark_facts('cpu')['machine']}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "Python": platform.python_version(),
        "CUDA of torch, nvcc": f"{torch.version.cuda}, {nvcc[1] if nvcc else 'no nvcc'}",
        "versions": ", ".join(f"{name} {version(name)}" for name in NEEDED),
        "optional": ", ".join(f"{name}: {version(*distributions)}" for distributions, name in OPTIONAL.items()),
        "commit": common["commit"],
    }
    print(json.dumps(facts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
