"""List the parts of the proof in their order: each has a few commands, bounded in time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from on_gpu.state import ROOT

BENCHMARKS, TESTS = ROOT / "benchmarks", ROOT / "tests"
TRAIN = ROOT / "gcl_fast" / "train.py"
RANKS = ("tests/gpu/test_ranks.py", "tests/distributed/test_ranks.py", "tests/distributed/test_sync_norm.py",
         "tests/run/test_two_processes.py")  # fmt: skip
STAGES, RUNS = "tests/gpu/test_stages.py", "tests/gpu/test_runs.py"
TINY = [  # settings of a world and of stages that take seconds
    "height=64", "width=40", "world.identities=6", "world.cameras=3", "world.crops=2", "warmup.epochs=2",
    "warmup.steps_per_epoch=3", "warmup.identities=4", "warmup.crops=2", "warmup.clustering.k1=6",
    "generative.epochs=2", "generative.reconstruction_epochs=1", "generative.batch=6", "joint.epochs=2",
    "joint.batch=6", "joint.clustering.k1=6", "joint.clustering.eps=0.6", "joint.decay_epoch=1", "log_every=1",
]  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """Holds where commands run. device: "cuda", or "cpu" for a trial with tiny sizes. work: a folder to keep."""

    device: str
    work: Path

    @property
    def trial(self) -> bool:
        """Return whether sizes are tiny."""
        return self.device == "cpu"


@dataclass(frozen=True)
class Command:
    """Represents a command of the proof.

    arguments: of python. seconds: its limit. tool: a program that runs it and may be missing. shown: the page shows its
    output from this text on.
    """

    name: str
    arguments: list[str]
    seconds: float
    tool: tuple[str, ...] = ()
    shown: str = ""


def module(name: str, setting: Setting, *arguments: str) -> list[str]:
    """Return the arguments that run a script of this folder."""
    return ["-m", f"on_gpu.{name}", "--device", setting.device, *arguments]


def benchmark(name: str, *arguments: str) -> list[str]:
    """Return the arguments that run a script of benchmarks/."""
    return [str(BENCHMARKS / f"{name}.py"), *arguments]


def pytest(setting: Setting, paths: list[str], *more: str, marks: str = "gpu", each: bool = False) -> list[str]:
    """Return the arguments that run tests marked gpu, or on a CPU the same bodies. each: a row for every test."""
    marks = marks if not setting.trial else "not gpu and not slow"
    name = "each" if each else "sum"
    files = [str(ROOT / path) for path in paths]
    options = ["-q", "-p", "no:cacheprovider", "--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml")]
    return ["-m", "pytest", *options, "-m", marks, f"--junit-xml={{results}}/{name}.xml", *more, *files]


def ceilings(setting: Setting) -> list[Command]:
    return [Command("ceilings", module("rates", setting), 60)]


def build(setting: Setting) -> list[Command]:
    return [Command("csrc", module("build", setting), 240)]


def tests(setting: Setting) -> list[Command]:
    elsewhere = [f"--ignore={ROOT / path}" for path in (STAGES, RUNS, *RANKS)]  # commands of their own
    paths = ["tests/gpu"] if setting.trial else ["tests"]
    whole = [Command("pytest -m gpu", pytest(setting, paths, *elsewhere, marks="gpu and not slow"), 300)]
    if setting.trial:
        return whole
    return [*whole, Command("pytest -m gpu, runs", pytest(setting, [RUNS], marks="gpu and not slow", each=True), 180)]


def ops(setting: Setting) -> list[Command]:
    names = ("contrast", "bodies", "clusters", "maps")
    if setting.trial:
        return [Command("all", module("ops", setting), 120)]
    return [Command(name, module("ops", setting, "--only", name), 120) for name in names]


def networks(setting: Setting) -> list[Command]:
    return [Command("networks", module("outputs", setting), 90)]


def waits(setting: Setting) -> list[Command]:
    return [Command("steps", pytest(setting, [STAGES], "-k", "waits", marks="gpu and not slow", each=True), 120)]


def runs(setting: Setting) -> list[Command]:
    names = {"amp": 90, "fp32": 90, "killed": 180}
    if setting.trial:
        return [Command("amp, killed", module("runs", setting, "--only", "amp", "killed"), 240)]
    return [Command(name, module("runs", setting, "--only", name), seconds) for name, seconds in names.items()]


def demo(setting: Setting) -> list[Command]:
    return [Command("first command", module("demo", setting), 300)]


def steps(setting: Setting) -> list[Command]:
    pairs = [(stage, size) for size in ("paper", "demo") for stage in ("joint", "generative")]
    if setting.trial:
        pairs = [("joint", "tiny")]  # the other stage is tried compiled
    return [
        Command(f"{stage}, {size}", module("steps", setting, "--stage", stage, "--size", size), 120)
        for stage, size in pairs
    ]


def compiled(setting: Setting) -> list[Command]:
    pairs = [("generative", "tiny")] if setting.trial else [("joint", "paper"), ("generative", "paper")]
    return [
        Command(f"{stage}, {size}", module("steps", setting, "--stage", stage, "--size", size, "--compile"), 300)
        for stage, size in pairs
    ]


def hot_parts(setting: Setting) -> list[Command]:
    on = ("--device", setting.device)
    if setting.trial:
        bank = ("--batch", "4", "--samples", "500", "--negatives", "100", "--dim", "32", "--repeats", "3")
        return [
            Command("run.py", benchmark("run", *on, "--only", "memory-bank", "--repeats", "1"), 120),
            Command(
                "rasterize.py", benchmark("rasterize", *on, "--meshes", "2", "--threads", "1", "--repeats", "2"), 90
            ),
            Command("memory_bank.py", benchmark("memory_bank", *on, *bank, "--only", "ours", "reference"), 60),
            Command("pseudo_labels.py", benchmark("pseudo_labels", *on, "--rows", "600", "--repeats", "2"), 60),
            Command(
                "loader.py", benchmark("loader", *on, "--crops", "64", "--batch-size", "16", "--repeats", "1"), 120
            ),
        ]
    many = ("--batch", "256", "--samples", "1000000", "--bank-dtype", "bfloat16", "--repeats", "10")
    groups = ("loader", "rasterizer", "structure-maps", "transfer", "memory-bank", "clustering", "ranking")
    rows = ("--rows", "12936", "--features", "bank")
    return [
        *(Command(f"run.py, {g}", benchmark("run", *on, "--only", g, "--seconds", "5"), 120) for g in groups),
        Command("rasterize.py", benchmark("rasterize", *on, "--meshes", "16", "64", "256"), 60),
        Command("memory_bank.py", benchmark("memory_bank", *on), 90),
        Command("memory_bank.py, 10^6 rows", benchmark("memory_bank", *on, *many, "--only", "ours"), 60),
        Command(
            "memory_bank.py, 10^6 rows, torch.compile",
            benchmark("memory_bank", *on, *many, "--only", "ours", "compiled reference"),
            120,
        ),
        Command("pseudo_labels.py", benchmark("pseudo_labels", *on, *rows, "--repeats", "7"), 60),
        Command("loader.py", benchmark("loader", *on, "--threads", "8"), 120),
    ]


def epochs(setting: Setting) -> list[Command]:
    small = ("--crops", "48", "--steps", "3") if setting.trial else ()
    return [
        Command(stage, module("epochs", setting, "--stage", stage, *small), 120) for stage in ("generative", "joint")
    ]


def profile(setting: Setting) -> list[Command]:
    out = str(setting.work / "profile")
    common = ["--steps", "10", "--out", out, "--amp", "--compile", "off", "--device", setting.device]
    common += ["--dataset", "synthetic", "--data-root", str(setting.work / "benchmark")]
    size = ["--preset", "paper", "--set", "world.identities=16"]
    if setting.trial:
        common[1], size = "2", ["--set", *TINY, "warmup.steps_per_epoch=20", "joint.batch=2", "generative.batch=2"]
    return [
        Command(stage, benchmark("profile_hotspots", "--stage", stage, *common, *size), 120, shown=f"{stage} stage,")
        for stage in ("warmup", "generative", "joint")
    ]


def sanitizer(setting: Setting) -> list[Command]:
    tool = ("compute-sanitizer", "--tool", "memcheck", "--error-exitcode", "9")
    chosen = pytest(setting, ["tests/render"], "-k", "equals and not opcheck")
    return [Command("rasterizer", chosen, 200, tool=tool)]


def ranks(setting: Setting) -> list[Command]:
    paths = list(RANKS[:2] if setting.trial else RANKS)
    return [Command("NCCL with one rank, two ranks on one GPU", pytest(setting, paths, each=True), 300)]


@dataclass(frozen=True)
class Part:
    """Holds a section of the page and the commands that fill it."""

    heading: str
    commands: Callable[[Setting], list[Command]]


PARTS = {  # in this order; the facts of the machine come before all of them
    "ceilings": Part("Ceilings measured on this machine", ceilings),
    "build": Part("Building the C++/CUDA ops", build),
    "tests": Part("Tests marked gpu", tests),
    "ops": Part("Ops against their references at real sizes", ops),
    "networks": Part("Networks beside the CPU", networks),
    "waits": Part("No wait within a step", waits),
    "runs": Part("Tiny runs of all stages, killed, resumed, across devices", runs),
    "demo": Part("The first command", demo),
    "steps": Part("Training steps beside the official formulation", steps),
    "parts": Part("Hot parts beside their peers", hot_parts),
    "compiled": Part("Training steps compiled", compiled),
    "epochs": Part("Epochs of the paper preset, extrapolated", epochs),
    "profile": Part("Where a step's time goes", profile),
    "sanitizer": Part("compute-sanitizer", sanitizer),
    "ranks": Part("Ranks on one machine", ranks),
}
