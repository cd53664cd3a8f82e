"""One run: its folder, its networks, its stages, and how it is saved, resumed and evaluated."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import fields, replace
from types import TracebackType
from typing import Any

import torch
import yaml

from gcl_fast.assessment.assess import Assessment
from gcl_fast.atomic import write_atomically
from gcl_fast.distributed.random_state import random_state, seed_all, set_random_state
from gcl_fast.distributed.ranks import Ranks
from gcl_fast.distributed.restarts import mark_launch, restarted
from gcl_fast.distributed.sync_norm import synchronize_norms
from gcl_fast.errors import UserError
from gcl_fast.evaluation.figures import training_curves
from gcl_fast.inputs import make_embedded_dataset, open_inputs, open_source, prepare_source
from gcl_fast.models import GCL, check_size
from gcl_fast.optim import precision as arithmetic
from gcl_fast.optim.stability import RunningStatistics, naming_what_to_lower
from gcl_fast.run.checkpoint import check_fit, load_state, save_state, save_weights
from gcl_fast.run.header import facts
from gcl_fast.run.initialize import initialize
from gcl_fast.run.logs import RunLog, tolerating_a_full_disk
from gcl_fast.run.loop import Interruption, Position, run_stage
from gcl_fast.run.restore import SOURCE_NORMS
from gcl_fast.settings import ALL_STAGES, ClusteringConfig, JointConfig, RunConfig, WarmupConfig, difference, to_dict
from gcl_fast.stages import clustering, graphs
from gcl_fast.stages.generative import Generative
from gcl_fast.stages.joint import Joint
from gcl_fast.stages.source import Source
from gcl_fast.stages.stage import Stage
from gcl_fast.stages.warmups import warmup_of

FREE_ON_RESUME = {
    *("runs", "name", "device", "compile", "cache", "checkpoint_seconds", "keep_checkpoints", "log_every", "stages"),
    *("smpl", "structure_maps", "cuda_graphs"),
}
# Settings that may change on resuming, and are said to: what too little memory, other ranks, a divergence or outliers
# alone ask for
TUNABLE_ON_RESUME = {
    *("source.lr", "source.identities", "warmup.lr", "generative.lr", "joint.lr", "joint.lr_identity"),
    *("warmup.batch", "warmup.identities", "generative.batch", "joint.batch"),
    *(f"{stage}.clustering.{field.name}" for stage in ("warmup", "joint") for field in fields(ClusteringConfig)),
}


class Run:
    """A context manager: opens or resumes the run of `config`, then `train(stage)` for each stage.

    Leaves in its folder: config.yaml, metrics.jsonl, events/, summary.json, checkpoints/ (states to resume from, and
    <stage>.safetensors), views/<stage>.png.

    Raises:
        UserError: a run of that name exists and `resume` is False, or it has other settings, or stopped in another
            stage than is next; a folder that cannot be written; anything wrong with the dataset.
    """

    def __init__(self, config: RunConfig, ranks: Ranks, resume: bool) -> None:
        self.config, self.ranks, self.folder = config, ranks, config.folder
        check_size(*config.size)
        graphs.choose(config, ranks)  # refuses cuda_graphs=on where it cannot be, before anything is made
        (again,) = ranks.any(restarted(self.folder))  # where ranks' hosts differ, rank 0's knows
        resume = resume or again
        changed = self._open_folder(resume) if ranks.main else []
        ranks.barrier()
        self.log = RunLog(self.folder, ranks.main)
        self.log.say(f"gcl_fast: run {self.folder}")
        for line in changed:
            self.log.say(f"  changed on resuming: {line}")
        self.state = self._load_state() if resume else None
        self.summary: dict[str, Any] = {"stages": {}} if self.state is None else self.state["summary"]
        trains_on_source = self._trains_on_source()
        if trains_on_source and ranks.main:
            prepare_source(config)
        if config.dataset == "synthetic" and ranks.main:
            make_embedded_dataset(config)
        ranks.barrier()
        seed_all(config.seed)
        self.inputs = open_inputs(config)
        if trains_on_source:
            self.inputs = replace(self.inputs, source=open_source(config, self.inputs.dataset))
        steps = arithmetic.planned_steps(config, len(self.inputs.dataset.train), ranks.world_size)
        self.precision = arithmetic.choose(config.amp, ranks.device, config.compile, steps)
        self.gcl = GCL(config.model)
        came_from = initialize(self.gcl, config)
        self.gcl.to(ranks.device).to(memory_format=torch.channels_last)
        if config.sync_bn:
            synchronize_norms(self.gcl, ranks)
        ranks.broadcast_(self.gcl)
        self.precision.compile(*self.gcl.children())
        if self.state is not None:
            check_fit(self.gcl.state_dict(), self.state["gcl"], self.folder)
            self.gcl.load_state_dict(self.state["gcl"])
        self.log.header(facts(config, self.inputs, ranks, self.precision, came_from))
        self.statistics = RunningStatistics(self.gcl)
        self.assessment = Assessment(config, self.inputs, ranks, self.precision)
        self.interruption = Interruption()
        self._look_ahead()

    def __enter__(self) -> Run:
        self._watch = self.interruption.watched()
        self._watch.__enter__()
        done = list(self.summary["stages"])
        if self.state is None:
            self.log.rewind("", 0, [])  # what a run left that was killed before its first checkpoint
            self.summary["initial"] = self.assessment.retrieval(self.gcl)
            self.log.say(f"initial: {_percent(self.summary['initial'])}")
        else:
            stage, step = self.state["stage"], self.state["at"]["step"]
            self.log.rewind(stage, step, done)
            self.log.say(f"resumed: {stage} at step {step}" if stage not in done else f"resumed: {stage} is complete")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watch.__exit__(kind, error, trace)
        if kind is None and self.ranks.main:
            with tolerating_a_full_disk("curves.png"):
                training_curves(self.folder / "metrics.jsonl", self.folder / "curves.png")
            kept = self.log.summary(self.summary)  # once more: the disk may have refused it after its stage
            self.log.say(
                f"done: {self.folder}/summary.json, {self.folder}/views"
                if kept
                else f"done, without {self.folder}/summary.json: the same command with --resume writes it"
            )
        self.log.close()

    def train(self, name: str) -> None:
        """Run the stage called `name` to its end, or what is left of it, then evaluate; nothing when it is complete.

        Raises:
            UserError: it was begun on other crops.
        """
        if name in self.summary["stages"]:
            return
        at, crops = Position(), self._crops(name)
        if self.state is not None and self.state["stage"] == name and self.state.get("crops", crops) != crops:
            raise UserError(
                f"{self.folder}: {name} was begun on other crops than {self.inputs.dataset.root} holds now; put those"
                f" back as they were, or choose another --name (weights to start from: {self.folder}/checkpoints)"
            )
        with naming_what_to_lower(name, self.config, self.ranks.device):
            stage = self._stage(name)
            if self.state is not None:
                set_random_state(self.state["random"], self.ranks)
                if self.state["stage"] == name:
                    stage.load_state_dict(self.state["stage_state"])
                    at = Position(**self.state["at"])
            self.state = None
            self.log.say(f"{name}: crops by {stage.loader.notice}")
            save = lambda: self._save(stage, at, crops)
            run_stage(stage, at, self.log, self.ranks, self.interruption, save, self.statistics, self.config)
        if captured := stage.graphs.release():  # their memory is for the evaluation
            self.log.say(f"{name}: {captured}")
        if self.ranks.main:
            save_weights(self.folder / "checkpoints" / f"{name}.safetensors", self.gcl.state_dict())
        started = time.monotonic()
        measured = self.assessment.after(name, self.gcl, self.folder / "views")
        self._keep_best(name, measured)
        self.log.metrics(name, at.step, measured)
        apart = self._by_source_norms(stage) if isinstance(stage, Source) else {}
        counts = {"steps": at.step, **({"skipped": at.skipped} if at.skipped else {})}
        self.summary["stages"][name] = {**measured, **apart, "seconds": round(at.seconds, 1), **counts}
        self.log.say(
            f"{name}: {_percent(measured)}, {at.step} steps in {at.seconds:.0f} s, "
            f"evaluated in {time.monotonic() - started:.0f} s"
        )
        self._save(stage, at, crops)
        self.log.summary(self.summary)

    def _load_state(self) -> dict[str, Any] | None:
        """The newest checkpoint.

        Raises:
            UserError: it is another one on another rank, or stopped in a stage that is not the next of --stages.
        """
        state = load_state(self.folder / "checkpoints")
        at = (-1, 0) if state is None else (ALL_STAGES.index(state["stage"]), state["at"]["step"])
        everywhere = self.ranks.gather(torch.tensor([at]))
        if bool((everywhere != everywhere[0]).any()):
            raise UserError(
                f"{self.folder}: the newest checkpoint is not the same on all ranks; --runs must be one folder for all"
                " machines"
            )
        done = {} if state is None else state["summary"]["stages"]
        if state is not None and (stage := state["stage"]) not in done:
            left = [name for name in self.config.stages if name not in done]
            if left[:1] != [stage]:
                further = [name for name in left if ALL_STAGES.index(name) > ALL_STAGES.index(stage)]
                raise UserError(
                    f"{self.folder} stopped in the {stage} stage at step {at[1]}, and --stages"
                    f" {' '.join(self.config.stages)} does not go on there; --stages {' '.join([stage, *further])}"
                    " does, --name starts another run"
                )
        return state

    def _crops(self, stage: str) -> str:
        """A digest of the names of the crops that `stage` trains on."""
        source = self.inputs.source if stage == "source" else None
        names = [*self.inputs.dataset.train.names, *(source.train.names if source is not None else ())]
        return hashlib.sha256("\n".join(names).encode(errors="surrogateescape")).hexdigest()

    def _look_ahead(self) -> None:
        """Open now what a later stage would miss after hours.

        Raises:
            UserError: structure maps that cannot be had, or a clustering that cannot be made here.
        """
        ahead = [stage for stage in self.config.stages if stage not in self.summary["stages"]]
        if "generative" in ahead or "joint" in ahead:
            for split in dict.fromkeys(("train", self.assessment.split_for_views() or "train")):
                self.inputs.check_structure_maps(split)
        for stage, settings in (("warmup", self.config.warmup), ("joint", self.config.joint)):
            if stage in ahead and isinstance(settings, WarmupConfig | JointConfig):  # JVTC clusters on the CPU
                clustering.check(settings.clustering, stage, len(self.inputs.dataset.train), self.ranks.device)

    def _trains_on_source(self) -> bool:
        """Whether the source stage is still to be run, or gone on with.

        Raises:
            UserError: there is a source, and the other stages are to begin without it.
        """
        if self.config.source is None or "source" in self.summary["stages"]:
            return False
        if "source" not in self.config.stages:
            raise UserError(
                f"--source {self.config.source.dataset}: {self.folder} has not been trained on it; add source to"
                " --stages"
            )
        return True

    def _by_source_norms(self, stage: Source) -> dict[str, dict[str, float]]:
        """Keep the networks with the source's norms; their retrieval on the target (what transfer without adaptation
        gives) and on the source's own test set."""
        assert self.inputs.source is not None
        encoder = stage.finished()
        weights = self.gcl.state_dict() | encoder.state_dict(prefix="identity.")
        if self.ranks.main:
            save_weights(self.folder / "checkpoints" / f"{SOURCE_NORMS}.safetensors", weights)
        on_target = self.assessment.retrieval_in(self.inputs.dataset, encoder)
        on_source = self.assessment.retrieval_in(self.inputs.source, encoder)
        self.log.say(f"source only: {_percent(on_target)}; on its own test set: {_percent(on_source)}")
        return {"source_only": on_target, "source_test": on_source}

    def _stage(self, name: str) -> Stage:
        kinds: dict[str, Callable[..., Stage]] = {"source": Source, "generative": Generative, "joint": Joint}
        kind = warmup_of(self.config) if name == "warmup" else kinds[name]
        return kind(self.config, self.gcl, self.inputs, self.ranks, self.precision)

    def _save(self, stage: Stage, at: Position, crops: str) -> bool:
        """Write a checkpoint; whether the disk took it, the same answer on every rank."""
        state = {
            "summary": self.summary,
            "stage": stage.name,
            "at": vars(at),
            "crops": crops,
            "stage_state": stage.state_dict(),
            "gcl": self.gcl.state_dict(),
            "random": random_state(self.ranks),
        }
        refused = False
        if self.ranks.main:
            before = sum(done["steps"] for name, done in self.summary["stages"].items() if name != stage.name)
            path = save_state(self.folder / "checkpoints", before + at.step, state, self.config.keep_checkpoints)
            refused = path is None
        (refused,) = self.ranks.any(refused)
        return not refused

    def _keep_best(self, stage: str, measured: dict[str, float]) -> None:
        """Keep the weights as best.safetensors where no stage before reached this mAP."""
        before = self.summary.get("best", {"mAP": 0.0})
        if measured.get("mAP", -1.0) >= before["mAP"]:
            self.summary["best"] = {"stage": stage, "mAP": measured["mAP"]}
            if self.ranks.main:
                save_weights(self.folder / "checkpoints" / "best.safetensors", self.gcl.state_dict())

    def _open_folder(self, resume: bool) -> list[str]:
        """Make the folder and write the settings; which of them differ from those it was left with.

        What a command left that was refused before its first step is no run, and is written over.
        """
        settings, metrics = self.folder / "config.yaml", self.folder / "metrics.jsonl"
        begun = settings.exists() and (
            (metrics.exists() and metrics.stat().st_size > 0) or any((self.folder / "checkpoints").glob("step_*.pt"))
        )
        if begun and not resume:
            raise UserError(f"{self.folder} holds a run already: --resume goes on with it, --name starts another")
        changed: list[str] = []
        if begun:
            old, new = yaml.safe_load(settings.read_text()), to_dict(self.config)
            changed = [line for line in difference(old, new) if line.split(":")[0] not in FREE_ON_RESUME]
            refused = [line for line in changed if line.split(":")[0] not in TUNABLE_ON_RESUME]
            if refused:
                raise UserError(
                    f"{settings} has other settings than this command; repeat its flags, or choose another --name:"
                    + "".join(f"\n  {line}" for line in refused)
                )
        text = yaml.safe_dump(to_dict(self.config), sort_keys=False)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            mark_launch(self.folder)
            write_atomically(settings, lambda file: file.write(text.encode()))
        except OSError as error:
            raise UserError(
                f"cannot write to {self.folder} ({error.strerror}); choose another place with --runs DIR"
            ) from error
        return changed


def _percent(metrics: dict[str, float]) -> str:
    if "mAP" not in metrics:
        return "no labelled query and gallery, no retrieval"
    return f"mAP {100 * metrics['mAP']:.1f} %, rank-1 {100 * metrics['rank1']:.1f} %"
