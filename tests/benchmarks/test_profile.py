"""Test the profiler on real steps of a tiny world, its page, and how it reads what only a GPU records."""

import json
import re
import shutil
import subprocess
from functools import cache
from html.parser import HTMLParser

import numpy as np
import profile_hotspots
import pytest
from matplotlib.colors import to_rgb
from PIL import Image
from profile_hotspots import main

from gcl_fast.synthetic import WorldConfig, make_world
from lib.ceilings import Ceilings
from profiler.chrome_trace import REST, read
from profiler.page import write_page

CEILINGS = Ceilings(matrix=1e11, convolution=4e11, copy=3e10, dtype="bfloat16")
TINY = [
    "--set", "height=64", "width=40", "world.identities=4", "world.cameras=3", "world.crops=2",
    "warmup.identities=4", "warmup.crops=2", "warmup.steps_per_epoch=12", "joint.batch=2", "joint.update_every=1",
    "joint.clusters.identities=4", "joint.clusters.crops=2", "joint.clusters.steps_per_epoch=12",
]  # fmt: skip
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Tags(HTMLParser):
    """Collects the tags of a page, whether they nest, and what they would fetch."""

    def __init__(self, page):
        super().__init__()
        self.seen, self.open, self.fetched = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        self.open += [] if tag in ("meta", "br") else [tag]
        self.fetched += [v for k, v in attributes if k in ("src", "href", "xlink:href") and not v.startswith("#")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.handle_endtag(tag)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world") / "world", WorldConfig(identities=4, cameras=3, crops=2))


@pytest.fixture(scope="module", autouse=True)
def one_measurement_of_the_ceilings():
    """Measure the ceilings of this machine once for all tests: that takes two seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(profile_hotspots, "measure_ceilings", cache(profile_hotspots.measure_ceilings))
        yield


@pytest.mark.parametrize(
    ("stage", "regions"),
    [
        ("warmup", {"load", "encode", "contrastive", "bank", "backward", "optimizer"}),
        (
            "joint",
            {"load", "structure maps", "transfer", "encode", "decode", "discriminate", "R1", "contrastive", "losses"}
            | {"bank", "backward", "optimizer"},
        ),
    ],
)
def test_named_regions_cover_real_steps(world, tmp_path, capsys, stage, regions):
    settings = [f"data_root={world}", "generative.reconstruction_epochs=0"]  # so that D learns in the joint stage
    assert main(["--stage", stage, "--steps", "2", "--out", str(tmp_path), *TINY, *settings]) == 0
    output = capsys.readouterr().out
    measured = read(tmp_path / f"{stage}.trace.json")
    assert len(measured.steps) == 2
    assert set(measured.regions()) - {REST} == regions
    unnamed = [
        sum(span.end - span.start for span in measured.spans if span.region == REST and start <= span.start < end)
        / (end - start)
        for start, end in measured.steps
    ]
    assert min(unnamed) <= 0.05  # in the others the core may have been another process's
    assert f"named regions cover {measured.coverage:.1%}" in output
    assert sum(map(sum, measured.regions().values())) == pytest.approx(measured.wall, rel=0.01)
    forward, backward = measured.regions()["encode"]
    assert forward > 0 < backward
    assert any(kernel.flops and kernel.name.endswith("convolution_backward") for kernel in measured.kernels)
    assert sum(kernel.us for kernel in measured.kernels) <= 1.02 * measured.wall
    assert max(held for _, held in measured.memory) > 1e6
    page = (tmp_path / f"{stage}.html").read_text()
    tags = Tags(page)
    assert tags.open == []
    assert tags.fetched == []
    assert "script" not in tags.seen
    assert not re.search(r"url\((?!#)|@import", page)
    assert tags.seen.count("svg") == 3
    assert tags.seen.count("table") == 2
    for region in regions:
        assert page.count(f">{region}<") >= 2  # in the table and in the timeline


def test_too_few_steps_are_a_sentence(world, tmp_path, capsys):
    assert main(["--stage", "warmup", "--steps", "9000", "--out", str(tmp_path), *TINY, "warmup.epochs=1",
                 f"data_root={world}"]) == 2  # fmt: skip
    assert "--steps 9000: the warmup stage ended after 11 of 27005 steps" in capsys.readouterr().err


@pytest.fixture
def gpu_trace(tmp_path):
    """Return the profile in a hand-made trace of one step with a GPU."""

    def event(cat, name, ts, dur, **arguments):
        return {"ph": "X", "cat": cat, "name": name, "pid": 1, "tid": 1, "ts": ts, "dur": dur, "args": arguments}

    product = {"Input Dims": [[64, 64], [64, 64]], "Input type": ["float", "float"]}
    events = [
        event("user_annotation", "ProfilerStep#3", 0, 1000),
        event("user_annotation", "gcl_fast::encode", 0, 400),
        event("cpu_op", "aten::mm", 10, 20, **{"External id": 7}, **product),
        event("user_annotation", "gcl_fast::backward", 400, 500),
        event("kernel", "gemm", 500, 200, **{"External id": 7, "est. achieved occupancy %": 50}),
        event("kernel", "epilogue", 650, 100, **{"External id": 7, "est. achieved occupancy %": 20}),
        event("cpu_instant_event", "[memory]", 20, 0, **{"Device Type": 1, "Total Allocated": 5}),
        event("cpu_instant_event", "[memory]", 40, 0, **{"Device Type": 1, "Total Allocated": 3}),
        event("cpu_instant_event", "[memory]", 30, 0, **{"Device Type": 0, "Total Allocated": 9}),
    ]  # fmt: skip
    path = tmp_path / "trace.json"
    path.write_text(json.dumps({"traceEvents": events}))
    return read(path)


def test_gpu_kernels_gaps_and_occupancy(tmp_path, gpu_trace):
    found = gpu_trace
    assert found.regions() == {"backward": (0.0, 500.0), "encode": (400.0, 0.0), REST: (100.0, 0.0)}
    assert found.coverage == pytest.approx(0.9)
    assert found.device_us == {"encode": 300}  # launched there, though it ran later
    assert found.launch_gap == pytest.approx(0.75)
    assert found.memory == [(20, 5.0), (40, 3.0)]
    gemm, epilogue = found.kernels
    assert (gemm.name, gemm.flops, gemm.occupancy) == ("gemm", 2 * 64**3, [50.0])
    assert epilogue.flops == 0
    write_page(tmp_path / "page.html", "a title", ["a < b"], found, CEILINGS)
    page = (tmp_path / "page.html").read_text()
    assert "<th>occupancy</th>" in page
    assert "<td>50 %</td>" in page
    assert "a &lt; b" in page


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium or Chrome")
def test_a_browser_draws_the_plots(tmp_path, gpu_trace):
    page, screenshot = tmp_path / "page.html", tmp_path / "page.png"
    write_page(page, "a title", [], gpu_trace, CEILINGS)
    browser = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile"]
    subprocess.run(
        [*browser, "--window-size=1200,2400", f"--screenshot={screenshot}", page.as_uri()],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    seen = np.asarray(Image.open(screenshot).convert("RGB")).astype(int)
    blue = np.array(to_rgb("tab:blue")) * 255  # in each of the plots, and nowhere else
    rows = np.flatnonzero((abs(seen - blue).max(2) <= 3).any(1))
    plots = np.split(rows, np.flatnonzero(np.diff(rows) > 60) + 1)
    assert len(plots) == 3, "timeline, roofline and memory are not all on the screen"


def test_a_trace_without_steps_is_an_error(tmp_path):
    (tmp_path / "trace.json").write_text('{"traceEvents": []}')
    with pytest.raises(ValueError, match="no complete training step"):
        read(tmp_path / "trace.json")
