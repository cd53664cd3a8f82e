"""evaluate --tracklets ranks tracklets by their mean rows, as a plain computation in NumPy does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import gcl_fast
from gcl_fast import evaluate
from gcl_fast.assessment.tracklet_rows import pool_tracklets
from gcl_fast.data import Records, open_dataset
from gcl_fast.models import GCL
from gcl_fast.run.weights import save_weights
from gcl_fast.settings import override, preset, to_dict


@pytest.fixture(scope="module")
def run(tmp_path_factory, world) -> Path:
    """The folder of a run with random weights, on a manifest of the world's test crops in tracklets."""
    root = tmp_path_factory.mktemp("tracklets")
    source = open_dataset("synthetic", world)
    lines = ["path,split,identity,camera,tracklet"]
    for records in (source.query, source.gallery):
        for path, person, camera in zip(records.paths, records.identity, records.camera):
            split = "query" if (person + camera) % 2 and person else "gallery"
            tracklet = "" if person == 0 else f"t{person}"  # of a person in a camera; distractors have none
            lines.append(f"{path},{split},{person},{camera},{tracklet}")
    (root / "manifest.csv").write_text("\n".join(lines) + "\n")
    config = override(preset("demo"), ["dataset=manifest", f"data_root={root}", "height=64", "width=40"])
    (root / "run").mkdir()
    (root / "run" / "config.yaml").write_text(yaml.safe_dump(to_dict(config)))
    torch.manual_seed(0)
    save_weights(root / "run" / "checkpoints" / "warmup.safetensors", GCL(config.model).state_dict())
    return root / "run"


def plain(query: np.ndarray, gallery: np.ndarray, of_query: Records, of_gallery: Records) -> dict[str, float]:
    """Return mAP, rank1 and the numbers of tracklets by loops over tracklets."""

    def pool(rows: np.ndarray, records: Records) -> tuple[np.ndarray, list[tuple[int, int]]]:
        members: dict[tuple, list[int]] = {}
        for place, (tracklet, person, camera) in enumerate(zip(records.tracklet, records.identity, records.camera)):
            members.setdefault((place, -1) if tracklet < 0 else (tracklet, person, camera), []).append(place)
        means = np.stack([rows[places].astype(np.float64).mean(0) for places in members.values()])
        who = [(records.identity[places[0]], records.camera[places[0]]) for places in members.values()]
        return means / np.linalg.norm(means, axis=1, keepdims=True), who

    (q, who_q), (g, who_g) = pool(query, of_query), pool(gallery, of_gallery)
    precisions, first = [], []
    for row, (person, camera) in zip(q, who_q):
        order = [n for n in np.argsort(-(g @ row), kind="stable") if who_g[n] != (person, camera)]
        hits = np.array([who_g[n][0] == person for n in order])
        if hits.any():
            precisions.append((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean())
            first.append(hits[0])
    return {
        "mAP": float(np.mean(precisions)),
        "rank1": float(np.mean(first)),
        "query_tracklets": len(q),
        "gallery_tracklets": len(g),
    }


def test_metrics_are_those_of_a_plain_computation(run, capsys):
    data = open_dataset("manifest", run.parent)
    model = gcl_fast.load(run)
    rows = (model.embed(records.paths).numpy() for records in (data.query, data.gallery))
    expected = plain(*rows, data.query, data.gallery)
    assert evaluate.main([str(run), "--tracklets", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["warmup"]
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-9)
    assert len(data.gallery) > expected["gallery_tracklets"] == sum(data.gallery.tracklet_counts)
    assert data.gallery.tracklet_counts[1] > 0  # a distractor is a tracklet of one
    assert evaluate.main([str(run), "--json"]) == 0
    crops = json.loads(capsys.readouterr().out)["warmup"]
    assert "query_tracklets" not in crops
    assert crops["mAP"] != found["mAP"]


def test_the_table_names_tracklets(run, capsys):
    assert evaluate.main([str(run), "--tracklets"]) == 0
    header, row = capsys.readouterr().out.splitlines()
    data = open_dataset("manifest", run.parent)
    assert header.split()[-2:] == ["query_tracklets", "gallery_tracklets"]
    assert row.split()[-2] == str(len(np.unique(data.query.tracklet)))


def test_a_protocol_by_tracklet_is_the_default_of_its_dataset(run, capsys, monkeypatch):
    monkeypatch.setattr("gcl_fast.assessment.assess.BY_TRACKLET", ("manifest",))
    assert evaluate.main([str(run), "--json"]) == 0
    assert "query_tracklets" in json.loads(capsys.readouterr().out)["warmup"]
    assert evaluate.main([str(run), "--json", "--no-tracklets"]) == 0
    assert "query_tracklets" not in json.loads(capsys.readouterr().out)["warmup"]


def test_tracklets_that_nobody_knows_are_refused(run, world, capsys):
    assert evaluate.main([str(run), "--tracklets", "--dataset", "synthetic", "--data-root", str(world)]) == 2
    assert "--tracklets: no tracklet is known of query and gallery of synthetic" in capsys.readouterr().err
    assert evaluate.main([str(run), "--tracklets", "--joint-similarity"]) == 2
    assert "--tracklets with --joint-similarity" in capsys.readouterr().err


def test_tracklets_keep_the_order_of_their_first_crops():
    columns = np.array([[5, 6, 5, 6, 5], [1, 1, 1, 1, 2], [0] * 5, [9, 2, 9, -1, 9]])  # one tracklet, two cameras
    records = Records(Path(), [Path(f"{n}.jpg") for n in range(5)], *columns)
    rows = torch.nn.functional.normalize(torch.randn(5, 8, generator=torch.Generator().manual_seed(0)))
    pooled, tracklets = pool_tracklets(rows, records)
    assert [path.name for path in tracklets.paths] == ["0.jpg", "1.jpg", "3.jpg", "4.jpg"]
    expected = torch.stack([rows[[0, 2]].mean(0), rows[1], rows[3], rows[4]])
    torch.testing.assert_close(pooled, torch.nn.functional.normalize(expected))
