"""Train a run in one process: its networks, and how a stage is begun, trained and assessed."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import torch

from gcl_fast.assessment.assess import Assessment
from gcl_fast.distributed.random_state import random_state, seed_all, set_random_state
from gcl_fast.distributed.ranks import Ranks
from gcl_fast.distributed.sync_norm import synchronize_norms
from gcl_fast.errors import UserError
from gcl_fast.inputs import Inputs
from gcl_fast.models import GCL
from gcl_fast.models.checkpoint_files import reading_once
from gcl_fast.optim.precision import choose as choose_precision
from gcl_fast.optim.precision import planned_steps
from gcl_fast.optim.stability import RunningStatistics, naming_what_to_lower
from gcl_fast.run.folder import RunFolder
from gcl_fast.run.header import facts
from gcl_fast.run.initialize import initialize
from gcl_fast.run.look_ahead import look_ahead
from gcl_fast.run.loop import Interruption, Position, run_stage
from gcl_fast.run.weights import IDENTITY, check_fit, describe, describe_data, digest_of_names
from gcl_fast.settings import SOURCE_NORMS, RunConfig
from gcl_fast.stages.source import Source
from gcl_fast.stages.stage import Stage


class Session:
    """Holds the networks of a run on this rank, from their first weights or from a checkpoint.

    Each stage is taken by `begin`, `train` and `assess`.

    Args:
        config: the settings.
        inputs: the opened dataset, with its source where the run trains on one first.
        ranks: all of them make this object.
        folder: where checkpoints, weights and metrics go; the session goes on from its `state`.

    Raises:
        UserError: weights that do not fit, or an input of a later stage that is missing.
    """

    def __init__(self, config: RunConfig, inputs: Inputs, ranks: Ranks, folder: RunFolder) -> None:
        self.config, self.inputs, self.ranks, self.folder, self.log = config, inputs, ranks, folder, folder.log
        seed_all(config.seed)
        steps = planned_steps(config, len(inputs.dataset.train), ranks.world_size)
        self.precision = choose_precision(config.amp, ranks.device, config.compile, steps)
        self.gcl = GCL(config.model, config.size)
        with reading_once():  # of several forms of weights, which are tried in turn
            origin = initialize(self.gcl, config)
        self.gcl.to(ranks.device).to(memory_format=torch.channels_last)
        if config.sync_bn:
            synchronize_norms(self.gcl, ranks)
        ranks.broadcast_(self.gcl)
        self.precision.compile(*self.gcl.children())
        if folder.state is not None:
            check_fit(self.gcl.state_dict(), folder.state["gcl"], folder.path)
            self.gcl.load_state_dict(folder.state["gcl"])
        self.log.header(facts(config, inputs, ranks, self.precision, origin))
        self.statistics = RunningStatistics(self.gcl)
        self.assessment = Assessment(config, inputs, ranks, self.precision)
        self.interruption = Interruption()
        self.position, self.crops = Position(), ""  # of the stage that began last
        self._check_crops()
        self._look_ahead()

    def start(self) -> None:
        """Open the folder; assess the first weights of a new run, or print the step that a resumed run goes on from."""
        data = describe_data(self.inputs.dataset)
        self.folder.open(data)
        self.folder.summary["data"] = data
        state, finished = self.folder.state, self.folder.finished
        if state is None:
            self.log.rewind("", 0, [])  # drops the records of a run that was killed before its first checkpoint
            initial = self._unless_it_fails("initial", lambda: self.assessment.retrieval(self.gcl))
            self.folder.summary["initial"] = initial
            self.log.say(f"initial: {percent(self.folder.summary['initial'])}")
        else:
            stage, step = state["stage"], state["at"]["step"]
            self.log.rewind(stage, step, finished)
            complete = stage in finished
            self.log.say(f"resumed: {stage} is complete" if complete else f"resumed: {stage} at step {step}")

    def awaits(self, stage: str) -> bool:
        """Return whether the stage of that name is asked for and not complete."""
        return stage in self.config.stages and stage not in self.folder.finished

    def begin(self, name: str, make: Callable[..., Stage]) -> Stage:
        """Make the stage called `name`, with its loader, its optimizers and what the newest checkpoint holds of it.

        Raises:
            UserError: too little memory.
        """
        state, self.folder.state = self.folder.state, None  # for one stage: a later one starts at its beginning
        self.position, self.crops = Position(), self._digest_of_crops(name)
        resumes = state is not None and state["stage"] == name
        with naming_what_to_lower(name, self.config, self.ranks.device):
            stage = make(self.config, self.gcl, self.inputs, self.ranks, self.precision)
            if state is not None:
                set_random_state(state["random"], self.ranks)
                if resumes:
                    stage.load_state_dict(state["stage_state"])
                    self.position = Position(**state["at"])
        self.log.say(f"{name}: crops by {stage.loader.notice}")
        return stage

    def train(self, stage: Stage) -> None:
        """Run what is left of a stage, and write the weights.

        Raises:
            Interrupted: after a signal; a checkpoint holds where the stage was.
            UserError: too little memory, or TOLERATED steps in a row that were not finite.
        """
        save = lambda: self._save(stage)
        with naming_what_to_lower(stage.name, self.config, self.ranks.device):
            run_stage(stage, self.position, self.log, self.ranks, self.interruption, save, self.statistics, self.config)
        if graphs := stage.graphs.release():  # the assessment needs their memory
            self.log.say(f"{stage.name}: {graphs}")
        self.folder.save_weights(stage.name, self.gcl.state_dict(), self._metadata(stage, {}))

    def assess(self, stage: Stage) -> None:
        """Measure the networks after a stage, and write retrieval, SSIM of views and seconds to summary and log."""
        beginning, at, summary = time.monotonic(), self.position, self.folder.summary
        views = self.folder.path / "views"
        metrics = self._unless_it_fails(stage.name, lambda: self.assessment.after(stage.name, self.gcl, views))
        weights, metadata = self.gcl.state_dict(), self._metadata(stage, metrics)
        self.folder.save_weights(stage.name, weights, metadata)  # once more, with what was measured
        self.folder.save_encoder(weights, metadata)
        self.folder.keep_best(weights, metadata)
        self.log.metrics(stage.name, at.step, metrics)
        self.log.image(f"{stage.name}/views", self.folder.path / "views" / f"{stage.name}.png", at.step)
        by_source = self._assess_with_source_norms(stage) if isinstance(stage, Source) else {}
        counts = {"steps": at.step, **({"skipped": at.skipped} if at.skipped else {})}
        summary["stages"][stage.name] = {**metrics, **by_source, "seconds": round(at.seconds, 1), **counts}
        self.log.say(
            f"{stage.name}: {percent(metrics)}, {at.step} steps in {at.seconds:.0f} s, "
            f"evaluated in {time.monotonic() - beginning:.0f} s"
        )
        self._save(stage)
        self.log.summary(summary)

    def _assess_with_source_norms(self, stage: Source) -> dict[str, dict[str, float]]:
        """Write the networks with the source's batch norms, and return their retrieval.

        `source_only` is on the target, without adaptation to it; `source_test` is on the source's own test set.
        """
        assert self.inputs.source is not None
        encoder = stage.finished()
        retrieval = lambda data: self._unless_it_fails(
            f"{stage.name} on {data.name}", lambda: self.assessment.retrieval_in(data, encoder)
        )
        on_target = retrieval(self.inputs.dataset)
        weights = self.gcl.state_dict() | encoder.state_dict(prefix=IDENTITY)
        self.folder.save_weights(SOURCE_NORMS, weights, self._metadata(stage, on_target))
        on_source = retrieval(self.inputs.source)
        self.log.say(f"source only: {percent(on_target)}; on its own test set: {percent(on_source)}")
        return {"source_only": on_target, "source_test": on_source}

    def _unless_it_fails(self, name: str, measure: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Return what `measure` returns, or {} with a warning where it fails: training goes on without a measurement.

        With several ranks only a UserError is passed over, which all of them raise; the others may wait for one rank.
        """
        try:
            return measure()
        except (OSError, RuntimeError, ValueError) as error:
            if self.ranks.world_size > 1 and not isinstance(error, UserError):
                raise
            warnings.warn(
                f"{name}: not evaluated ({error}); the run goes on, and gcl-fast evaluate {self.folder.path} measures"
                " its finished stages",
                stacklevel=2,
            )
            return {}

    def _metadata(self, stage: Stage, metrics: dict[str, float]) -> dict[str, Any]:
        """Return the metadata of the weights after `stage`."""
        source = self.inputs.source if isinstance(stage, Source) else None
        return describe(self.config, stage.name, source or self.inputs.dataset, metrics)

    def _save(self, stage: Stage) -> bool:
        """Write a checkpoint of everything, and return whether the disk took it."""
        state = {
            "at": vars(self.position),
            "crops": self.crops,
            "stage_state": stage.state_dict(),
            "gcl": self.gcl.state_dict(),
            "random": random_state(self.ranks),
        }
        return self.folder.save_state(stage.name, self.position.step, state)

    def _digest_of_crops(self, stage: str) -> str:
        """Return a digest of the names of the crops that a stage trains on."""
        source = self.inputs.source if stage == "source" else None
        names = [*self.inputs.dataset.train.names, *(source.train.names if source is not None else ())]
        return digest_of_names(names)

    def _check_crops(self) -> None:
        """Compare the crops of the stage that is resumed with those that it was begun on.

        Raises:
            UserError: the dataset holds others now.
        """
        state = self.folder.state
        if state is None or not self.awaits(stage := state["stage"]):
            return
        if state["crops"] != self._digest_of_crops(stage):
            raise UserError(
                f"{self.folder.path}: {stage} was begun on other crops than {self.inputs.dataset.root} holds now; put"
                f" the former ones back, or choose another --name (weights to start from: {self.folder.path}"
                "/checkpoints)"
            )

    def _look_ahead(self) -> None:
        """Check at the start of a run what its stages need (`look_ahead`)."""
        split = self.assessment.split_for_views()
        look_ahead(self.config, self.inputs, self.ranks, self.awaits, split)


def percent(metrics: dict[str, float]) -> str:
    """Return mAP and rank-1 in per cent as the log prints them."""
    if "mAP" not in metrics:
        return "not evaluated"
    return f"mAP {100 * metrics['mAP']:.1f} %, rank-1 {100 * metrics['rank1']:.1f} %"
