"""Build the C++/CUDA ops for this machine: seconds, and what ptxas says of the kernels.

python -m on_gpu.build --device cuda
"""

from __future__ import annotations

import argparse
import time

from gcl_fast.csrc import build
from on_gpu.rows import emit


def main() -> None:
    """Build into the cache and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), required=True)
    device = parser.parse_args().device
    how = build.recipe()
    start = time.perf_counter()
    library = build.cached(how)
    seconds = time.perf_counter() - start
    lines, spills = build.resource_report((library.parent / "build.log").read_text())
    emit({"kind": "fact", "what": "built for", "measured": how.notice})
    emit({"kind": "fact", "what": "seconds", "measured": f"{seconds:.1f}" + (" (was there)" if seconds < 1 else "")})
    for line in lines:
        kernel, _, used = line.partition(": ")
        emit({"kind": "fact", "what": kernel, "measured": used})
    if device == "cuda":
        claims = {
            "CUDA kernels are built": (how.notice, "CPU and CUDA", how.notice.startswith("CPU and CUDA")),
            "kernels keep to their registers": ("spills" if spills else "no spill", "no spill", not spills),
        }
        for what, (measured, allowed, holds) in claims.items():
            columns = {"size": "", "measured": measured, "allowed": allowed, "holds": holds}
            emit({"kind": "check", "what": what, **columns})
    build.load()


if __name__ == "__main__":
    main()
