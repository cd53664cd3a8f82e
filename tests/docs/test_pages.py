"""README and docs: links, named files and functions exist; figures stand in marks; sentences are short."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from gcl_fast.command_line import parse

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "gcl_fast"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
WRITTEN = {"versions.md"}  # by tests/matrix.py
LONGEST = 25  # words of a sentence
NUMBERS = 2  # in a sentence

CODE = re.compile(r"```.*?```", re.DOTALL)
MARKED = re.compile(r"<!-- figures?: .*?<!-- end -->", re.DOTALL)
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")
FILE = re.compile(r"`([\w./*-]+\.(?:py|cpp|csv|md|cff|sh|txt))(?:: ([\w.]+))?`")
FOLDER = re.compile(r"`([\w./-]+)/`")
SETTING = re.compile(r"\b((?:generative|joint|warmup|source|world)\.[\w.]+=[\w.,\[\]|-]+)")
MADE_BY_A_RUN = re.compile(r"^(runs|checkpoints|events|views|generation|datasets)(/|$)")


@pytest.fixture(params=PAGES, ids=lambda path: path.name)
def page(request) -> Path:
    return request.param


def places(name: str) -> list[Path]:
    """Where a file or folder may lie: below the repository, the package, or the tests."""
    return [base / name for base in (ROOT, PACKAGE, ROOT / "csrc", ROOT / "benchmarks") if (base / name).exists()]


@cache
def names_of(path: Path) -> frozenset[str]:
    """Functions, classes, methods and constants that a module defines."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{item.name}" for item in node.body if isinstance(item, ast.FunctionDef)}
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return frozenset(names)


def test_links_lead_to_files(page):
    missing = [link for link in LINK.findall(CODE.sub("", page.read_text())) if not (page.parent / link).exists()]
    assert not missing


def test_named_files_and_functions_exist(page):
    missing = []
    for name, function in FILE.findall(CODE.sub("", page.read_text())):
        if "*" in name or "NAME" in name or MADE_BY_A_RUN.match(name):
            continue
        found = places(name)
        if not found and "/" not in name:  # a bare name that another word on the page places
            found = [path for base in (PACKAGE, ROOT / "benchmarks", ROOT / "tests") for path in base.rglob(name)]
        if not found or (function and not any(function in names_of(path) for path in found)):
            missing.append(f"{name}: {function}" if function else name)
    assert not missing


def test_named_folders_exist(page):
    names = FOLDER.findall(CODE.sub("", page.read_text()))
    missing = [n for n in names if not places(n) and not MADE_BY_A_RUN.match(n)]
    assert not missing


def test_the_architecture_names_every_room():
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms <= set(FOLDER.findall((ROOT / "docs" / "architecture.md").read_text()))


def test_named_settings_exist(page):
    """In the demo, whose joint stage has the settings of both kinds."""
    from gcl_fast.errors import UserError
    from gcl_fast.settings import preset
    from gcl_fast.settings.text import override

    unknown = []
    for setting in SETTING.findall(page.read_text()):
        if "|" in setting or setting.endswith("VALUE"):
            continue
        try:
            override(preset("demo"), ["model.generator.appearance=parts", setting])
        except UserError as error:
            unknown.append(str(error))
    assert not unknown


def prose(path: Path) -> str:
    """The sentences of a page: no code, no tables, no marks; `code` and links are one word each."""
    text = CODE.sub(".\n", path.read_text())
    text = re.sub(r"<!-- figures: .*?<!-- end -->", ".", text, flags=re.DOTALL)
    text = re.sub(r"<!-- figure: .*?<!-- end -->", "FIGURE", text, flags=re.DOTALL)
    text = re.sub(r"!\[([^]]*)\]\([^)]*\)(<br>)?", r"\1.\n\n", text)
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"`[^`]*`", "CODE", text)
    lines = [line for line in text.splitlines() if not line.startswith("|")]
    return "\n".join(re.sub(r"^(#+ .*|:::.*)$", r"\n\1.\n", line) for line in lines)


def sentences(path: Path) -> list[str]:
    """The sentences of a page; a list item and a heading end one."""
    blocks = re.split(r"\n\s*\n|\n\s*(?:[-*]|\d+\.|>) ", prose(path))
    flat = (" ".join(block.split()) for block in blocks)
    return [s for block in flat for s in re.split(r"(?<=[.!?])(?<!al\.)\*{0,2}\s+", block) if s]


@pytest.mark.parametrize("path", [p for p in PAGES if p.name not in WRITTEN], ids=lambda path: path.name)
def test_sentences_are_short(path):
    long = [s for s in sentences(path) if len(re.findall(r"[\w'’µ/+=.-]*\w[\w'’]*", s)) > LONGEST]
    assert not long


@pytest.mark.parametrize("path", [p for p in PAGES if p.name not in WRITTEN], ids=lambda path: path.name)
def test_sentences_hold_two_numbers_at_most(path):
    crowded = [s for s in sentences(path) if len(re.findall(r"(?<![\w-])\d[\d.,]*\b|FIGURE", s)) > NUMBERS]
    assert not crowded


# Settings of the method and of the tools that are no measurements
STATED = {"95 %", "25 MB", "300 GB", "25 GB"}


@pytest.mark.parametrize("path", [p for p in PAGES if p.name not in WRITTEN], ids=lambda path: path.name)
def test_measured_figures_stand_in_marks(path):
    text = re.sub(r"`[^`]*`", "", MARKED.sub("", CODE.sub("", path.read_text())))
    units = r"%|x\b|ms\b|s\b|MB\b|GB\b|points\b|GFLOP|TFLOP|images/s|mAP\b"
    typed = [f"{number} {unit}" for number, unit in re.findall(rf"(?<![\w.])(\d[\d.,]*)\s?({units})", text)]
    assert not set(typed) - STATED


def test_the_readme_is_short_and_keeps_the_two_commands():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 120
    commands = ["pip install -e . && torchrun gcl_fast/train.py --amp", 'pip install -e ".[test]" && pytest']
    assert [line for line in lines if line in commands] == commands


def test_the_readme_s_output_is_of_the_command_that_it_names():
    (command,) = re.findall(r"^\$ torchrun gcl_fast/train.py (.*)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    config, _ = parse(command.split())
    world = config.world
    assert f": {world.identities * world.cameras * world.crops} train, " in (ROOT / "README.md").read_text()
    for stage, settings in (("warmup", config.warmup), ("joint", config.joint.clusters)):
        steps = settings.epochs * settings.steps_per_epoch
        assert re.search(rf"^{stage}: mAP .*, {steps} steps in ", (ROOT / "README.md").read_text(), re.MULTILINE)


def test_pictures_in_the_repository_are_png():
    assert not list((ROOT / "benchmarks").rglob("*.svg"))
    assert not list((ROOT / "docs").rglob("*.svg"))
