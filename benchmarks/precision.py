"""Compare the loss of the same steps with and without --amp: does mixed precision train like float32?

    python benchmarks/precision.py --stage joint --init runs/synthetic-demo-seed0/checkpoints/generative.safetensors
    python benchmarks/precision.py --seeds 0 1 2 --window 20 50    # means over seeds, so that less of it is chance

Both train the demo on the small embedded dataset, from the same weights, at a constant learning rate; yaws are the same
step by step, and so are crops as long as clusters are. A third run shows what rounding alone does over so many steps of
two networks that play against each other: float32 again, from weights that are each the next larger float32. Each curve
is the mean over the seeds. Prints how far the smoothed curves part from the first at most and in the mean, appends that
to results/precision.csv and draws results/precision_STAGE.png.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from gcl_fast.distributed.ranks import Ranks
from gcl_fast.inputs import Inputs, make_embedded_dataset, open_inputs
from gcl_fast.optim.precision import Precision, choose
from gcl_fast.process import prepare_process
from gcl_fast.settings import RunConfig
from lib.reporting import RESULTS, facts, report
from lib.stages import KINDS, networks, small_config

LONG = 10**6  # epochs: no learning rate falls


def losses(
    name: str, config: RunConfig, inputs: Inputs, ranks: Ranks, precision: Precision, steps: int, nudged: bool = False
) -> np.ndarray:
    """Return the (steps,) losses of the stage called `name`; nudged: from weights that are one rounding larger."""
    gcl = networks(config, precision, ranks.device)
    if nudged:
        with torch.no_grad():
            for weight in gcl.parameters():
                weight.copy_(torch.nextafter(weight, weight.new_tensor(torch.inf)))
    stage = KINDS[name](config, gcl, inputs, ranks, precision)
    seen: list[float] = []
    for epoch in range(steps):
        stage.begin_epoch(epoch)
        for position, (images, index) in enumerate(stage.loader.epoch(stage.plan(epoch), epoch)):
            seen.append(float(stage.step(images, index, epoch, position)["loss"].detach()))
            if len(seen) == steps:
                return np.array(seen)
    raise ValueError(
        f"{name}: {len(seen)} steps in {steps} epochs; are there no clusters? --init takes trained weights"
    )


def smoothed(values: np.ndarray, window: int) -> np.ndarray:
    """Return the means of `window` values in a row."""
    return np.convolve(values, np.full(window, 1 / window), "valid")


def parting(curves: dict[str, np.ndarray], window: int) -> dict[str, Any]:
    """Return how far the second and third curve differ from the first, smoothed over `window` steps."""
    first, *others = (smoothed(values, window) for values in curves.values())
    mixed, nudged = (np.abs(other / first - 1) for other in others)
    return {
        "steps": len(next(iter(curves.values()))),
        "window": window,
        "first_loss": round(float(first[0]), 4),
        "last_loss": round(float(first[-1]), 4),
        "largest_difference": f"{mixed.max():.2%}",
        "mean_difference": f"{mixed.mean():.2%}",
        "largest_by_rounding": f"{nudged.max():.2%}",
        "mean_by_rounding": f"{nudged.mean():.2%}",
    }


def draw(curves: dict[str, np.ndarray], window: int, title: str) -> Figure:
    """Draw every step faintly, and the smoothed curves on top."""
    figure = Figure(figsize=(7, 3.4), layout="constrained")
    axes = figure.subplots()
    for place, (name, values) in enumerate(curves.items()):
        axes.plot(1 + np.arange(len(values)), values, color=f"C{place}", alpha=0.25, linewidth=0.8)
        means = smoothed(values, window)
        axes.plot(window + np.arange(len(means)), means, color=f"C{place}", label=name)
    axes.set(xlabel="step", ylabel="loss")
    axes.set_title(title, fontsize=9)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def main() -> None:
    """Train three times for each seed, compare and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=["generative", "joint"], default="generative")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--window", type=int, nargs="+", default=[20], help="steps to average; the last is drawn")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of crops, yaws and, without --init, weights")
    parser.add_argument("--init", default="", help="weights of a run; the joint stage needs some to find clusters")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    prepare_process()
    config = small_config("demo", options.device)
    config = replace(
        config,
        init=options.init,
        generative=replace(config.generative, epochs=LONG, reconstruction_epochs=0),
        joint=replace(config.joint, epochs=LONG, decay_epoch=LONG),
    )
    make_embedded_dataset(config)
    ranks, inputs = Ranks(0, 1, torch.device(options.device)), open_inputs(config)
    plain, mixed = (choose(amp, ranks.device, config.compile) for amp in (False, True))
    variants = {
        "fp32": (plain, False),
        mixed.why: (mixed, False),
        "fp32, weights one rounding larger": (plain, True),
    }
    curves = {name: np.zeros(options.steps) for name in variants}
    for seed in options.seeds:
        run = partial(losses, options.stage, replace(config, seed=seed), inputs, ranks)
        for name, (precision, nudged) in variants.items():
            curves[name] += run(precision, options.steps, nudged) / len(options.seeds)
    rows = [
        {"stage": options.stage, "seeds": len(options.seeds), "precision": mixed.why, **parting(curves, window)}
        for window in options.window
    ]
    report("precision", rows, options.device)
    here, last = facts(options.device), rows[-1]
    title = f"{options.stage} stage, demo ({here['machine']}, {here['date'][:10]})\n"
    title += f"in the mean {last['mean_difference']} and {last['mean_by_rounding']} from the first curve"
    draw(curves, last["window"], title).savefig(RESULTS / f"precision_{options.stage}.png", dpi=120)


if __name__ == "__main__":
    main()
