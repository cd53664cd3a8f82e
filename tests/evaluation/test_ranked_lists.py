"""Ranked lists and pairs agree with `rank` and with plain loops."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from gcl_fast.data import Records
from gcl_fast.evaluation import retrieve
from gcl_fast.evaluation.pairs import BINS, pair_similarities
from gcl_fast.evaluation.ranked_lists import choose_queries, ranked_lists


def records(count, seed, cameras=3):
    random = np.random.default_rng(seed)
    paths = [Path(f"{number}.jpg") for number in range(count)]
    return Records(Path(), paths, random.integers(-1, 5, count), random.integers(0, cameras, count), np.zeros(count))


@pytest.fixture
def split(device):
    rows = normalize(torch.randn(130, 8, generator=torch.Generator().manual_seed(0)).mul(4).round() / 4)  # with ties
    return rows[:30].to(device), rows[30:].to(device), records(30, 1), records(100, 2)


def test_lists_have_the_average_precision_of_rank(split, monkeypatch):
    query, gallery, query_records, gallery_records = split
    monkeypatch.setattr("gcl_fast.evaluation.retrieval.TILE_ENTRIES", 700)
    retrieval = retrieve(query, gallery, query_records, gallery_records)
    chosen = [29, 0, 7, 13]
    lists = ranked_lists(query, gallery, query_records, gallery_records, chosen, top=100)
    assert [one.query for one in lists] == chosen
    for one in lists:
        assert sorted(entry.crop for entry in one.entries) == list(range(100))
        for entry in one.entries:
            same = gallery_records.identity[entry.crop] == query_records.identity[one.query]
            own_camera = gallery_records.camera[entry.crop] == query_records.camera[one.query]
            assert entry.kind == ("junk" if same and own_camera else "match" if same else "other")
            assert (entry.place is None) == (entry.kind == "junk")
        ranked = [entry for entry in one.entries if entry.kind != "junk"]
        assert [entry.place for entry in ranked] == list(range(1, len(ranked) + 1))
        similarity = np.array([entry.similarity for entry in ranked])
        match = np.array([entry.kind == "match" for entry in ranked])
        precision = [match[similarity >= level].mean() for level in similarity[match]]  # ties enter together
        assert np.mean(precision) == pytest.approx(float(retrieval.precision[one.query]), abs=1e-12)
        assert one.first == int(match.argmax()) + 1


def test_a_list_ends_at_its_last_place(split):
    (one,) = ranked_lists(*split, chosen=[3], top=4)
    assert [entry.place for entry in one.entries if entry.place] == [1, 2, 3, 4]
    assert one.entries[-1].place == 4


def test_queries_of_each_kind():
    precision = torch.tensor([0.3, torch.nan, 0.9, 0.1, 0.5, 0.7, 0.2, 0.8])
    assert choose_queries(precision, 2) == {"worst": [3, 6], "median": [0, 4], "best": [2, 7]}
    few = choose_queries(precision[:4], 8)
    assert few == {"worst": [3], "median": [0], "best": [2]}
    assert choose_queries(precision[1:2], 8) == {"worst": [], "median": [], "best": []}


def test_pairs_are_those_of_a_loop(split, monkeypatch):
    monkeypatch.setattr("gcl_fast.evaluation.pairs.CHUNK", 300)
    query, gallery, query_records, gallery_records = split
    pairs = pair_similarities(*split)
    same, different = [], []
    cosines = (query @ gallery.T).double().cpu()
    for i, (person, camera) in enumerate(zip(query_records.identity, query_records.camera)):
        for j, (other, other_camera) in enumerate(zip(gallery_records.identity, gallery_records.camera)):
            if camera != other_camera and min(person, other) >= 0 and not person == other == 0:
                (same if person == other else different).append(float(cosines[i, j]))
    assert (int(pairs.same.sum()), int(pairs.different.sum())) == (len(same), len(different))
    same, different = np.array(same), np.array(different)
    for far in (0.5, 0.1, 0.01):
        point = pairs.at_far(far)
        # The oracle leaves out cosines on the edge of a bin, which float32 and float64 may place differently
        assert point.far <= far
        assert (different >= point.threshold + 1e-6).mean() <= point.far <= (different >= point.threshold - 1e-6).mean()
        assert (same >= point.threshold + 1e-6).mean() <= point.tar <= (same >= point.threshold - 1e-6).mean()
        lower = point.threshold - 2 / BINS
        assert (different >= lower - 1e-6).mean() > far
    equal = pairs.equal_error()
    assert equal.far <= 1 - equal.tar
    assert pairs.supports(30 / len(different))
    assert not pairs.supports(29 / len(different))
