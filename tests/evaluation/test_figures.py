"""Check the content of the figures of a run."""

import json

import pytest
import torch
from PIL import Image

from gcl_fast.assessment.views import write_view
from gcl_fast.errors import UserError
from gcl_fast.evaluation.figures import pair_grid, training_curves, view_grid, yaw_curves


def test_grid_places_every_image(tmp_path):
    shade = lambda value, *shape: torch.full(shape, value)
    row = {
        "crop": torch.tensor([1.0, 0, 0]).view(3, 1, 1).expand(3, 32, 16),
        "structure": torch.stack([shade(0.2, 1, 32, 16), shade(0.4, 1, 32, 16)]),
        "drawn": torch.stack([shade(0.6, 3, 32, 16), shade(0.8, 3, 32, 16)]),
        "truth": None,
    }
    truth = torch.tensor([[0.0, 0, 1], [0, 1, 0]]).view(2, 3, 1, 1).expand(2, 3, 32, 16)
    view_grid([row, {**row, "truth": truth}], [0.0, 90.0], tmp_path / "new" / "grid.png")
    sheet = Image.open(tmp_path / "new" / "grid.png").convert("RGB")
    seen = {color: count for count, color in sheet.getcolors(100_000)}
    area = 32 * 16
    assert seen[255, 0, 0] == 2 * area  # the crop, once in each row
    assert seen[0, 0, 255] == seen[0, 255, 0] == area
    assert [seen[(round(255 * v),) * 3] >= 2 * area for v in (0.2, 0.4, 0.6, 0.8)] == [True] * 4
    with pytest.raises(ValueError, match="no crop to draw"):
        view_grid([], [0.0], tmp_path / "none.png")


def test_curves_of_all_stages_and_a_cut_line(tmp_path, monkeypatch):
    lines = [
        {"stage": "warmup", "step": 0, "time": 1, "clusters": 5, "outliers": 0.5, "eps": 0.4},
        {"stage": "warmup", "step": 40, "time": 2, "loss": 0.5},
        {"stage": "warmup", "step": 40, "time": 2, "mAP": 0.6, "rank1": 0.7},
        {"stage": "joint", "step": 10, "time": 3, "mAP": 0.7, "rank1": 0.8, "ssim": 0.4, "loss": -0.1},
    ]
    others = ["3", "[]", '{"step": 1}', '{"stage": "joint", "step": "x"}', '{"stage": "jo']
    (tmp_path / "metrics.jsonl").write_text("\n".join([*map(json.dumps, lines), *others]))
    drawn = []
    monkeypatch.setattr("gcl_fast.evaluation.figures.Figure.savefig", lambda figure, path, **_: drawn.append(figure))
    training_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png")
    panels = {axes.get_ylabel(): axes for axes in drawn[0].axes}
    assert list(panels) == ["retrieval", "clustering", "clusters", "novel views", "losses"]
    line = next(line for line in panels["retrieval"].lines if line.get_label() == "mAP")
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([40, 50], [0.6, 0.7])


IMAGES = torch.zeros(1, 3, 8, 8)
WRITERS = {
    "view_grid": lambda path: view_grid([{"crop": IMAGES[0], "structure": IMAGES, "drawn": IMAGES}], [0.0], path),
    "pair_grid": lambda path: pair_grid(IMAGES, IMAGES[:, :1], [("a", "black")], path),
    "training_curves": lambda path: training_curves(path.with_name("metrics.jsonl"), path),
    "yaw_curves": lambda path: yaw_curves({"yaws": {"0": {"ssim": 0.5}, "90": {"ssim": 0.4}}, "real": {}}, path),
    "write_view": lambda path: write_view(path, IMAGES[0]),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_leaves_the_old_figure(tmp_path, monkeypatch, name):
    (tmp_path / "metrics.jsonl").write_text('{"stage": "warmup", "step": 1, "time": 0, "loss": 1.0}\n')
    path = tmp_path / "figure.png"
    WRITERS[name](path)
    with Image.open(path) as image:
        image.load()
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises((OSError, UserError), match="No space left"):
        WRITERS[name](path)
    assert path.read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["figure.png", "metrics.jsonl"]
