"""Shared by all tests: golden arrays and their weights, a tiny world to train on, devices, bounds on a GPU's memory.

A test that asks for `device` runs on the CPU and, marked gpu, on a GPU.
"""

import functools
import gc
import io
import json
import os
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from gcl_fast.process import set_openmp_waiting

# As every entry does, before torch is imported: beside one busy program the tests of convolutions take 74 s so on two
# cores, and more than 280 s otherwise.
set_openmp_waiting()
CORES = len(os.sched_getaffinity(0))
os.environ.setdefault("OMP_NUM_THREADS", str(max(1, CORES // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1)))))
sys.path.insert(0, str(Path(__file__).parent))  # for trainer.py and the emulated GPU, under --import-mode=importlib

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from trainer import Trainer  # noqa: E402

from gcl_fast.settings import PUBLISHED, STAGES  # noqa: E402

GOLDEN = Path(__file__).parent / "golden"
TRAIN = Path(__file__).parents[1] / "gcl_fast" / "train.py"

TINY = [
    "--amp", "--compile", "off", "--set", *PUBLISHED,
    "world.identities=6", "world.cameras=3", "world.crops=2", "height=64", "width=40",
    "warmup.epochs=2", "warmup.steps_per_epoch=3", "warmup.identities=4", "warmup.crops=2", "warmup.clustering.k1=6",
    "generative.epochs=2", "generative.reconstruction_epochs=1", "generative.batch=6",
    "joint.epochs=2", "joint.batch=6", "joint.clustering.k1=6", "joint.clustering.eps=0.95", "joint.decay_epoch=1",
    "log_every=1", "checkpoint_seconds=0",
]  # fmt: skip
GPU_MEMORY = 14 << 30  # bytes that this process may take: the suite must fit a card of 16 GiB beside its children


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of the arrays made by the official implementation."""
    return GOLDEN


def _formula(name: str, shape: list[int]) -> torch.Tensor:
    """The golden run's weight of that official name."""
    if name.endswith("num_batches_tracked"):
        return torch.tensor(0)
    s = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(int(np.prod(shape))).reshape(shape)
    if name.endswith("running_var"):
        s = 1 + 0.5 * np.abs(s)
    elif (name.endswith("weight") and len(shape) == 1) or name.endswith("gamma"):
        s = 1 + 0.1 * s
    elif name.endswith(("bias", "beta", "running_mean")):
        s = 0.02 * s
    else:
        s = s * np.sqrt(2 / np.prod(shape[1:]))
    return torch.from_numpy(s.astype(np.float32))


@pytest.fixture(scope="session")
def official(golden: Path) -> dict[str, dict[str, torch.Tensor]]:
    """State dicts of the golden run, under official names: gen, dis, id."""
    shapes = json.loads((golden / "official_state_dict_shapes.json").read_text())
    return {part: {name: _formula(name, shape) for name, shape in names.items()} for part, names in shapes.items()}


@pytest.fixture(scope="session")
def network_arrays(golden: Path) -> dict[str, torch.Tensor]:
    """What the official networks and steps made of these weights."""
    with np.load(golden / "networks.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded dataset with 6 + 6 people, 3 cameras, 2 crops each."""
    from gcl_fast.synthetic import WorldConfig, make_world

    return make_world(tmp_path_factory.mktemp("world") / "world", WorldConfig(identities=6, cameras=3, crops=2))


@pytest.fixture(scope="session")
def source_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An embedded source for it with 5 + 5 people."""
    from gcl_fast.settings import SourceConfig
    from gcl_fast.synthetic import make_world

    config = replace(SourceConfig().world, identities=5, cameras=3, crops=2)
    return make_world(tmp_path_factory.mktemp("source") / "source", config, progress=False)


@pytest.fixture(scope="session")
def command(world: Path) -> Callable[..., list[str]]:
    """command(runs, name, *flags): a tiny training run as a list of arguments that takes more settings at its end."""

    def make(runs: Path, name: str, *flags: str) -> list[str]:
        return [sys.executable, str(TRAIN), *flags, *TINY, f"data_root={world}", f"runs={runs}", f"name={name}"]

    return make


@pytest.fixture(scope="session")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainer]:
    """Starts runs of train.py on the CPU, without the seconds that importing takes."""
    trainer = Trainer(tmp_path_factory.mktemp("trainer"))
    yield trainer
    trainer.close()


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """The device a test runs on, "cpu" or "cuda"."""
    return request.param


@pytest.fixture
def allow_tf32() -> Iterator[Callable[[bool], None]]:
    """allow_tf32(allowed): whether products and convolutions of float32 may round to TF32 on a GPU, for this test."""
    backends = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [backend.allow_tf32 for backend in backends]

    def allow(*allowed: bool) -> None:
        for backend, value in zip(backends, allowed * (2 // len(allowed))):
            backend.allow_tf32 = value

    yield allow
    allow(*before)


@pytest.fixture
def exact_float32(allow_tf32: Callable[[bool], None]) -> None:
    """Keep products and convolutions of float32 in float32: torch lets a GPU's convolutions round to TF32."""
    allow_tf32(False)


@functools.cache
def _take_a_small_card_s_memory() -> None:
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, GPU_MEMORY / total), 0)


@pytest.fixture(autouse=True)
def _bounded_gpu_memory(request: pytest.FixtureRequest) -> Iterator[None]:
    """Bound what tests marked gpu take, and give it back after each, for the next one and for child processes."""
    needs_gpu = request.node.get_closest_marker("gpu") is not None
    if needs_gpu:
        _take_a_small_card_s_memory()
    yield
    if needs_gpu:
        gc.collect()
        torch.cuda.empty_cache()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return a worker for each core, at most four, for the whole suite.

    Named files run in this process, as do all tests where there is a GPU, whose memory workers would share.
    """
    whole = config.args_source == pytest.Config.ArgsSource.TESTPATHS
    return min(4, CORES) if whole and CORES > 1 and not torch.cuda.is_available() else 0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):  # keywords hold the names of folders as well
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def finished(command: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that went through all three stages undisturbed, under torchrun."""
    runs = tmp_path_factory.mktemp("runs")
    python, *arguments = command(runs, "whole")
    torchrun = [python, "-m", "torch.distributed.run", "--standalone", *arguments]
    done = subprocess.run(torchrun, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    (runs / "whole" / "stdout.txt").write_text(done.stdout)
    return runs / "whole"


@pytest.fixture(scope="session")
def differing() -> Callable[..., list[str]]:
    """differing(run, other, *names): the tensors of `run`'s weights of those names (all stages') that are not equal."""

    def find(run: Path, other: Path, *names: str) -> list[str]:
        found = []
        for name in names or STAGES:
            ours, theirs = (load_file(folder / "checkpoints" / f"{name}.safetensors") for folder in (run, other))
            found += [f"{name}: {tensor}" for tensor in theirs if not torch.equal(ours[tensor], theirs[tensor])]
        return found

    return find


@pytest.fixture(scope="session")
def saved() -> Callable[[Any], Any]:
    """saved(state): the state through a file, as a checkpoint goes."""

    def through_a_file(state: Any) -> Any:
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        return torch.load(file, weights_only=True)

    return through_a_file
