"""Check retrieval by appearance and time (JVTC+)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from gcl_fast.data import Records
from gcl_fast.evaluation import visual_temporal_retrieval
from gcl_fast.evaluation.retrieval import retrieve
from gcl_fast.evaluation.visual_temporal_retrieval import retrieve_jointly
from gcl_fast.pseudo_labels.temporal_model import TemporalModel


def records(rows: list[tuple[int, int, int]]) -> Records:
    identity, camera, frame = (np.array(column) for column in zip(*rows))
    return Records(Path("/crops"), [Path(f"/crops/{i}.jpg") for i in range(len(rows))], identity, camera, frame)


def model() -> TemporalModel:
    """Fit a temporal model to one walk from camera 1 to camera 2 in 1,000 frames."""
    return TemporalModel.fit(torch.tensor([0, 0]), torch.tensor([1, 2]), torch.tensor([0, 1000]), 100, 100, 3.0)


@pytest.fixture
def twins():
    """Make three queries in camera 1, each with its own crop and a more similar one of a stranger in camera 2."""
    query = records([(p, 1, 10_000 * p) for p in (1, 2, 3)])
    gallery = records([(p, 2, 10_000 * p + 1100) for p in (1, 2, 3)] + [(9, 2, 10_000 * p + 6000) for p in (1, 2, 3)])
    looks = torch.eye(3, 4)
    own = normalize(looks + 0.6 * torch.tensor([0, 0, 0, 1.0]), dim=1)
    stranger = normalize(looks + 0.3 * torch.tensor([0, 0, 0, 1.0]), dim=1)
    return looks, torch.cat([own, stranger]), query, gallery


def test_time_puts_the_right_twin_first(twins, monkeypatch):
    assert retrieve(*twins).cmc[0] == 0
    assert retrieve(*twins).mAP == pytest.approx(0.5)
    monkeypatch.setattr(visual_temporal_retrieval, "TILE_ENTRIES", 12)  # two queries at a time
    found = retrieve_jointly(*twins, model())
    assert (found.mAP, float(found.cmc[0]), found.num_queries) == (1, 1, 3)


def test_where_no_time_is_known_looks_decide(twins):
    looks, gallery, query_records, gallery_records = twins
    elsewhere = Records(
        query_records.root, query_records.paths, query_records.identity, query_records.camera + 6, query_records.frame
    )
    found = retrieve_jointly(looks, gallery, elsewhere, gallery_records, model())
    assert found.mAP == retrieve(*twins).mAP
