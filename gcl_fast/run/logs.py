"""Write what a run reports: the header, progress, run.log, metrics.jsonl, TensorBoard events, summary.json."""

from __future__ import annotations

import json
import math
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams
from tqdm import tqdm

from gcl_fast.atomic import write_atomically, write_json
from gcl_fast.console import copy_lines, printable, say
from gcl_fast.data.broken_images import FORMATS

PLAIN_SECONDS = 15.0  # between two lines where the output is no terminal
RECORD = ("stage", "step", "time")  # what every record of metrics.jsonl has


class RunLog:
    """Writes the files and lines of one run. On ranks other than 0 every call does nothing.

    The files are opened by `open`, or with the first record. A command that is refused before leaves them as they are.

    Args:
        folder: the folder of the run; run.log, metrics.jsonl, events and summary.json go there.
        main: whether this rank writes and prints.
    """

    def __init__(self, folder: Path, main: bool) -> None:
        self.folder, self.main = folder, main
        self._writer: SummaryWriter | None = None
        self._lines: TextIO | None = None
        self._text: TextIO | None = None
        self._early: list[str] = []  # lines before run.log was opened
        if main:
            copy_lines(self._note)

    def open(self) -> None:
        """Append to run.log from now on what is printed, and what was printed before."""
        if self.main and self._text is None:
            with tolerating_a_full_disk("run.log"):
                self._text = (self.folder / "run.log").open("a", buffering=1)
                early, self._early = self._early, []
                self._text.writelines(line + "\n" for line in early)

    def say(self, text: str) -> None:
        """Print a line without breaking a progress bar, and append it to run.log."""
        if self.main:
            say(text)
            self._note(text)

    def _note(self, text: str) -> None:
        """Append a line to run.log, or keep it until that is open."""
        text = printable(text)
        if self._text is None:
            self._early.append(text)
            return
        with tolerating_a_full_disk("run.log"):
            self._text.write(text + "\n")

    def image(self, name: str, path: Path, step: int) -> None:
        """Add the PNG file at `path`, where there is one, to the TensorBoard events."""
        if not self.main or not path.is_file():
            return
        writer, _ = self._open()
        with tolerating_a_full_disk("events"), Image.open(path, formats=FORMATS) as image:
            writer.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def hparams(self, settings: dict[str, Any], metrics: dict[str, float]) -> None:
        """Add the settings with the final metrics to TensorBoard's page that compares runs."""
        if not self.main:
            return
        writer, _ = self._open()
        plain = {k: v if isinstance(v, (bool, int, float, str)) else str(v) for k, v in settings.items()}
        with tolerating_a_full_disk("events"):
            for summary in hparams(plain, metrics):
                writer._get_file_writer().add_summary(summary)

    def header(self, facts: dict[str, str]) -> None:
        """Print what was chosen, and why; a run does so once."""
        width = max(map(len, facts))
        for name, fact in facts.items():
            self.say(f"  {name:<{width}}  {fact}")

    def metrics(self, stage: str, step: int, values: dict[str, float]) -> None:
        """Append {"stage", "step", "time", **values}; `step` counts within the stage."""
        if not self.main:
            return
        _, lines = self._open()
        record = {"stage": stage, "step": step, "time": round(time.time(), 3), **values}
        with tolerating_a_full_disk("metrics.jsonl"):
            lines.write(json.dumps(record) + "\n")
        self._add_scalars(record)

    def rewind(self, stage: str, step: int, done: list[str]) -> None:
        """Drop the records that a resumed run writes again: of `stage` after `step`, and of stages not in `done`.

        The TensorBoard events are written again from the records that are left, as steps count within their stage:
        a purge from a step on, as TensorBoard knows it, would drop other stages as well.
        """
        path = self.folder / "metrics.jsonl"
        if not self.main:
            return
        former_events = [*(self.folder / "events").glob("events.out.tfevents.*")]
        _, former = self._open()
        records = []
        for line in path.read_text().splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:  # a kill cut this line off
                continue
            if isinstance(record, dict) and _precedes(record, stage, step, done):
                records.append(record)
        former.close()
        text = "".join(json.dumps(record) + "\n" for record in records)
        write_atomically(path, lambda file: file.write(text.encode()))
        self._lines = path.open("a", buffering=1)
        self._events_of(records)
        with tolerating_a_full_disk("events"):
            for file in former_events:
                file.unlink()

    def _events_of(self, records: list[dict[str, Any]]) -> None:
        """Write the events of records, with the figures of views of their stages."""
        last: dict[str, int] = {}
        for record in records:
            self._add_scalars(record)
            last[record["stage"]] = record["step"]
        for stage, step in last.items():
            self.image(f"{stage}/views", self.folder / "views" / f"{stage}.png", step)

    def _add_scalars(self, record: dict[str, Any]) -> None:
        """Add the numbers of a record to the events, at its time."""
        writer, _ = self._open()
        with tolerating_a_full_disk("events"):
            for name, value in record.items():
                if name not in RECORD and isinstance(value, int | float) and math.isfinite(value):
                    writer.add_scalar(f"{record['stage']}/{name}", value, record["step"], walltime=record["time"])

    def _open(self) -> tuple[SummaryWriter, TextIO]:
        """Open the events and metrics.jsonl where they are not open yet."""
        self.open()
        if self._writer is None or self._lines is None:
            self._writer = SummaryWriter(str(self.folder / "events"))
            self._lines = (self.folder / "metrics.jsonl").open("a", buffering=1)
        return self._writer, self._lines

    def summary(self, content: dict[str, Any]) -> bool:
        """Write summary.json atomically, and return whether the disk took it."""
        if self.main:
            with tolerating_a_full_disk("summary.json"):
                write_json(self.folder / "summary.json", content)
                return True
        return False

    def progress(self, stage: str, done: int, total: int) -> Progress:
        """Return a progress display for `total` steps, of which `done` are done."""
        return Progress(stage, done, total, self.main)

    def close(self) -> None:
        """Flush and close the files."""
        copy_lines(None)
        if self._text is not None:
            with tolerating_a_full_disk("run.log"):
                self._text.close()
                self._text = None
        if self._writer is not None and self._lines is not None:
            with tolerating_a_full_disk("events"):
                self._writer.close()
            with tolerating_a_full_disk("metrics.jsonl"):
                self._lines.close()


def _precedes(record: dict[str, Any], stage: str, step: int, done: list[str]) -> bool:
    """Return whether a run that is resumed after `step` of `stage`, with the stages `done`, keeps a record."""
    if not all(name in record for name in RECORD):
        return False
    return record["stage"] in done or (record["stage"] == stage and record["step"] <= step)


@contextmanager
def tolerating_a_full_disk(name: str) -> Iterator[None]:
    """Enter a context in which a record that cannot be written causes a warning, printed once, and not an error."""
    try:
        yield
    except OSError as error:
        why = error.strerror or error  # errors of Pillow have no strerror
        warnings.warn(f"{name} could not be written ({why}); the run goes on: make room", stacklevel=4)


class Progress:
    """Shows a bar on a terminal, and elsewhere a line from time to time: steps, rate, time left, newest metrics."""

    def __init__(self, stage: str, done: int, total: int, main: bool) -> None:
        self.stage, self.main, self.total = stage, main, total
        self._start, self._first, self._done = time.monotonic(), done, done
        self._printed = self._start
        terminal = main and sys.stderr.isatty()
        self._bar = tqdm(desc=stage, initial=done, total=total, unit="step", dynamic_ncols=True) if terminal else None

    def advance(self, total: int, metrics: dict[str, float] | None) -> None:
        """Count a step of the `total` that is expected now, and show `metrics` where they were just read."""
        self._done += 1
        self.total = max(total, self._done)
        text = " ".join(f"{name} {value:.3g}" for name, value in (metrics or {}).items())
        if self._bar is not None:
            self._bar.total = self.total
            self._bar.update()
            if metrics:
                self._bar.set_postfix_str(text)
        elif self.main and metrics and time.monotonic() - self._printed > PLAIN_SECONDS:
            self._printed = time.monotonic()
            rate = (self._done - self._first) / (self._printed - self._start)
            left = (self.total - self._done) / rate
            say(f"{self.stage} {self._done}/{self.total}  {rate:.2f} steps/s  {_clock(left)} left  {text}")

    def close(self) -> None:
        """Close the display."""
        if self._bar is not None:
            self._bar.close()


def _clock(seconds: float) -> str:
    """Format seconds as MINUTES:SECONDS."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
