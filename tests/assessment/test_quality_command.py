"""`python -m gcl_fast.evaluate --generation` on a run."""

import json
import re

import pytest
import torch
from PIL import Image

from gcl_fast import evaluate

pytest.importorskip("torchmetrics")


def test_leaves_figures_and_a_picture_for_each_stage(finished, capsys):
    command = [str(finished), "--amp", "--generation", "--yaws", "0", "90", "--count"]
    assert evaluate.main([*command, "6"]) == 0
    tables = iter(capsys.readouterr().out.splitlines())
    for stage in ("generative", "joint"):
        quality = json.loads((finished / "generation" / f"{stage}.json").read_text())
        assert quality["crops"] == 6
        assert list(quality["yaws"]) == ["0", "90"]
        turned = quality["yaws"]["90"]
        assert {"ssim", "ssim_copy", "error_cycle", "mAP", "rank1", "frechet_distance_own_encoder"} <= turned.keys()
        assert turned == quality["mean"]
        assert turned["frechet_distance_own_encoder"] > quality["real"]["frechet_distance_own_encoder"]
        title, names, _, _, row, _, _ = (re.split(" {2,}", next(tables)) for _ in range(7))
        assert title == [f"{stage}: views of 6 crops of query against {quality['real_crops']} real crops"]
        assert (names[0], row[0]) == ("per cent, at yaw", "90")
        printed = dict(zip([name for name in names[1:] if name in turned], row[1:], strict=True))
        for name, value in turned.items():
            distance = name.startswith("frechet")
            assert printed[name] == (f"{value:.3f}" if distance else f"{100 * value:.1f}"), name
        with Image.open(finished / "generation" / f"{stage}.png") as picture:
            assert picture.width > 500
    assert evaluate.main([*command, "1"]) == 2
    assert "needs two crops or more of query, not 1" in capsys.readouterr().err


def test_wrong_inception_weights_are_named(finished, tmp_path, capsys):
    torch.save({"Conv2d_1a_3x3.conv.weight": torch.zeros(32, 3, 5, 5)}, tmp_path / "inception.pth")
    command = [str(finished), "--generation", "--inception", str(tmp_path / "inception.pth")]
    assert evaluate.main(command) == 2
    assert "Conv2d_1a_3x3.conv.weight is (32, 3, 5, 5), expected (32, 3, 3, 3)" in capsys.readouterr().err
