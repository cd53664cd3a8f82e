"""One recipe, two ways to build the ops: setup.py calls `build` ahead of time, `load` calls it at first use.

python -m gcl_fast.csrc.build                 build into the cache and print where
FORCE_CUDA=1 python -m gcl_fast.csrc.build    also the CUDA kernels, no GPU needed: prints registers, fails on a spill

Every *.cpp and *.cu beside this file goes into one library. A source may ask for flags of its own on its first line,
`// flags: -ffp-contract=off` (a .cu file: nvcc's flags). No flag names the CPU: a hot function is compiled for several
instruction sets and picked at load time (simd.h), so a library built here runs on every machine of the architecture.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

CSRC = Path(__file__).resolve().parent
NAME = "gcl_fast_ops"
ABI = "-DTORCH_TARGET_VERSION=0x020a000000000000"  # torch 2.10: a newer symbol is a compile error, not a load error
# Without these, a choice between two results is vectorized only where the CPU has masks (AVX-512), for fear of a trap
# that nobody set: with AVX2 alone, padding with a slope took nine times as long, the contrastive loss 1.2 times.
NO_TRAPS = ("-fno-math-errno", "-fno-trapping-math")
DEFAULT_ARCHITECTURES = "8.0;9.0;10.0+PTX"  # when none is named and no GPU can be asked


@dataclass(frozen=True)
class Recipe:
    """How to make the library: one compile command per source (without its output), the link flags, and a notice."""

    compiles: tuple[tuple[str, ...], ...]
    link: tuple[str, ...]
    notice: str
    mark: (
        str  # compiled into the library: tells whether a library on disk was made from these sources, with CUDA or not
    )

    def key(self) -> str:
        """Hash of everything that can change the binary: commands, source text, compiler and torch versions."""
        compilers = {command[0] for command in self.compiles}
        versions = [subprocess.run([c, "--version"], capture_output=True, text=True).stdout for c in sorted(compilers)]
        return _hash(self.compiles, self.link, versions)


def _hash(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def _sources(*suffixes: str) -> list[Path]:
    return sorted(path for path in CSRC.iterdir() if path.suffix in suffixes)


def _own_flags(source: Path) -> list[str]:
    with source.open() as lines:
        first = lines.readline()
    return first.removeprefix("// flags:").split() if first.startswith("// flags:") else []


def _user_error(message: str) -> Exception:
    try:
        from gcl_fast.errors import UserError
    except ModuleNotFoundError:  # called by setup.py, before the package is installed
        return ValueError(message)
    return UserError(message)


def find_toolkit() -> Path | None:
    """Root of the CUDA toolkit (include/, lib64/), or None; nvcc itself is asked: the one on PATH may be a wrapper."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    candidates = [*(f"{home}/bin/nvcc" for home in homes if home), shutil.which("nvcc")]
    nvcc = next((path for path in candidates if path and Path(path).exists()), None)
    if nvcc is None:
        return None
    said = subprocess.run([nvcc, "--dryrun", "-x", "cu", "-c", os.devnull], capture_output=True, text=True).stderr
    top = re.search(r"TOP=(\S+)", said)
    root = Path(top[1]).resolve() if top else Path(nvcc).resolve().parent.parent
    return root if (root / "lib64" / "libcudart.so").exists() and (root / "include").is_dir() else None


def gencode(architectures: str) -> list[str]:
    """nvcc flags of a TORCH_CUDA_ARCH_LIST: "8.0;9.0+PTX" -> sm_80 and sm_90 code, compute_90 PTX for later GPUs."""
    flags = []
    for arch in architectures.replace(" ", ";").split(";"):
        number = arch.removesuffix("+PTX").replace(".", "")
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if arch.endswith("+PTX"):
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


def recipe() -> Recipe:
    """Sources and flags for this machine.

    CUDA kernels are built when a toolkit is found and a GPU is there or FORCE_CUDA=1; NO_CUDA=1 leaves them out.

    Raises:
        UserError: FORCE_CUDA=1 without a usable toolkit, or a toolkit of another major version than torch's.
    """
    root, compiler = Path(torch.__file__).parent, os.environ.get("CXX", "g++")
    wanted, gpus = os.environ.get("NO_CUDA") != "1", torch.cuda.device_count()
    forced = wanted and os.environ.get("FORCE_CUDA") == "1"
    toolkit = find_toolkit() if forced or (wanted and gpus) else None
    if forced and (toolkit is None or torch.version.cuda is None):
        raise _user_error(
            f"FORCE_CUDA=1, but {'no CUDA toolkit' if toolkit is None else 'this torch has no CUDA'}: "
            "set CUDA_HOME to a folder that has bin/nvcc and lib64/libcudart.so, and install a CUDA build of torch"
        )
    with_cuda = toolkit is not None and torch.version.cuda is not None
    mark = f"{_hash([p.read_text() for p in _sources('.cpp', '.cu', '.h')])}-{'cuda' if with_cuda else 'cpu'}"
    common = ["-O3", *NO_TRAPS, "-std=c++20", "-Wall", ABI, f'-DGCL_MARK="{mark}"', f"-I{root / 'include'}", "-fPIC"]
    link = [f"-L{root / 'lib'}", "-ltorch", "-ltorch_cpu", "-lc10"]
    if toolkit is not None and with_cuda:
        common += ["-DWITH_CUDA", "-DUSE_CUDA", f"-I{toolkit / 'include'}"]  # USE_CUDA opens the CUDA part of shim.h
    host = tuple((compiler, *common, *_own_flags(path), "-c", str(path)) for path in _sources(".cpp"))
    if toolkit is None or not with_cuda:
        missing = ": GPU found, but no CUDA toolkit" if wanted and gpus else ""
        return Recipe(host, tuple(link), f"CPU only{missing}", mark)
    nvcc = str(toolkit / "bin" / "nvcc")
    said = subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout
    release = re.search(r"release (\d+)\.(\d+)", said)
    if release is None or release[1] != str(torch.version.cuda).split(".")[0]:
        raise _user_error(
            f"{toolkit} is CUDA {release and release[0]}, torch was built with {torch.version.cuda}: "
            "set CUDA_HOME to a toolkit of torch's major version, or NO_CUDA=1 for the CPU ops alone"
        )
    capabilities = sorted({"{}.{}".format(*torch.cuda.get_device_capability(i)) for i in range(gpus)})
    architectures = os.environ.get("TORCH_CUDA_ARCH_LIST") or ";".join(capabilities) or DEFAULT_ARCHITECTURES
    flags = ["-O3", "-std=c++20", "-Xcompiler=-fPIC", "--resource-usage", *gencode(architectures)]
    device = tuple((nvcc, *flags, *_own_flags(path), "-c", str(path)) for path in _sources(".cu"))
    link += ["-ltorch_cuda", f"-L{toolkit / 'lib64'}", "-lcudart"]
    return Recipe((*host, *device), tuple(link), f"CPU and CUDA ({architectures})", mark)


def build(output: Path, how: Recipe) -> str:
    """Compile and link `how` into the shared library `output`; returns what the compilers said.

    The library appears under its name only when it is complete, so that a reader needs no lock.

    Raises:
        UserError: there is no C++ compiler; the message says what to install.
        RuntimeError: a command failed; the message holds the command and its output.
    """
    compiler = how.compiles[0][0]
    if shutil.which(compiler) is None:
        raise _user_error(
            f"gcl_fast builds its C++ ops at first use and found no compiler called {compiler}: install one "
            "(Debian, Ubuntu: `apt-get install g++`; Fedora: `dnf install gcc-c++`) or name yours in CXX"
        )

    def run(command: list[str]) -> str:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"building {output.name} failed: {' '.join(command)}\n{done.stderr}")
        return done.stderr

    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent) as scratch, ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = [f"{scratch}/{number}.o" for number in range(len(how.compiles))]
        logs = list(pool.map(run, ([*command, "-o", o] for command, o in zip(how.compiles, objects, strict=True))))
        library = Path(scratch) / output.name
        run([compiler, "-shared", *objects, *how.link, "-o", str(library)])
        library.replace(output)
    return "".join(logs)


def library() -> Path:
    """The built library: the ahead-of-time one beside this file where it is of these sources, else the cached one,
    built now when it is missing."""
    how = recipe()
    ahead = CSRC / f"{NAME}.so"
    if ahead.exists() and how.mark.encode() in ahead.read_bytes():
        return ahead
    from filelock import FileLock  # setup.py needs this file, but not this package

    home = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "gcl_fast"
    cache = Path(os.environ.get("GCL_FAST_CACHE") or home)
    output = cache / f"torch{torch.__version__}-{how.key()}" / f"{NAME}.so"
    output.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(output.parent / "lock"):  # ranks of one node start together: one builds, the others wait and read
        if not output.exists():
            start = time.perf_counter()
            (output.parent / "build.log").write_text(build(output, how))
            print(f"gcl_fast: built {NAME} ({how.notice}) in {time.perf_counter() - start:.1f} s", file=sys.stderr)
    return output


def load() -> None:
    """Register the ops with torch (`torch.ops.gcl_fast`), building them first where that has not been done."""
    torch.ops.load_library(str(library()))


def resource_report(log: str) -> tuple[list[str], bool]:
    """What ptxas said of each kernel: one line per kernel and architecture, and whether any of them spills."""
    lines, spills, kernel = [], False, ""
    for line in log.splitlines():
        if entry := re.search(r"Compiling entry function '(\w+)' for '(\w+)'", line):
            name = re.search(r"\d+([a-z_]+_kernel)", entry[1])
            kernel = f"{entry[2]} {name[1] if name else entry[1]}"
        elif spill := re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line):
            spilled = int(spill[1]) + int(spill[2])
            spills |= spilled > 0
        elif used := re.search(r"Used (\d+) registers", line):
            lines.append(f"{kernel}: {used[1]} registers, {spilled} bytes spilled")
    return lines, spills


def main() -> int:
    """Build, print where and what the kernels use; exit status 1 when a kernel spills registers."""
    path = library()
    print(path)
    log = path.parent / "build.log"
    lines, spills = resource_report(log.read_text() if log.exists() else "")
    print("\n".join(lines))
    return int(spills)


if __name__ == "__main__":
    sys.exit(main())
