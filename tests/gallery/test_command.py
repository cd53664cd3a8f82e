"""gcl-fast search: builds an index, prints, draws and refuses."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from gcl_fast import search
from gcl_fast.data import open_dataset
from gcl_fast.gallery import figure, open_index, server
from gcl_fast.gallery.index import MANIFEST
from gcl_fast.inference import load
from gcl_fast.models import GCL
from gcl_fast.run.weights import describe, save_weights
from gcl_fast.settings import override, preset


@pytest.fixture(autouse=True)
def loaded(model, monkeypatch):
    """The command loads the model by colours, whatever run is named; the sources that were asked for."""
    sources = []
    monkeypatch.setattr(load, "load", lambda source, *_: sources.append(str(source)) or model)
    return sources


@pytest.fixture
def query(tmp_path):
    path = tmp_path / "query.png"
    Image.new("RGB", (30, 60), (195, 40, 35)).save(path)
    return path


def run(*arguments):
    return search.main([str(argument) for argument in arguments])


def test_a_folder_is_indexed_once_and_searched_by_the_model_that_it_remembers(
    crops, query, model, tmp_path, loaded, capsys
):
    index = tmp_path / "new" / "index"
    assert run(index, "--build", crops.root, "--model", tmp_path / "run") == 0
    assert "6 images of" in (log := capsys.readouterr().err)
    assert "1 of them do not decode" in log
    assert open_index(index).cameras.tolist() == [1, 2, 1, 3, 2, 3]  # as the names give them
    assert run(index, query, "--k", 2) == 0
    assert loaded == [str(tmp_path / "run")] * 2
    lines = capsys.readouterr().out.splitlines()
    *rows, row = model.embed([*crops.paths[:2], query])
    pairs = zip(crops.paths, crops.camera, rows)
    expected = [[path.name, str(camera), f"{float(other @ row):.4f}"] for path, camera, other in pairs]
    assert [line.split() for line in lines[1:3]] == expected


def test_a_dataset_names_cameras(crops, tmp_path):
    for part in ("bounding_box_train", "query", "bounding_box_test"):
        shutil.copytree(crops.root, tmp_path / "data" / part)
    layout = ("--build", tmp_path / "data", "--dataset", "market1501")
    assert run(tmp_path / "index", *layout, "--model", "run") == 0
    index = open_index(tmp_path / "index")
    assert index.root == tmp_path / "data" / "bounding_box_test"
    assert index.cameras.tolist() == crops.camera.tolist()
    assert run(tmp_path / "index", *layout, "--split", "query", "--model", "run") == 0
    assert open_index(tmp_path / "index").root == tmp_path / "data" / "query"


def test_json_holds_each_query_and_null_for_one_that_does_not_decode(folder, query, crops, model, tmp_path, capsys):
    (tmp_path / "broken.png").write_bytes(b"")
    assert run(folder, "--json", tmp_path / "broken.png", "--k", 1, query) == 0
    result = json.loads(capsys.readouterr().out)
    assert [line["query"] for line in result["queries"]] == [str(tmp_path / "broken.png"), str(query)]
    assert result["queries"][0]["matches"] is None
    (match,) = result["queries"][1]["matches"]
    assert (match["name"], match["camera"], match["row"]) == ("0001_c1s1_000001_00.jpg", 1, 0)
    row, other = model.embed([query, crops.paths[0]])
    assert match["cosine"] == pytest.approx(float(row @ other), abs=1e-6)


def test_a_link_in_a_folder_of_queries_that_leads_nowhere_is_one_that_does_not_decode(folder, query, tmp_path, capsys):
    (tmp_path / "queries").mkdir()
    (tmp_path / "queries" / "a.jpg").symlink_to(tmp_path / "absent.jpg")
    (tmp_path / "queries" / "b.jpg").symlink_to(query)
    assert run(folder, "--json", tmp_path / "queries", "--k", 1) == 0
    assert [line["matches"] is None for line in json.loads(capsys.readouterr().out)["queries"]] == [True, False]


def test_the_figure_shows_the_query_and_its_matches(folder, query, crops, tmp_path):
    assert run(folder, query, crops.paths[4], "--k", 2, "--image", tmp_path / "out" / "matches.png") == 0
    sheet = np.asarray(Image.open(tmp_path / "out" / "matches.png"))
    wide, high = figure.CROP[0] + figure.GAP, figure.CROP[1] + figure.LABEL + figure.GAP
    colours = [
        [
            sheet[figure.EDGE + line * high + 80, figure.EDGE + column * wide + (figure.GAP if column else 0) + 48]
            for column in range(3)
        ]
        for line in range(2)
    ]
    expected = [[(195, 40, 35), (200, 30, 30), (190, 60, 40)], [(20, 40, 220), (20, 40, 220), (40, 180, 60)]]
    assert np.abs(np.array(colours, int) - expected).max() <= 3


def test_a_figure_that_would_fill_the_memory_is_refused(folder, query, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(figure, "MOST", 5)
    assert run(folder, query, query, "--k", 2, "--image", tmp_path / "matches.png") == 2
    assert "a figure of 6 images would hold more than 5" in capsys.readouterr().err
    assert not (tmp_path / "matches.png").exists()


def test_a_name_cannot_act_on_the_terminal(crops, query, tmp_path, capsys):
    crops.paths[0].rename(crops.root / "a\x1b[2J\nb.jpg")
    run(tmp_path / "index", "--build", crops.root, "--model", "run")
    assert run(tmp_path / "index", query, "--k", 1) == 0
    assert "a\\x1b[2J\\nb.jpg" in capsys.readouterr().out


def test_serve_hands_the_index_to_the_page(folder, monkeypatch):
    served = []
    monkeypatch.setattr(server, "serve", lambda index, model, port: served.append((index.folder, port)))
    assert run(folder, "--serve") == 0
    assert run(folder, "--serve", "--port", 0) == 0
    assert served == [(folder, 8000), (folder, 0)]


def spoil(what, folder, crops, model):
    if what == "another model":
        model.digest = "f" * 16
    elif what == "another size":
        model.size = (256, 128)
    elif what == "moved":
        shutil.move(crops.root, crops.root.with_name("moved"))
    elif what == "damaged":
        (folder / MANIFEST).write_text("{")


@pytest.mark.parametrize(
    ("arguments", "what", "sentence"),
    [
        ("{folder}", "", "nothing to search for: give a QUERY, --serve for a page, or --build FOLDER"),
        ("{folder} --json", "", "nothing to search for"),
        ("{folder} --serve --json", "", "--json does nothing without a QUERY"),
        ("{folder} {query} --port 0", "", "--port does nothing without --serve"),
        ("{folder} {query} --dataset folder", "", "--dataset does nothing without --build"),
        ("{folder} --build {crops} --split query --model x", "", "--split does nothing without --dataset"),
        ("{folder} --build {crops}", "", "--build needs --model RUN"),
        ("{folder} --serve --port 70000", "", "--port 70000: expected 0 to 65535"),
        ("{folder} {query}", "", "k=10: .* holds 5 images that decode; choose a k from 1 to 5"),
        ("{folder} {query} --k 0", "", "k=0: .* choose a k from 1 to 5"),
        ("{folder} nothing.jpg", "", "there is no image nothing.jpg"),
        ("{folder} {empty}", "", "no crops in .*empty"),
        ("{folder} {broken} --k 1", "", "none of the 1 queries decodes"),
        ("{empty} {query} --k 1", "", "there is no index at .*empty; build one"),
        ("{folder} {query} --k 1", "damaged", "manifest.json cannot be read: build the index .* again"),
        ("{folder} {query} --k 1", "another model", "was made by another model .*runs/NAME, digest 0123.*f{16}"),
        ("{folder} {query} --k 1", "another size", "was made by another model"),
        ("{folder} {query} --k 1 --image {new}.png", "moved", r"c1s1_000001_00.jpg any more; .*\(--images DIR\)"),
        ("{folder} {query} --k 1 --image {query}/m.png", "", "cannot write .*m.png"),
        ("{new} --build {empty} --model x", "", "no crops in .*empty"),
        ("{new} --build {broken}.d --model x", "", "none of the 1 images below .* decodes; the lines above say why"),
        ("{crops} --build {crops} --model x", "", "crops is no index and holds 0001_c1s1_000001_00.jpg"),
        ("{query} --build {crops} --model x", "", "cannot write the index .*query.png"),
        ("{new} --build {nowhere} --model x", "", "there is no folder .*nowhere"),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_leaves_nothing(
    arguments, what, sentence, folder, crops, query, model, tmp_path, capsys
):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").write_bytes(b"")
    (tmp_path / "broken.d").mkdir()
    (tmp_path / "broken.d" / "a.jpg").write_bytes(b"")
    spoil(what, folder, crops, model)
    before = sorted(tmp_path.rglob("*"))
    places = {name: tmp_path / name for name in ("empty", "broken", "new", "nowhere")}
    places |= {"folder": folder, "crops": crops.root, "query": query}
    assert run(*[part.format(**places) for part in arguments.split()]) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert re.search(sentence, line)
    assert captured.out == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_a_trained_run_finds_a_crop_of_its_gallery(crops, tmp_path, monkeypatch, capsys):
    monkeypatch.undo()  # load it
    config = override(preset("demo"), ["dataset=folder", f"data_root={crops.root}", "height=64", "width=40"])
    torch.manual_seed(0)
    weights = tmp_path / "joint.safetensors"
    data = open_dataset("folder", crops.root)
    save_weights(weights, GCL(config.model).state_dict(), describe(config, "joint", data, {}))
    assert run(tmp_path / "index", "--build", crops.root, "--model", weights, "--device", "cpu") == 0
    assert run(tmp_path / "index", crops.paths[3], "--k", 1, "--json", "--device", "cpu") == 0
    (match,) = json.loads(capsys.readouterr().out)["queries"][0]["matches"]
    assert (match["row"], match["name"]) == (3, crops.names[3])
    assert match["cosine"] == pytest.approx(1, abs=1e-5)
