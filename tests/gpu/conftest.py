"""The stages of training on a device of choice, opened on the tiny world."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import pytest
import torch

from gcl_fast.distributed.ranks import Ranks
from gcl_fast.inputs import open_inputs, open_source
from gcl_fast.models import GCL
from gcl_fast.optim.precision import Precision
from gcl_fast.settings import PUBLISHED, RunConfig, override, preset, source_preset, warmup_preset
from gcl_fast.stages.generative import Generative
from gcl_fast.stages.joint import Joint
from gcl_fast.stages.source import Source
from gcl_fast.stages.stage import Stage
from gcl_fast.stages.warmups import make_warmup

CLUSTERED = ["warmup.identities=4", "warmup.crops=2", "warmup.clustering.k1=6", "warmup.steps_per_epoch=4"]
SETTINGS = {  # kind of stage -> what makes it tiny
    "cluster": CLUSTERED,
    "cluster, hardest": [*CLUSTERED, "warmup.memory=hardest"],
    "cluster, cameras": [*CLUSTERED, "warmup.memory=cameras"],
    "mmcl": ["warmup.batch=9", "warmup.single_label_epochs=0"],
    "jvtc": ["warmup.batch=4", "warmup.variants=2", "warmup.clustering.k1=6", "warmup.clustering.min_samples=2",
             "warmup.global_epoch=0", "warmup.steps_per_epoch=4"],
    "source": ["source.steps_per_epoch=4", "source.identities=4", "source.crops=2"],
    "reconstruction": ["generative.batch=4", "generative.reconstruction_epochs=1"],
    "generative": ["generative.batch=4", "generative.reconstruction_epochs=0"],
    "joint": ["joint.batch=4", "joint.clustering.k1=6", "joint.clustering.eps=0.6", "generative.weights.mixup=1"],
}  # fmt: skip
DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class Opened:
    """A stage at the beginning of its first epoch."""

    stage: Stage
    gcl: GCL
    batches: list[tuple[torch.Tensor, torch.Tensor]]  # (images, index) of its first three steps

    def step(self, position: int, **to: str) -> dict[str, torch.Tensor]:
        """Take the step at `position` of the first epoch."""
        images, index = self.batches[position]
        return self.stage.step(images.to(**to), index.to(**to), 0, position)


@pytest.fixture
def opened(world: Path, source_world: Path) -> Callable[..., Opened]:
    """opened(kind, device, arithmetic): the stage of that kind; its epoch is begun, its first batches are there.

    arithmetic: of DTYPES, and compiled where ", compiled" follows.
    """

    def make(kind: str, device: str, arithmetic: str = "fp32", begin: bool = True) -> Opened:
        config = config_of(kind, world, source_world)
        name, _, compiled = arithmetic.partition(", ")
        precision = Precision(device, DTYPES[name], "", bool(compiled))
        inputs = open_inputs(config)
        if kind == "source":
            inputs = replace(inputs, source=open_source(config, inputs.dataset))
        torch.manual_seed(0)
        gcl = GCL(config.model).to(device).to(memory_format=torch.channels_last)
        precision.compile(*gcl.children())
        stages = {"source": Source, "reconstruction": Generative, "generative": Generative, "joint": Joint}
        stage = stages.get(kind, make_warmup)(config, gcl, inputs, Ranks(0, 1, torch.device(device)), precision)
        if begin:
            stage.begin_epoch(0)
        return Opened(stage, gcl, list(islice(stage.loader.epoch(stage.plan(0), 0), 3)) if begin else [])

    return make


def config_of(kind: str, world: Path, source_world: Path) -> RunConfig:
    method = kind.split(",")[0]
    config = override(preset("demo"), list(PUBLISHED))
    if method in ("mmcl", "jvtc"):
        config = replace(config, warmup=warmup_preset("demo", method))
    if kind == "source":
        config = replace(config, source=source_preset("demo", "synthetic", str(source_world)))
    return override(config, [f"data_root={world}", "height=48", "width=40", *SETTINGS[kind]])


@pytest.fixture
def refusing_waits() -> Callable[[str], object]:
    """refusing_waits(device): a context within which it is an error that the CPU waits for the GPU."""

    @contextmanager
    def within(device: str) -> Iterator[None]:
        if device != "cuda":
            yield
            return
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")

    return within
