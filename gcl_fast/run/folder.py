"""Keep the folder of a run: settings, log, checkpoints, weights and summary. Rank 0 writes it, all ranks read it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import torch
import yaml
from torch import Tensor

from gcl_fast.atomic import check_writable, refuse_link, write_atomically, write_json
from gcl_fast.data.layouts.detection import detect
from gcl_fast.distributed.ranks import Ranks
from gcl_fast.distributed.restarts import mark_launch, restarted
from gcl_fast.errors import UserError
from gcl_fast.evaluation.figures import training_curves
from gcl_fast.run.checkpoint import load_state, save_state
from gcl_fast.run.environment import environment
from gcl_fast.run.lock import RunLock
from gcl_fast.run.logs import RunLog, tolerating_a_full_disk
from gcl_fast.run.resuming import changes_on_resume, check_digest, refuse_to_replace
from gcl_fast.run.run_files import read_config, read_environments, weights_file
from gcl_fast.run.weights import IDENTITY, save_weights
from gcl_fast.settings import ALL_STAGES, RunConfig, flat, to_dict

APPENDED = (".lock", "run.log", "metrics.jsonl")  # all other files are replaced, so that a link goes
VERSION = 2  # of checkpoints; the stages of version 1 drew other random numbers


class RunFolder:
    """Represents `runs/NAME` as a context: checks and opens it, writes what training leaves, and ends its log.

    No file changes before `open`, and no folder is made, so that a command that is refused until then leaves nothing.
    The folder of a run is locked from the beginning, that of a new one by `open` (`RunLock`).

    It holds config.yaml, environment.json, run.log, metrics.jsonl, events/, summary.json, curves.png, checkpoints/
    (states to resume from, and <stage>.safetensors), encoder.safetensors to share, and views/<stage>.png.

    Args:
        config: the settings of the run; `config.folder` is its path.
        ranks: all of them make this object; rank 0 alone writes.
        resume: go on with a run of that name.

    Attributes:
        state: the checkpoint that the run goes on from; None for a new run.
        summary: the content of summary.json.

    Raises:
        UserError: another process trains this run, a run of that name exists and `resume` is False, it has other
            settings, it stopped in another stage than is next, or the folder holds images or cannot be written.
    """

    def __init__(self, config: RunConfig, ranks: Ranks, resume: bool) -> None:
        self.config, self.ranks, self.path = config, ranks, config.folder
        for name in APPENDED:
            refuse_link(self.path / name)
        (restart,) = ranks.any(restarted(self.path))  # with several hosts the mark names rank 0's alone
        self._resume = resume = resume or restart
        self._lock = RunLock(self.path)
        if ranks.main and ((self.path / "config.yaml").exists() or self._lock.path.exists()):  # else `open` takes it
            with self._naming_the_place():
                self._lock.acquire()
        self._changed = changes = self._changes(resume) if ranks.main else []
        self.state = self._newest_state() if resume else None
        if ranks.main:
            with self._naming_the_place():
                check_writable(self.path)
        ranks.barrier()
        self.log = RunLog(self.path, ranks.main)
        self.log.say(f"gcl_fast: run {self.path}")
        for line in changes:
            self.log.say(f"  changed on resuming: {line}")
        self.summary: dict[str, Any] = {"stages": {}} if self.state is None else self.state["summary"]

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self.ranks.main:
            with tolerating_a_full_disk("curves.png"):
                training_curves(self.path / "metrics.jsonl", self.path / "curves.png")
            self.log.hparams(flat(to_dict(self.config)), self._final_metrics())
            success = self.log.summary(self.summary)  # once more: the disk may have refused it after its stage
            views = f", {self.path}/views" if (self.path / "views").is_dir() else ""
            self.log.say(
                f"done: {self.path}/summary.json{views}"
                if success
                else f"done, without {self.path}/summary.json: the same command with --resume writes it"
            )
        self.log.close()
        self._lock.release()

    def open(self, data: dict[str, Any]) -> None:
        """Write the settings of this command, its environment, and which torchrun runs it.

        Args:
            data: what environment.json says of the dataset.

        Raises:
            UserError: the disk refuses them, or another process trains this run.
        """
        if not self.ranks.main:
            return
        check_digest(self.path, data, self._changed)
        text = yaml.safe_dump(to_dict(self.config), sort_keys=False)
        with self._naming_the_place():
            self.path.mkdir(parents=True, exist_ok=True)
            if not self._lock.held:
                self._lock.acquire()
                self._check_again()
            mark_launch(self.path)
            write_atomically(self.path / "config.yaml", lambda file: file.write(text.encode()))
            self._add_environment(data)
        self.log.open()

    def _check_again(self) -> None:
        """Raise a UserError where another process has trained here since this object was made."""
        self._changes(self._resume)
        if self.state is None and any((self.path / "checkpoints").glob("step_*.pt")):
            raise UserError(f"{self.path} was trained by another command meanwhile; repeat this one with --resume")

    def _add_environment(self, data: dict[str, Any]) -> None:
        """Append the environment of this command to environment.json, a list with an entry for each command."""
        try:
            commands = read_environments(self.path)
        except UserError:  # damaged
            commands = []
        write_json(self.path / "environment.json", [*commands, {**environment(self.ranks), "data": data}])

    @property
    def finished(self) -> list[str]:
        """Return the names of the stages that are complete, in training order."""
        return list(self.summary["stages"])

    def save_state(self, stage: str, step: int, state: dict[str, Any]) -> bool:
        """Write a checkpoint after `step` steps of `stage`, and return, on every rank, whether the disk took it."""
        failure = False
        if self.ranks.main:
            before = sum(record["steps"] for name, record in self.summary["stages"].items() if name != stage)
            content = {"version": VERSION, "summary": self.summary, "stage": stage, **state}
            path = save_state(self.path / "checkpoints", before + step, content, self.config.keep_checkpoints)
            failure = path is None
        (failure,) = self.ranks.any(failure)
        return not failure

    def save_weights(self, name: str, weights: dict[str, Tensor], metadata: dict[str, Any]) -> None:
        """Write checkpoints/<name>.safetensors."""
        if self.ranks.main:
            save_weights(weights_file(self.path, name), weights, metadata)

    def save_encoder(self, weights: dict[str, Tensor], metadata: dict[str, Any]) -> None:
        """Write the identity encoder alone, the file to share, as encoder.safetensors."""
        if self.ranks.main:
            encoder = {name: tensor for name, tensor in weights.items() if name.startswith(IDENTITY)}
            save_weights(self.path / "encoder.safetensors", encoder, metadata)

    def keep_best(self, weights: dict[str, Tensor], metadata: dict[str, Any]) -> None:
        """Write the weights as best.safetensors where no stage before reached their mAP."""
        best, metrics = self.summary.get("best", {"mAP": 0.0}), metadata["metrics"]
        if metrics.get("mAP", -1.0) >= best["mAP"]:
            self.summary["best"] = {"stage": metadata["stage"], "mAP": metrics["mAP"]}
            self.save_weights("best", weights, metadata)

    def _final_metrics(self) -> dict[str, float]:
        """Return the metrics of each finished stage as `<stage>/<metric>`."""
        stages = self.summary["stages"].items()
        return {f"{stage}/{k}": v for stage, row in stages for k, v in row.items() if isinstance(v, (int, float))}

    def _changes(self, resume: bool) -> list[str]:
        """Return a line for each setting that differs from the run's, where the folder holds one.

        The folder of a command that was refused before its first step holds no run; its files are overwritten.

        Raises:
            UserError: there is a run and `resume` is False, or a setting differs that may not.
        """
        settings, metrics = self.path / "config.yaml", self.path / "metrics.jsonl"
        if self.path.is_dir() and not settings.exists() and (layout := detect(self.path)) is not None:
            raise UserError(
                f"{self.path} holds images and no run (it looks like --dataset {layout}); choose another --name or"
                " --runs"
            )
        exists = settings.exists() and (
            (metrics.exists() and metrics.stat().st_size > 0) or any((self.path / "checkpoints").glob("step_*.pt"))
        )
        if exists and not resume:
            refuse_to_replace(self.path, self.config)
        return changes_on_resume(self.path, read_config(settings), self.config) if exists else []

    @contextmanager
    def _naming_the_place(self) -> Iterator[None]:
        """Enter a context in which a folder that cannot be written is a UserError."""
        try:
            yield
        except OSError as error:
            raise UserError(
                f"cannot write to {self.path} ({error.strerror}); choose another place with --runs DIR"
            ) from error

    def _newest_state(self) -> dict[str, Any] | None:
        """Read the newest checkpoint, or return None where there is none.

        Raises:
            UserError: the ranks see different checkpoints, it is of another version of gcl_fast, or the run stopped in
                a stage that --stages does not begin with.
        """
        state = load_state(self.path / "checkpoints")
        if state is not None and (version := state.get("version", 1)) != VERSION:
            raise UserError(
                f"{self.path}: its checkpoints are of version {version}, and this gcl_fast resumes version {VERSION}."
                " The gcl_fast that wrote them goes on with the run; another run starts from its weights with --init"
                f" {self.path}/checkpoints/<stage>.safetensors"
            )
        place = (-1, 0) if state is None else (ALL_STAGES.index(state["stage"]), state["at"]["step"])
        places = self.ranks.gather(torch.tensor([place]))
        if bool((places != places[0]).any()):
            raise UserError(
                f"{self.path}: the newest checkpoint is not the same on all ranks; --runs must be one folder for all"
                " machines"
            )
        if state is not None and (stage := state["stage"]) not in state["summary"]["stages"]:
            ahead = [name for name in self.config.stages if name not in state["summary"]["stages"]]
            if ahead[:1] != [stage]:
                further = [name for name in ahead if ALL_STAGES.index(name) > ALL_STAGES.index(stage)]
                raise UserError(
                    f"{self.path} stopped in the {stage} stage at step {place[1]}, and --stages"
                    f" {' '.join(self.config.stages)} does not go on there; --stages {' '.join([stage, *further])}"
                    " does, --name starts another run"
                )
        return state
