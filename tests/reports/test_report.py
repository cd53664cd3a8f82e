"""The report is complete, agrees with `rank`, escapes every name, loads nothing, and refuses what it cannot do."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from driven_browser import BROWSER
from pages import HOSTILE, Page, open_in_browser
from PIL import Image
from written_runs import write_run

from gcl_fast import report
from gcl_fast.assessment.extract import extract
from gcl_fast.data import open_dataset
from gcl_fast.distributed.ranks import start
from gcl_fast.evaluation import rank
from gcl_fast.evaluation.pairs import BINS, PairSimilarities
from gcl_fast.optim.precision import choose
from gcl_fast.reports import embedding_map
from gcl_fast.reports.measured import _pairs
from gcl_fast.run.restore import restore
from gcl_fast.run.run_files import read_run


def person_and_camera(name):
    return re.match(r"(-?\d+)_c(\d+)", name).groups()


@pytest.fixture(scope="module")
def page(hostile_run):
    """The text of the report on the run with hostile names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GCL_FAST_ALLOCATOR", "decided")
        assert report.main([str(hostile_run), "--device", "cpu"]) == 0
    return (hostile_run / "report.html").read_text()


def test_lists_agree_with_rank(page, hostile_run):
    config = read_run(hostile_run).config
    data = open_dataset("synthetic", config.data_root)
    ranks = start("cpu")
    ((_, gcl),) = restore(hostile_run, config, ["warmup"], ranks.device)
    query, gallery = (
        extract(gcl.identity, r, config, ranks, choose(False, ranks.device)) for r in (data.query, data.gallery)
    )
    places = {name: number for number, name in enumerate(data.query.names)}
    identities = [torch.as_tensor(v) for v in (data.query.identity, data.gallery.identity)]
    cameras = [torch.as_tensor(v) for v in (data.query.camera, data.gallery.camera)]
    lists = Page(page).lists
    assert len(lists) == min(24, len(data.query))
    for values, entries in lists:
        place = places[values["data-name"]]
        row = slice(place, place + 1)
        truth = rank(-query[row] @ gallery.T, identities[0][row], identities[1], cameras[0][row], cameras[1])
        assert float(values["data-ap"]) == pytest.approx(truth.mAP, abs=1e-6)
        person, camera = person_and_camera(values["data-name"])
        first = None
        for entry in entries:
            other, other_camera = person_and_camera(entry["name"])
            same = person == other
            assert entry["kind"] == ("junk" if same and camera == other_camera else "match" if same else "other")
            assert {"junk": "left out", "match": "✓", "other": "✗"}[entry["kind"]] in entry["caption"]
            if entry["kind"] == "match" and first is None:
                first = int(entry["place"])
        assert sum(entry["kind"] != "junk" for entry in entries) == 10
        assert int(values["data-first"]) == first or (first is None and int(values["data-first"]) > 10)
        assert truth.cmc[int(values["data-first"]) - 1] == 1
        assert int(values["data-first"]) == 1 or truth.cmc[int(values["data-first"]) - 2] == 0
    assert len({values["data-name"] for values, _ in lists}) == len(lists)


def test_the_page_says_what_the_files_say(page, hostile_run):
    text = Page(page).text
    assert "warmup 50.0 75.0 12 30" in text  # mAP, rank1, seconds, steps
    assert "height 128 64" in text
    assert "world.identities 100 6" in text
    assert "3 clusterings. The last has 7 clusters , 99.0 % outliers" in text.replace("clusters,", "clusters ,")
    assert text.count("nothing is left to learn from") == 3
    assert "no generator is trained by the warmup stage" in text
    assert "a false accept rate of 0.1 needs 300 pairs of two people" in text
    labels = [values["aria-label"] for tag, values in Page(page).elements if tag == "svg"]
    assert [label.split(":")[0] for label in labels][:2] == ["warmup", "warmup"]
    assert any("a colour for each person" in label for label in labels)


def test_names_are_text_and_nothing_is_loaded(page):
    parsed = Page(page)
    assert f"0099_c1s1_000001_01{HOSTILE}.jpg" in parsed.text
    for tag, values in parsed.elements:
        assert not [name for name in values if name.startswith("on")]
        for name in ("src", "href", "xlink:href"):
            assert (values.get(name) or "#").startswith(("data:image/", "#")), (tag, values)
        assert tag != "img" or values["alt"]
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    (policy,) = [values["content"] for _, values in parsed.elements if "http-equiv" in values]
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert len(page) < 2_000_000


@pytest.mark.skipif(BROWSER is None, reason="needs chromium, chromium-browser or google-chrome")
def test_in_a_browser_lists_sort_and_no_name_runs(page, hostile_run, tmp_path):
    path = hostile_run / "report.html"
    before = Page(page).lists
    expected = {values["data-name"]: entries for values, entries in before}
    for fragment, key in (
        ("#sort=name", lambda values: values["data-name"]),
        ("#sort=-ap", lambda values: -float(values["data-ap"])),
        ("#sort=first", lambda values: int(values["data-first"])),
    ):
        text = open_in_browser(path, tmp_path / "profile", fragment)
        after = Page(text).lists
        keys = [key(values) for values, _ in after]
        assert keys == sorted(keys)
        assert {values["data-name"]: entries for values, entries in after} == expected
        assert "<title>hostile – gcl_fast</title>" in text
    assert [key(values) for values, _ in before] != keys
    # The same name does run where a page writes it as it is
    (tmp_path / "careless.html").write_text(f"<title>careless</title>{HOSTILE}")
    assert "<title>broken out</title>" in open_in_browser(tmp_path / "careless.html", tmp_path / "profile")


def test_unlabelled_crops_leave_lists_out(tmp_path):
    crops = tmp_path / "crops"
    crops.mkdir()
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 256, (64, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(crops / f"{number}.png")
    run = write_run(tmp_path / "run", "dataset=folder", f"data_root={crops}", weights=("warmup", "generative"))
    assert report.main([str(run), "--device", "cpu", "--stage", "generative", "--out", str(tmp_path / "a/b.html")]) == 0
    text = Page((tmp_path / "a/b.html").read_text()).text
    assert text.count("Left out: folder has no query and gallery, so there is nothing to rank.") == 3
    assert "no body parameters of the crops" in text  # they would be written into the dataset's folder
    assert not (crops / "body_parameters").exists()
    assert "t-SNE of scikit-learn, 12 crops" in text


def test_views_are_drawn_or_taken_from_the_run(world, tmp_path):
    run = write_run(tmp_path / "run", f"data_root={world}", weights=("generative",))
    assert report.main([str(run), "--device", "cpu"]) == 0
    text = Page((run / "report.html").read_text()).text
    assert "Drawn for this page, from crops of query." in text
    (run / "views").mkdir()
    Image.new("RGB", (30, 20), "green").save(run / "views" / "generative.png")
    assert report.main([str(run), "--files-only"]) == 0
    files = Page((run / "report.html").read_text())
    assert "Drawn by the run" in files.text
    assert "so nothing was measured" in files.text
    (image,) = [values for tag, values in files.elements if tag == "img"]
    assert (image["width"], image["height"]) == ("30", "20")


def test_the_folder_that_people_share_is_enough(hostile_run, tmp_path):
    (tmp_path / "shared" / "checkpoints").mkdir(parents=True)
    for name in ("config.yaml", "checkpoints/warmup.safetensors"):
        shutil.copy(hostile_run / name, tmp_path / "shared" / name)
    commands = [{"started": "noon", "command": ["train.py", "<i>"]}, {"versions": {"torch": "<b>2</b>"}}]
    (tmp_path / "shared" / "environment.json").write_text(json.dumps(commands))
    (tmp_path / "shared" / "run.log").write_bytes(b"gcl_fast: run\n  device  CPU \xff</pre><b>\n" + 10**6 * b"x")
    assert report.main([str(tmp_path / "shared"), "--files-only"]) == 0
    text = Page((tmp_path / "shared" / "report.html").read_text()).text
    assert "holds no summary.json" in text
    assert "no losses in metrics.jsonl" in text
    assert "versions torch <b>2</b>" in text
    assert "earlier command noon train.py <i>" in text
    assert "device CPU \ufffd</pre><b>" in text
    assert (tmp_path / "shared" / "report.html").stat().st_size < 10**5


def _save_views(run, kind):
    (run / "views").mkdir()
    Image.new("RGB", (30, 20)).save(run / "views" / "warmup.png", format=kind)


@pytest.mark.parametrize(
    ("change", "flags", "message"),
    [
        (lambda run: (run / "config.yaml").unlink(), [], "config.yaml is missing"),
        (lambda run: (run / "config.yaml").write_text("a: ["), [], "config.yaml cannot be read"),
        (lambda run: (run / "config.yaml").write_text("colour: red"), [], "is not of this version of gcl_fast"),
        (lambda run: (run / "summary.json").write_text("{"), [], "summary.json cannot be read"),
        (lambda run: (run / "summary.json").write_text('{"stages": []}'), [], "is not the summary of a run"),
        (lambda run: (run / "environment.json").write_text("{}"), [], "does not hold a list of environments"),
        (lambda run: shutil.rmtree(run / "checkpoints"), [], "has finished none of source, warmup, generative, joint"),
        (lambda run: _save_views(run, "GIF"), ["--files-only"], "views/warmup.png is no readable image"),
        (lambda run: None, ["--stage", "joint"], "--stage joint: "),
        (lambda run: None, ["--files-only", "--data-root", "elsewhere"], "--data-root with --files-only"),
        (lambda run: None, ["--data-root", "nowhere"], "--data-root names another place, --files-only leaves"),
        (lambda run: (run / "report.html").mkdir(), [], "a folder"),
        (lambda run: None, ["--out", "{run}/config.yaml/page.html"], "cannot write"),
    ],
)
def test_what_cannot_be_reported_is_one_sentence(hostile_run, tmp_path, capsys, change, flags, message):
    run = tmp_path / "run"
    shutil.copytree(hostile_run, run, ignore=shutil.ignore_patterns("report.html"))
    change(run)
    before = sorted(path.relative_to(run) for path in run.rglob("*"))
    assert report.main([str(run), *(flag.format(run=run) for flag in flags)]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line]
    assert message in line
    assert len(line) < 600
    assert sorted(path.relative_to(run) for path in run.rglob("*")) == before


def test_the_suggested_threshold_is_at_a_rate_that_the_pairs_support():
    same, different = torch.zeros(2, BINS, dtype=torch.int64)
    same[15_000::100] = 1  # cosines of 0.5 and more
    different[10_000:12_000] = 2  # 4,000 pairs with cosines of 0 to 0.2
    section = _pairs(PairSimilarities(same, different))
    assert (section["far"], section["unsupported"]) == (0.01, [0.001, 0.0001])
    assert [far for far, _ in section["rates"]] == [0.1, 0.01]
    assert section["suggested"].threshold == pytest.approx(0.198)  # 40 of 4,000 pairs reach it
    assert section["suggested"].tar == 1
    assert "0.1980" in section["histogram"]
    assert _pairs(PairSimilarities(same, different * 300))["far"] == 0.001
    few = torch.zeros_like(different)
    few[:299] = 1
    assert "299 of two people" in _pairs(PairSimilarities(same, few))["left_out"]


def test_target_is_checked_before_the_work(hostile_run, tmp_path, monkeypatch):
    monkeypatch.setattr("gcl_fast.reports.measured.measure", lambda *_, **__: pytest.fail("measured"))
    (tmp_path / "file").touch()
    assert report.main([str(hostile_run), "--out", str(tmp_path / "file" / "page.html")]) == 2


def test_a_map_of_many_rows_states_its_sample(monkeypatch):
    rows = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    rows[30:] += 20  # two islands
    whole = embedding_map.embedding_map(rows)
    assert whole.points.shape == (60, 2)
    assert len(whole.index) == 60
    distance = np.linalg.norm(whole.points[:, None] - whole.points[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    assert ((distance.argmin(1) < 30) == (np.arange(60) < 30)).all()
    monkeypatch.setitem(sys.modules, "openTSNE", None)
    sample = embedding_map.embedding_map(rows, largest=40)
    assert sample.points.shape == (40, 2)
    assert (sample.index[0], sample.index[-1]) == (0, 59)
    assert "40 crops spread evenly over 60" in sample.how


def test_the_command_imports_no_torch():
    script = "import sys, gcl_fast.report, gcl_fast.compare; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
