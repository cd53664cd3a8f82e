"""Build the ops, by one recipe in two ways: setup.py calls `build` ahead of time, `load` calls it at first use.

python -m gcl_fast.csrc.build                 build into the cache and print where
FORCE_CUDA=1 python -m gcl_fast.csrc.build    also the CUDA kernels, no GPU needed: prints registers, fails on a spill

Every *.cpp and *.cu beside this file goes into one library. A source may ask for flags of its own on its first line,
`// flags: -ffp-contract=off` (a .cu file: nvcc's flags). No flag names the CPU: a hot function is compiled for several
instruction sets and picked at load time (simd.h), so a library built here runs on every machine of the architecture.

The variable GCL_FAST_CXXFLAGS holds flags that come behind all others, for C++ and for the linker: `-Werror`, or
`-fsanitize=undefined`. A library of other flags lies at another place of the cache.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from gcl_fast.atomic import write_atomically
from gcl_fast.cache_folder import cache_folder, refuse_strangers
from gcl_fast.console import open_console
from gcl_fast.errors import UserError
from gcl_fast.versions import check_torch

CSRC = Path(__file__).resolve().parent
NAME = "gcl_fast_ops"
ABI = "-DTORCH_TARGET_VERSION=0x020a000000000000"  # torch 2.10: a newer symbol is a compile error, not a load error
# Without these, a choice between two results is vectorized only where the CPU has masks (AVX-512), for fear of a trap
# that nobody set: with AVX2 alone, padding with a slope took nine times as long, the contrastive loss 1.2 times.
NO_TRAPS = ("-fno-math-errno", "-fno-trapping-math")
# No -Werror: a compiler newer than ours may warn of more, and that must not keep anybody from training. CI sets it.
WARNINGS = ("-Wall", "-Wextra", "-Wshadow", "-Wcast-qual", "-Wundef", "-Wnon-virtual-dtor")
FLAGS = ("-O3", *NO_TRAPS, "-std=c++20", *WARNINGS, ABI, "-fPIC")
OLDEST = "GCC 10 or clang 10, or a later one"  # that knows -std=c++20
NVCC_FLAGS = ("-O3", "-std=c++20", "-Xcompiler=-fPIC", "--resource-usage")
CPU, CUDA = "cpu", f"cuda{torch.version.cuda}"  # ends of a library's mark
USUAL_HOME = "/usr/local/cuda"  # of a toolkit that is not on PATH
DEFAULT_ARCHITECTURES = "8.0;9.0;10.0+PTX"  # when none is named and no GPU can be asked


@dataclass(frozen=True)
class Recipe:
    """Holds how to make the library: one compile command per source (without its output), link flags, a notice."""

    compilers: tuple[tuple[str, ...], ...]  # the one for C++, which also links, and nvcc where it is used
    compiles: tuple[tuple[str, ...], ...]
    link: tuple[str, ...]
    notice: str
    mark: str  # compiled into the library: of which sources and flags it is, and with CUDA or not

    def key(self) -> str:
        """Hash everything that can change the binary: commands, source text, compiler and torch versions.

        Raises:
            UserError: there is no C++ compiler; the message says what to install.
        """
        _check_compiler(self)
        versions = [subprocess.run([*c, "--version"], capture_output=True, text=True).stdout for c in self.compilers]
        return _hash(self.compiles, self.link, versions)


def _hash(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def _sources(*suffixes: str) -> list[Path]:
    return sorted(path for path in CSRC.iterdir() if path.suffix in suffixes)


def _own_flags(source: Path) -> list[str]:
    with source.open() as lines:
        first = lines.readline()
    return first.removeprefix("// flags:").split() if first.startswith("// flags:") else []


def _check_compiler(how: Recipe) -> None:
    compiler = how.compilers[0][0]
    if shutil.which(compiler) is None:
        raise UserError(
            f"gcl_fast builds its C++ ops at first use and found no compiler called {compiler}: install one "
            "(Debian, Ubuntu: `apt-get install g++`; Fedora: `dnf install gcc-c++`) or name yours in CXX"
        )


@dataclass(frozen=True)
class Toolkit:
    """Holds where a CUDA toolkit is: its root, its major version, and the folder of its runtime library."""

    root: Path
    major: str
    libraries: Path

    @property
    def nvcc(self) -> str:
        """Return the path of the compiler."""
        return str(self.root / "bin" / "nvcc")

    def link(self) -> list[str]:
        """Return the linker's flags for the runtime library, which pip installs under its versioned name alone."""
        plain = (self.libraries / "libcudart.so").exists()
        return [f"-L{self.libraries}", "-lcudart" if plain else f"-l:libcudart.so.{self.major}"]


def find_toolkit() -> Toolkit | None:
    """Find the CUDA toolkit of torch's major version; None where there is none at all.

    The places, in this order: CUDA_HOME, CUDA_PATH, the nvcc on PATH, the usual folder, pip's packages (the extra
    `cuda`). Where none is of torch's version the first toolkit is returned, for the message that says so.
    """
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    candidates = [f"{home}/bin/nvcc" for home in homes if home]
    candidates += [shutil.which("nvcc") or "", f"{USUAL_HOME}/bin/nvcc", f"{_pip_home()}/bin/nvcc"]
    first = None
    for nvcc in candidates:  # each is asked twice, which takes time at every import: no further than needed
        toolkit = _toolkit_of(nvcc)
        if toolkit is not None and toolkit.major == _cuda_major():
            return toolkit
        first = first or toolkit
    return first


def _cuda_major() -> str:
    return str(torch.version.cuda).split(".")[0]


def _pip_home() -> Path:
    """Return the folder of pip's CUDA packages of torch's version; torch's own requirements lie there too."""
    return Path(torch.__file__).parents[1] / "nvidia" / f"cu{_cuda_major()}"


def _toolkit_of(nvcc: str) -> Toolkit | None:
    """Return the toolkit that a compiler belongs to, or None.

    nvcc itself is asked, since the one on PATH may be a wrapper.
    """
    if not nvcc or not Path(nvcc).exists():
        return None
    dry_run = subprocess.run([nvcc, "--dryrun", "-x", "cu", "-c", os.devnull], capture_output=True, text=True).stderr
    top = re.search(r"TOP=(\S+)", dry_run)
    root = Path(top[1]).resolve() if top else Path(nvcc).resolve().parent.parent
    release = re.search(r"release (\d+)", subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout)
    runtime = [library for name in ("lib64", "lib") for library in (root / name).glob("libcudart.so*")]
    whole = bool(runtime) and (root / "include" / "cuda_runtime.h").exists()
    return Toolkit(root, release[1] if release else "of an unknown version", runtime[0].parent) if whole else None


def gencode(architectures: str) -> list[str]:
    """Return nvcc's flags for a TORCH_CUDA_ARCH_LIST.

    "8.0;9.0+PTX" stands for code of sm_80 and sm_90, and PTX of compute_90 for later GPUs.
    """
    flags = []
    for arch in architectures.replace(" ", ";").split(";"):
        number = arch.removesuffix("+PTX").replace(".", "")
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if arch.endswith("+PTX"):
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


def _usable_toolkit() -> tuple[Toolkit | None, str]:
    """Return the toolkit that builds for this torch; or None and why there is none."""
    if torch.version.cuda is None:
        return None, "this torch has no CUDA"
    toolkit = find_toolkit()
    if toolkit is None:
        return None, "no CUDA toolkit"
    if toolkit.major != _cuda_major():
        return None, f"{toolkit.root} is CUDA {toolkit.major}, torch was built with {torch.version.cuda}"
    return toolkit, ""


def recipe() -> Recipe:
    """Choose sources and flags for this machine.

    CUDA kernels are built when a toolkit of torch's major version is found and a GPU is there or FORCE_CUDA=1;
    NO_CUDA=1 leaves them out.

    Raises:
        UserError: FORCE_CUDA=1 without such a toolkit.
    """
    check_torch(torch.__version__)
    root, compiler = Path(torch.__file__).parent, tuple(shlex.split(os.environ.get("CXX") or "g++"))
    wanted, gpus = os.environ.get("NO_CUDA") != "1", range(torch.cuda.device_count())
    forced = wanted and os.environ.get("FORCE_CUDA") == "1"
    toolkit, why_none = _usable_toolkit() if forced or (wanted and gpus) else (None, "")
    if forced and toolkit is None:
        raise UserError(
            f"FORCE_CUDA=1, but {why_none}: install a CUDA build of torch, then `pip install -e '.[cuda]'` for a "
            "compiler of its version, or name a toolkit of that version (bin/nvcc, include/, lib64/) in CUDA_HOME"
        )
    more = shlex.split(os.environ.get("GCL_FAST_CXXFLAGS", ""))
    digest = _hash([p.read_text() for p in _sources(".cpp", ".cu", ".h")], FLAGS, NVCC_FLAGS, more)
    mark = f"{digest}-{CUDA if toolkit else CPU}"
    common = [*FLAGS, f'-DGCL_MARK="{mark}"', f"-isystem{root / 'include'}"]  # no warnings of torch's own headers
    link = [*more, f"-L{root / 'lib'}", "-ltorch", "-ltorch_cpu", "-lc10"]
    if toolkit is not None:
        # USE_CUDA opens the CUDA part of shim.h
        common += ["-DWITH_CUDA", "-DUSE_CUDA", f"-isystem{toolkit.root / 'include'}"]
    host = tuple((*compiler, *common, *_own_flags(path), *more, "-c", str(path)) for path in _sources(".cpp"))
    if toolkit is None:
        way_out = "`pip install -e '.[cuda]'` brings one of torch's version"
        why = f": GPU found, but {why_none} ({way_out})" if why_none else ""
        return Recipe((compiler,), host, tuple(link), f"CPU only{why}", mark)
    capabilities = sorted({torch.cuda.get_device_capability(i) for i in gpus})
    here = ";".join(f"{major}.{minor}" for major, minor in capabilities)
    # PTX of the newest, since a library built ahead of time may meet a later GPU than this machine's
    architectures = os.environ.get("TORCH_CUDA_ARCH_LIST") or (f"{here}+PTX" if here else DEFAULT_ARCHITECTURES)
    flags = [*NVCC_FLAGS, *gencode(architectures)]
    device = tuple((toolkit.nvcc, *flags, *_own_flags(path), "-c", str(path)) for path in _sources(".cu"))
    link += ["-ltorch_cuda", *toolkit.link()]
    notice = f"CPU and CUDA ({architectures})"
    return Recipe((compiler, (toolkit.nvcc,)), (*host, *device), tuple(link), notice, mark)


def build(output: Path, how: Recipe) -> str:
    """Compile and link `how` into the shared library `output`, and return the compilers' messages.

    The library appears under its name only when it is complete, so that a reader needs no lock.

    Raises:
        UserError: there is no C++ compiler, or a command failed; the message says what to install.
        OSError: the folder of `output` cannot be written.
    """
    _check_compiler(how)

    def run(command: list[str]) -> str:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise UserError(_failure(command, done.stderr))
        return done.stderr

    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent) as scratch, ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = [f"{scratch}/{number}.o" for number in range(len(how.compiles))]
        logs = list(pool.map(run, ([*command, "-o", o] for command, o in zip(how.compiles, objects, strict=True))))
        library = Path(scratch) / output.name
        run([*how.compilers[0], "-shared", *objects, *how.link, "-o", str(library)])
        write_atomically(output, lambda file: file.write(library.read_bytes()))
    return "".join(logs)


def _failure(command: list[str], messages: str) -> str:
    """Return the sentence on a command that failed: its compiler, the line that says why, the version needed."""
    lines = [line.strip() for line in messages.splitlines() if line.strip()]
    faults = [line for line in lines if "error" in line.lower()] or lines[-1:] or ["it printed nothing"]
    version = subprocess.run([command[0], "--version"], capture_output=True, text=True).stdout.splitlines()
    return (
        f"{(version or command)[0]} cannot build gcl_fast's C++ ops ({faults[0][:300]}): they need {OLDEST}; name"
        f" another compiler in CXX, or repeat the command that failed: {shlex.join(command)}"
    )


def cached(how: Recipe) -> Path:
    """Return the library of `how` in the cache, built now when it is missing; build.log is in the same folder.

    Raises:
        UserError: it cannot be built, the cache cannot be written, or another user can have put the library there.
    """
    output = cache_folder() / f"torch{torch.__version__}-{how.key()}" / f"{NAME}.so"
    refuse_strangers(cache_folder(), output.parent, output)
    if output.exists():  # a reader takes no lock, so a warmed cache may be read-only
        return output
    try:
        return _built(output, how)
    except OSError as error:
        raise UserError(
            f"gcl_fast's C++ ops cannot be written to {output.parent} ({error.strerror or error}); name a folder that"
            " can be written in GCL_FAST_CACHE"
        ) from error


def _built(output: Path, how: Recipe) -> Path:
    """Build `output` unless another process does; raise an OSError where its folder cannot be written."""
    from filelock import FileLock  # setup.py needs this file, but not this package

    for folder in (cache_folder(), output.parent):
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)  # a umask of 0 would let every user write
    if os.environ.get("LOCAL_RANK", "0") == "0":  # of torchrun: one process of each machine prints this
        print(_announcement(how, output.parent), file=sys.stderr, flush=True)
    with FileLock(output.parent / "lock"):  # ranks of one node start together: one builds, the others wait and read
        if not output.exists():
            text = build(output, how)
            output.chmod(output.stat().st_mode & ~stat.S_IWOTH)
            write_atomically(output.parent / "build.log", lambda file: file.write(text.encode()))
    return output


def _announcement(how: Recipe, folder: Path) -> str:
    """Return the line that a build prints before it starts; programs without a log see it as well."""
    seconds = "about a minute on two cores" if len(how.compilers) == 1 else "some minutes"
    return (
        f"gcl_fast: building its C++ ops ({how.notice}) into {folder}: {seconds}, once for each version of gcl_fast and"
        " torch"
    )


def library() -> Path:
    """Return the built library: the one ahead of time where it is of these sources and flags, else the cached one.

    A library with CUDA serves a machine that could not build it: a node without the toolkit, or without a GPU.
    """
    how, ahead = recipe(), CSRC / f"{NAME}.so"
    marks = {how.mark} if os.environ.get("NO_CUDA") == "1" else {how.mark, how.mark.replace(f"-{CPU}", f"-{CUDA}")}
    held = ahead.read_bytes() if ahead.exists() else b""
    return ahead if any(mark.encode() in held for mark in marks) else cached(how)


@cache
def load() -> None:
    """Register the ops with torch (`torch.ops.gcl_fast`), building them first where that has not been done."""
    torch.ops.load_library(str(library()))


def resource_report(log: str) -> tuple[list[str], bool]:
    """Return ptxas's facts, one line per kernel and architecture, and whether any kernel spills."""
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
    """Build into the cache, print where and what the kernels use, and return the exit status.

    It is 1 when a kernel spills registers, and 2 when this machine cannot build.
    """
    open_console()
    try:
        path = cached(recipe())
    except UserError as error:
        print(f"gcl_fast: {error}", file=sys.stderr)
        return 2
    print(path)
    lines, spills = resource_report((path.parent / "build.log").read_text())
    print("\n".join(lines))
    return int(spills)


if __name__ == "__main__":
    sys.exit(main())
