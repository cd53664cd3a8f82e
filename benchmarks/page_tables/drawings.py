"""Draw the pictures of README.md: three stages, five speed-ups, and one crop's views.

Each PNG carries the text of what it shows, so that a check needs no pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from page_tables import speed
from page_tables.rows import Files

KEY = "Shows"  # field of the PNG that holds the text
BLUE, GREY, DARK = "#4051b5", "#c3c8d4", "#20242e"
STAGES = (
    (
        "1  Warm-up",
        "identity encoder",
        ["Embed every crop", "Cluster the embeddings", "Pull a crop to its cluster"],
        "",
    ),
    (
        "2  Generative",
        "structure encoder, generator, discriminator",
        ["Render the body mesh at a new yaw", "Draw the person in that pose", "Turn back: the crop must return"],
        "encoder",
    ),
    (
        "3  Joint",
        "all networks",
        ["Cluster the memory bank each epoch", "Draw a novel view of each crop", "Pull crop and view to one cluster"],
        "generator",
    ),
)


def _speed_ups(files: Files) -> dict[str, float]:
    """Return the factors of README.md's list."""
    return {
        "decoding crops\n(torchvision)": speed.factor(files, "loader, JPEG files", 960, "torchvision, 2 workers"),
        "rasterizing meshes\n(plain loop)": speed.factor(files, "rasterizer", 64, "plain loop, 1 thread"),
        "contrastive loss\n(official)": speed.factor(files, "contrastive loss", 12936, "official"),
        "Jaccard distance\n(dense)": speed.factor(files, "Jaccard, with neighbours", 1500, "dense definition"),
        "whole joint step\n(official)": speed.step_factor(files, "joint"),
    }


def speed_ups(files: Files, path: Path) -> None:
    """Draw the factors as bars on a logarithmic axis."""
    from matplotlib.figure import Figure

    factors = _speed_ups(files)
    figure = Figure(figsize=(8, 2.9), layout="constrained")
    axes = figure.subplots()
    axes.barh(range(len(factors)), list(factors.values()), color=[BLUE] * len(factors), height=0.62)
    for place, value in enumerate(factors.values()):
        axes.annotate(f" {value:.2g}x", (value, place), va="center", fontsize=10, color=DARK)
    axes.set_xscale("log", base=2)
    axes.set_xlim(1, 2 * max(factors.values()))
    axes.set_xticks([1, 2, 4, 8, 16, 32], ["1x", "2", "4", "8", "16", "32"])
    axes.set_yticks(range(len(factors)), list(factors), fontsize=9)
    axes.invert_yaxis()
    axes.set_xlabel("speed-up over the baseline in brackets, 2 CPU cores", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110, metadata={KEY: speed_ups_text(files)})


def speed_ups_text(files: Files) -> str:
    """Return the factors as they are shown."""
    return "; ".join(f"{name.splitlines()[0]} {value:.2g}x" for name, value in _speed_ups(files).items())


def stages(files: Files, path: Path) -> None:
    """Draw the three stages, what each does, and what it hands on."""
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyBboxPatch

    figure = Figure(figsize=(10.4, 2.7))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 10.4), ylim=(0, 2.7))
    axes.axis("off")
    for place, (title, trained, steps, handed) in enumerate(STAGES):
        left = 0.15 + 3.5 * place
        axes.add_patch(
            FancyBboxPatch(
                (left, 0.2), 2.9, 2.25, boxstyle="round,pad=0,rounding_size=0.1", facecolor="#f3f5fa", edgecolor=GREY
            )
        )
        axes.text(left + 0.15, 2.12, title, fontsize=12.5, weight="bold", color=BLUE)
        for line, text in enumerate(steps):
            axes.text(left + 0.15, 1.68 - 0.33 * line, text, fontsize=9.5, color=DARK)
        axes.text(left + 0.15, 0.58, "trains", fontsize=8, color="#6a7183")
        axes.text(left + 0.15, 0.34, trained, fontsize=8.8, color=DARK)
        if place:
            axes.annotate("", (left - 0.04, 1.3), (left - 0.56, 1.3), arrowprops={"arrowstyle": "-|>", "color": BLUE})
            axes.text(left - 0.3, 1.42, handed, fontsize=7.5, ha="center", color="#6a7183")
    figure.savefig(path, dpi=110, metadata={KEY: stages_text(files)})


def stages_text(files: Files) -> str:
    """Return the words of the diagram."""
    return "; ".join(f"{title}: {', '.join(steps)}" for title, _, steps, _ in STAGES)


def views(files: Files, path: Path) -> None:
    """Cut the first person out of benchmarks/results/views.png."""
    from PIL import Image, PngImagePlugin

    header, people = 18, 3  # pixels above the first person; people in the picture
    information = PngImagePlugin.PngInfo()
    information.add_text(KEY, views_text(files))
    with Image.open(files.root / "benchmarks" / "results" / "views.png") as picture:
        person = picture.crop((0, 0, picture.width, header + (picture.height - header) // people))
        person.save(path, pnginfo=information)


def views_text(files: Files) -> str:
    """Return a digest of the picture that is cut."""
    import hashlib

    return hashlib.sha256((files.root / "benchmarks" / "results" / "views.png").read_bytes()).hexdigest()


DRAWINGS: dict[str, tuple[Callable[[Files, Path], None], Callable[[Files], str]]] = {
    "views": (views, views_text),
    "speed_ups": (speed_ups, speed_ups_text),
    "stages": (stages, stages_text),
}


def is_stale(files: Files, name: str, path: Path) -> bool:
    """Return whether the PNG at `path` is missing or shows another text than the result files give."""
    from PIL import Image

    if not path.is_file():
        return True
    with Image.open(path) as picture:
        return picture.info.get(KEY) != DRAWINGS[name][1](files)
