"""Training batches of the estimator: what is said of a crop is what it shows; and the command."""

import numpy as np
import pytest
import torch

from gcl_fast.bodies import AnnyBody, posture
from gcl_fast.bodies.body_estimator import load_regressor
from gcl_fast.bodies.body_regressor import SIZE
from gcl_fast.estimator_training import clutter as cluttering
from gcl_fast.estimator_training import fit as estimator
from gcl_fast.estimator_training.__main__ import main
from gcl_fast.estimator_training.alignment import Alignment
from gcl_fast.estimator_training.clutter import Clutter
from gcl_fast.render import render_structure
from gcl_fast.synthetic.cutouts import Cutouts, Scenery


@pytest.fixture(scope="module")
def drawn():
    return Scenery(78, 3).draw(24, 8)


def test_cutouts_are_the_same_for_the_same_seed(drawn):
    again = Scenery(78, 3).draw(2, 1)
    assert np.array_equal(again.pictures, drawn.pictures[:2])
    assert np.array_equal(again.vector, drawn.vector[:2])


def test_batches_are_the_same_for_the_same_seed(drawn):
    one, same, other = (Clutter(drawn, seed).batch(8) for seed in (5, 5, 6))
    assert torch.equal(one.image, same.image)
    assert not torch.equal(one.image, other.image)


def test_labels_follow_the_picture(drawn, monkeypatch):
    """White people on black, alone: the body of the label covers them, framed, cut and mirrored as they are."""
    for name in ("NOBODY", "OWN_PLACE", "COMPANY", "OCCLUDED"):
        monkeypatch.setattr(cluttering, name, 0.0)
    monkeypatch.setattr(Clutter, "_photograph", lambda self, image: image)
    monkeypatch.setattr(Clutter, "_recoloured", lambda self, colour, own: colour)
    monkeypatch.setattr(cluttering, "IMAGENET_MEAN", (0.0,) * 3)
    monkeypatch.setattr(cluttering, "IMAGENET_STD", (1.0,) * 3)
    white = np.concatenate((np.full_like(drawn.pictures[..., :3], 255), drawn.pictures[..., 3:]), -1)
    batch = Clutter(Cutouts(white, drawn.vector, drawn.yaw, np.zeros_like(drawn.backdrops)), 1).batch(64)
    at, body = posture.decode(batch.vector), AnnyBody()
    shown = render_structure(body(at.pose, at.shape), body.faces, batch.yaw, at.camera, SIZE)[:, 0] < 0.99
    person = batch.image[:, 0] > 0.5
    assert ((shown & person).sum((1, 2)) / shown.sum((1, 2))).median() > 0.85  # clothes and bags stand out, not bodies
    overlap = (shown & person).sum((1, 2)) / (shown | person).sum((1, 2))
    assert overlap.median() > 0.6
    swapped = (shown.flip(2) & person).sum((1, 2)) / (shown.flip(2) | person).sum((1, 2))
    assert overlap.mean() > swapped.mean() + 0.05


def test_nobody_is_as_likely_from_all_sides(drawn, monkeypatch):
    monkeypatch.setattr(cluttering, "NOBODY", 1.0)
    batch = Clutter(drawn, 2).batch(4)
    assert not batch.somebody.any()
    flat = estimator.Regressed(torch.zeros(4, 36), batch.vector + 9)
    peaked = estimator.Regressed(torch.eye(36)[:4] * 9, batch.vector + 9)
    alignment = Alignment()
    assert estimator.loss(flat, batch, alignment).item() == pytest.approx(np.log(36), abs=1e-4)
    assert estimator.loss(peaked, batch, alignment) > estimator.loss(flat, batch, alignment)


def test_alignment_counts_pixels_of_the_crop(drawn):
    alignment, truth, yaw = Alignment(), torch.from_numpy(drawn.vector), torch.from_numpy(drawn.yaw)
    assert alignment(truth, truth, yaw).max() == 0
    aside = truth.clone()
    aside[:, posture.CAMERA][:, 1] += 0.1 / posture.CAMERA_SCALE[1]  # a tenth of the width: 6.4 pixels
    torch.testing.assert_close(alignment(aside, truth, yaw), torch.full((24,), (6.4 - 0.5) / 3), rtol=1e-3, atol=0)
    told = (truth + 0.1).requires_grad_()
    alignment(told, truth, yaw).sum().backward()
    assert told.grad is not None
    assert told.grad.isfinite().all()
    assert (told.grad.abs().sum(0) > 0)[2:].all()  # all but which leg is ahead, which turns by jumps


def test_alignment_measures_on_the_skin_of_the_body(drawn):
    at = posture.decode(torch.from_numpy(drawn.vector[:2]))
    points, whole = Alignment().body(at.pose, at.shape), AnnyBody()(at.pose, at.shape)
    assert torch.cdist(points, whole).amin(2).max() < 0.03  # as far as another lowest vertex lifts it
    assert torch.cdist(whole, points).amin(2).max() < 0.2  # nowhere is far from a point


def test_command_trains_keeps_cutouts_and_goes_on(tmp_path, monkeypatch, capsys):
    for name, value in (("PEOPLE", 6), ("BACKDROPS", 3), ("CAMERAS", 2), ("BATCH", 4)):
        monkeypatch.setattr(estimator, name, value)
    out, arguments = tmp_path / "w.safetensors", ["--work", str(tmp_path / "work"), "--shards", "1", "--steps", "2"]
    assert main([*arguments, "--out", str(out)]) == 0
    before = load_regressor(out)
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["cutouts-1000.npz"]
    monkeypatch.setattr(estimator, "Scenery", lambda *_: pytest.fail("drawn again"))
    assert main([*arguments, "--out", str(out), "--init", str(out)]) == 0
    assert not torch.equal(before.hidden.weight, load_regressor(out).hidden.weight)
    assert "step 2 of 2" in capsys.readouterr().err


def test_command_says_what_it_cannot_write(tmp_path, monkeypatch, capsys):
    for name, value in (("PEOPLE", 1), ("BACKDROPS", 1), ("CAMERAS", 1)):
        monkeypatch.setattr(estimator, name, value)
    (tmp_path / "file").write_text("")
    arguments = ["--work", str(tmp_path / "file" / "work"), "--shards", "1", "--out", str(tmp_path / "w.safetensors")]
    assert main(arguments) == 2
    assert "choose another --work" in capsys.readouterr().err
    monkeypatch.setattr(estimator, "Scenery", lambda *_: pytest.fail("drawn before it was known where to write"))
    assert main(["--work", str(tmp_path / "work"), "--out", str(tmp_path)]) == 2
    assert "it is a folder; give the name of a file" in capsys.readouterr().err
