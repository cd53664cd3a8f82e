"""Measure the quality of known views: the crop, darkened by its yaw."""

import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from gcl_fast.data import Records
from gcl_fast.data.augment import IMAGENET_MEAN, IMAGENET_STD
from gcl_fast.errors import UserError
from gcl_fast.evaluation.figures import yaw_curves
from gcl_fast.evaluation.inference import to_unit
from gcl_fast.evaluation.quality import INCEPTION, OWN, ViewQuality
from gcl_fast.evaluation.retrieval import retrieve
from gcl_fast.render import Turn

pytest.importorskip("torchmetrics")

H, W, N = 24, 16, 8
MEAN, STD = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))


def darkened(pictures: torch.Tensor, yaw: torch.Tensor) -> torch.Tensor:
    return pictures * (1 - yaw / 720).view(-1, 1, 1, 1)


class Darkening(torch.nn.Module):
    """Stands in for the generator: part features are the image, and the yaw darkens it."""

    carries = False

    def forward(self, yaw, parts, appearance):
        assert appearance is None
        return (darkened(parts.view(-1, 3, H, W) * STD + MEAN, yaw) - MEAN) / STD


class Known(torch.nn.Module):
    """Stands in for GCL: part features are the image, embeddings its mean colour, structure codes the yaw."""

    def __init__(self):
        super().__init__()
        self.generator = Darkening()

    def identity(self, images):
        return images.flatten(1), images.mean((2, 3))

    def structure(self, maps):
        return maps[:, 0, 0, 0]


class YawMaps:
    """Stands in for structure maps: a map holds its yaw."""

    def turn(self, index, yaw):
        return Turn(torch.cat([0 * yaw, yaw]).view(-1, 1, 1, 1).expand(-1, 1, H, W))


def measured(
    tmp_path: Path, truth: bool = True, labelled: bool = True, distractor: int = -1, inception=None, gallery_camera=1
):
    generator = torch.Generator().manual_seed(0)
    pictures = 0.5 * torch.rand(N, 3, 1, 1, generator=generator) + 0.5 * torch.rand(N, 3, H, W, generator=generator)
    images = (pictures - MEAN) / STD
    person = torch.zeros(N, H, W, dtype=torch.bool)
    person[:, 6:18, 6:10] = True
    identity = 1 + np.arange(N) // 2 if labelled else np.full(N, -1)
    identity[identity == distractor] = 0
    paths = [tmp_path / f"{i}.jpg" for i in range(N)]
    records = Records(tmp_path, paths, identity, np.zeros(N, int), np.zeros(N, int))
    gallery = Records(tmp_path, paths, identity, np.full(N, gallery_camera), np.zeros(N, int))

    def true_views(names, yaw):
        index = [int(name.split(".")[0]) for name in names]
        shown = darkened(to_unit(images[index]), yaw)
        return (shown * 255).round().to(torch.uint8), person[index]

    quality = ViewQuality(
        Known(),
        [(images[:5], torch.arange(5)), (images[5:], torch.arange(5, N))],
        records,
        [(images, torch.arange(N))],
        gallery,
        YawMaps(),
        true_views if truth else None,
        nullcontext,
        inception,
    )
    return quality.measure([0.0, 90.0, 180.0]), pictures, person


def test_values_of_known_views(tmp_path):
    quality, pictures, person = measured(tmp_path)
    turned = quality["yaws"]
    for yaw, metrics in turned.items():
        assert metrics["ssim"] == pytest.approx(1, abs=1e-3)
        assert metrics["error"] == pytest.approx(0, abs=2e-3)
        mask = person[:, None].expand(-1, 3, -1, -1)
        lost = pictures * float(yaw) / 720  # the difference that darkening makes
        assert metrics["error_copy"] == pytest.approx(lost[mask].mean().item(), abs=2e-3)
        assert metrics["error_cycle"] == pytest.approx(lost.mean().item(), abs=1e-5)
    assert turned["0"]["ssim_reconstruction"] == pytest.approx(1, abs=1e-5)
    assert turned["0"]["error_reconstruction"] == pytest.approx(0, abs=1e-6)
    assert "ssim_reconstruction" not in turned["90"]
    assert turned["180"]["ssim_copy"] < turned["90"]["ssim_copy"] < turned["0"]["ssim_copy"]
    # The gallery has the untouched crops: their distance to it is zero.
    assert quality["real"][OWN] == pytest.approx(0, abs=1e-5)
    assert quality["real"]["mAP"] == turned["0"]["mAP"] > turned["180"]["mAP"]
    assert turned["180"][OWN] > turned["90"][OWN] > 0.01
    assert quality["mean"]["error_cycle"] == pytest.approx(
        (turned["90"]["error_cycle"] + turned["180"]["error_cycle"]) / 2
    )


def test_what_is_not_known_is_left_out(tmp_path):
    quality, *_ = measured(tmp_path, truth=False, labelled=False)
    assert set(quality["yaws"]["90"]) == {"error_cycle", OWN}
    assert set(quality["real"]) == {OWN}
    quality, *_ = measured(tmp_path, truth=False, gallery_camera=0)  # nobody is seen by two cameras
    assert set(quality["real"]) == {OWN}


def test_distractors_are_found_and_not_sought(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("gcl_fast.evaluation.quality.retrieve", lambda *given: asked.append(given) or retrieve(*given))
    measured(tmp_path, distractor=4)
    assert len(asked) == 4  # the untouched crops and three yaws
    for query, gallery, records, real in asked:
        assert len(query) == N - 2
        assert records.identity.tolist() == [1, 1, 2, 2, 3, 3]
        assert len(gallery) == N
        assert real.identity.tolist() == [1, 1, 2, 2, 3, 3, 0, 0]


def test_features_other_than_its_own_have_another_name(tmp_path):
    quality, *_ = measured(tmp_path, inception=lambda pictures: pictures.mean((2, 3)))
    assert INCEPTION in quality["real"]
    assert OWN not in quality["real"]
    assert quality["yaws"]["180"][INCEPTION] > quality["yaws"]["90"][INCEPTION] > 0.001


def test_without_torchmetrics_the_rest_is_measured(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    monkeypatch.setitem(sys.modules, "torchmetrics.image.fid", None)
    quality, *_ = measured(tmp_path)
    assert set(quality["real"]) == {"mAP", "rank1"}
    assert {"ssim", "error", "error_cycle", "mAP", "rank1"} == set(quality["yaws"]["90"]) - {"ssim_copy", "error_copy"}
    with pytest.raises(UserError, match="pip install torchmetrics"):
        measured(tmp_path, inception=lambda pictures: pictures.mean((2, 3)))


def test_picture_has_a_panel_for_each_kind(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("gcl_fast.evaluation.figures.Figure.savefig", lambda figure, path, **_: drawn.append(figure))
    quality, *_ = measured(tmp_path)
    yaw_curves(quality, tmp_path / "quality.png")
    panels = {axes.get_ylabel(): axes for axes in drawn[0].axes}
    assert list(panels) == ["SSIM", "mean |difference|", "identity", "Fréchet distance"]
    lines = {line.get_label(): line for line in panels["identity"].lines}
    assert list(lines["mAP"].get_xdata()) == [0, 90, 180]
    assert lines["mAP"].get_ydata()[2] == quality["yaws"]["180"]["mAP"]
    assert set(lines["mAP, real crops"].get_ydata()) == {quality["real"]["mAP"]}
