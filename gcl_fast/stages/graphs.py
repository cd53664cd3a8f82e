"""Capture training steps as CUDA graphs, which replace thousands of launches by one, without Python between kernels.

A graph holds the addresses, shapes and Python numbers of the step that was captured. Batches, yaws, learning rates,
loss scales, the bank and its draws change with every step. They are therefore tensors that are written in place. The
caller names what changes rarely (`baked`); each of its values has a graph.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from gcl_fast.distributed.ranks import Ranks
from gcl_fast.errors import UserError
from gcl_fast.kernels import rasterize
from gcl_fast.settings import RunConfig

EAGER = 2  # steps of a kind before its capture; they compile kernels and make optimizer states and workspaces
KEPT = 4  # largest number of graphs at a time
PAYS = 20  # replays that pay for a capture, which waits for the device, empties its cache and runs the Python code
TRIALS = 3  # captures of a step before the replays are counted

Measured = dict[str, Tensor]


def choose(config: RunConfig, ranks: Ranks) -> tuple[bool, str]:
    """Return whether a run captures steps, and the reason for the header.

    Raises:
        UserError: cuda_graphs is "on", and there is a stage whose steps cannot be captured.
    """
    if config.cuda_graphs == "off":
        return False, "off, as asked"
    if reason := _hindrance(config, ranks):
        _refuse_if_asked_for(config, reason)
        return False, f"off: {reason}"
    rendering = [stage for stage in config.stages if stage in ("generative", "joint")]
    if rendering and (reason := _hindrance_of_rendering(config)):
        _refuse_if_asked_for(config, reason)
        return True, f"on, but for the {' and '.join(rendering)} stage: {reason}"
    return True, f"on: a step is captured after {EAGER} plain ones, then replayed"


def _hindrance(config: RunConfig, ranks: Ranks) -> str:
    """Return why no step of a run can be captured, or "" where steps can."""
    if ranks.device.type != "cuda":
        return "they need CUDA"
    if ranks.world_size > 1:
        return f"the gradients of {ranks.world_size} ranks meet between the kernels of a step"
    if config.optimizer_backend != "torch":
        return f"the optimizers of {config.optimizer_backend} ask the CPU whether a step is to be skipped"
    return ""


def _hindrance_of_rendering(config: RunConfig) -> str:
    """Return why no step with structure maps can be captured, or "" where they can."""
    if config.structure_maps != "online":
        return "pre-rendered structure maps come from the CPU"
    if config.smpl:
        return "smplx, which poses the SMPL body, waits for the device"
    if not rasterize.HAS_CUDA_KERNELS:
        return "the rasterizer runs on the CPU"
    return ""


def _refuse_if_asked_for(config: RunConfig, reason: str) -> None:
    """Raise a UserError where the settings ask for graphs that `reason` rules out."""
    if config.cuda_graphs == "on":
        raise UserError(f"--set cuda_graphs=on: {reason}; cuda_graphs=auto captures what can be")


class _Captured(NamedTuple):
    """Holds a graph, and the tensors that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    outputs: Measured


class StepGraphs:
    """Runs the steps of one stage: as CUDA graphs where that was chosen and succeeds, else one kernel at a time.

    The first EAGER steps of a kind are plain steps. Then its graph is captured, which runs nothing, and replayed. All
    graphs share one pool of memory. That is safe, as a capture makes no state. Gradients and metrics, which a replay
    leaves in the pool, are used before the next replay. Where a capture fails the run goes on
    without graphs.

    Args:
        config: the settings.
        ranks: their number and this rank's device.
        stage: the name of the stage, for messages.
        optimizers: the optimizers of PyTorch that the steps use.
        rendering: whether the steps make structure maps.
    """

    def __init__(
        self, config: RunConfig, ranks: Ranks, stage: str, optimizers: Sequence[Optimizer], rendering: bool = False
    ) -> None:
        self.active = choose(config, ranks)[0] and not (rendering and _hindrance_of_rendering(config))
        self._must, self._stage, self._optimizers = config.cuda_graphs == "on", stage, optimizers
        self._captured: dict[tuple[Any, ...], _Captured] = {}
        self._eager_steps: Counter[tuple[Any, ...]] = Counter()
        self._steps = 0
        self._captures: Counter[str] = Counter()  # by the name of the step, as are the two below
        self._replays: Counter[str] = Counter()
        self._unprofitable: set[str] = set()
        if self.active:
            self._stream = torch.cuda.Stream(ranks.device)
            self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, step: Callable[..., Measured], tensors: tuple[Tensor, ...], baked: tuple = ()) -> Measured:
        """Take the step `step(*baked, *tensors)`.

        Args:
            step: one update, identified by its name. It returns scalars on the device and waits for nothing. Besides
                its arguments it reads only what keeps its value or is written in place.
            tensors: tensors on the device; every step may have others.
            baked: hashable values; a graph holds for one value of them. Other objects that the step reads may be
                replaced only when these values change.

        Returns:
            What `step` returns, valid until the next call; a graph returns it without autograd's history.

        Raises:
            UserError: cuda_graphs is "on", and the step cannot be captured.
        """
        name = step.__name__
        self._steps += 1
        if not self.active or name in self._unprofitable:
            return step(*baked, *tensors)
        key = name, baked, *((t.shape, t.stride(), t.dtype) for t in tensors)
        if key not in self._captured:
            self._eager_steps[key] += 1
            if self._eager_steps[key] <= EAGER:
                return self._eagerly(step, tensors, baked)
            if not self._pays(name) or not self._capture(key, step, tensors, baked):
                return step(*baked, *tensors)
        graph, inputs, outputs = self._captured[key]
        for static, tensor in zip(inputs, tensors, strict=True):
            static.copy_(tensor)
        graph.replay()
        self._replays[name] += 1
        return outputs

    def release(self) -> str:
        """Drop all graphs and their memory at the end of the stage, and return how many steps they ran, or ""."""
        self._drop()
        captures, replays = self._captures.total(), self._replays.total()
        return f"{replays} of {self._steps} steps were CUDA graphs ({captures} captured)" if captures else ""

    def _eagerly(self, step: Callable[..., Measured], tensors: tuple[Tensor, ...], baked: tuple) -> Measured:
        """Take a step on the stream of the captures, so that torch makes what it keeps for each stream."""
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            metrics = step(*baked, *tensors)
        current.wait_stream(self._stream)
        return metrics

    def _pays(self, name: str) -> bool:
        """Return whether the captures of a step are replayed often enough, and warn once where they are not."""
        captures, replays = self._captures[name], self._replays[name]
        if self._must or captures < TRIALS or replays >= PAYS * captures:
            return True
        warnings.warn(
            f"{self._stage}: CUDA graphs of {name} are not worth their capture ({captures} of them for {replays} steps)"
            ": from now on it runs without",
            stacklevel=3,
        )
        self._unprofitable.add(name)
        return False

    def _capture(
        self, key: tuple[Any, ...], step: Callable[..., Measured], tensors: tuple[Tensor, ...], baked: tuple
    ) -> bool:
        """Capture a step, which runs nothing, and return whether that succeeded; after a failure no other is tried.

        Raises:
            UserError: cuda_graphs is "on", and the capture failed.
        """
        torch.cuda.synchronize()  # a graph on its way must not be dropped
        while len(self._captured) >= KEPT:
            del self._captured[next(iter(self._captured))]  # the oldest, whose `baked` values rarely come again
        try:
            self._captured[key] = self._recorded(step, tensors, baked)
        except RuntimeError as error:
            reason = _cause(error)
            if self._must:
                raise UserError(
                    f"{self._stage}: --set cuda_graphs=on, and a step cannot be captured ({reason}); --resume with"
                    " cuda_graphs=auto goes on without graphs"
                ) from error
        else:
            self._captures[step.__name__] += 1
            return True
        # Only after the except clause, as the frames of the error hold memory
        _leave_pool(self._pool)
        self._drop()
        self.active = False
        warnings.warn(f"{self._stage}: a step cannot be a CUDA graph ({reason}); steps run without", stacklevel=3)
        return False

    def _recorded(self, step: Callable[..., Measured], tensors: tuple[Tensor, ...], baked: tuple) -> _Captured:
        """Record a step as a graph with inputs of its own."""
        inputs, graph = tuple(tensor.clone() for tensor in tensors), torch.cuda.CUDAGraph()
        # What a capture forbids is forbidden to this thread alone: the loader's threads allocate and wait meanwhile.
        # The stream is entered once more because torch stays on it where the end of the capture fails.
        with (
            _capturable(self._optimizers),
            torch.cuda.stream(self._stream),
            torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"),
        ):
            # Detached, as a loss with its history holds the memory of the whole backward pass
            outputs = {name: value.detach() for name, value in step(*baked, *inputs).items()}
        return _Captured(graph, inputs, outputs)

    def _drop(self) -> None:
        """Free all graphs and their memory."""
        if self.active:
            torch.cuda.synchronize()
            self._captured.clear()
            torch.cuda.empty_cache()


def _cause(error: BaseException) -> str:
    """Return the first line of the first error; the end of a capture that failed raises a second one."""
    while isinstance(error.__context__, RuntimeError):
        error = error.__context__
    return str(error).partition("\n")[0] or type(error).__name__


@contextmanager
def _capturable(optimizers: Sequence[Optimizer]) -> Iterator[None]:
    """Enter a context in which torch lets `optimizers` be captured.

    torch requires the flag `capturable`, which fused optimizers never read, and warns where an optimizer with it takes
    a step outside a capture. Checkpoints do not hold the flag.
    """
    groups = [group for optimizer in optimizers for group in optimizer.param_groups if "capturable" in group]
    for group in groups:
        group["capturable"] = True
    try:
        yield
    finally:
        for group in groups:
            group["capturable"] = False


def _leave_pool(pool: Any) -> None:
    """End the allocation to `pool` where torch did not.

    torch 2.11 leaves the pool of a failed capture in use, and the allocator's next cleaning is then an internal error;
    2.14 does not.
    """
    try:
        torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), pool)
    except RuntimeError:  # torch has ended it
        return
    torch._C._cuda_releasePool(torch.cuda.current_device(), pool)
