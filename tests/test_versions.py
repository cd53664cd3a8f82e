"""The range of torch, and what is said of one outside it."""

import importlib.metadata
import tomllib
import warnings
from pathlib import Path

import pytest
import torch

from gcl_fast.entry import in_one_line
from gcl_fast.errors import UserError
from gcl_fast.versions import BELOW, LOWEST, check_torch


def test_the_range_is_that_of_the_package():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert f"torch>={LOWEST[0]}.{LOWEST[1]},<{BELOW[0]}.{BELOW[1]}" in project["dependencies"]


@pytest.mark.parametrize("installed", ["2.11.0", "2.14.1+cu130", "2.12.0a0+gitf00", torch.__version__])
def test_a_torch_of_the_range_passes_in_silence(installed):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_torch(installed)


@pytest.mark.parametrize("installed", ["2.10.1+cu128", "1.13.1", "2.1.0"])
def test_an_older_torch_is_refused_with_the_way_out(installed):
    with pytest.raises(
        UserError, match=rf"needs torch 2.11 or newer, this is torch {installed[:5]}.*pip install 'torch>="
    ):
        check_torch(installed)


@pytest.mark.parametrize("installed", ["2.15.0", "3.0.0.dev20270101"])
def test_a_newer_torch_is_tried_with_a_warning(installed):
    with pytest.warns(UserWarning, match="tested on torch 2.11 up to 2.15"):
        check_torch(installed)


def test_entries_say_it_in_one_line_before_they_import_torch(monkeypatch, capsys):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.9.1")
    with pytest.raises(SystemExit) as ended, in_one_line():
        pytest.fail("the imports of an entry ran")
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("gcl_fast: gcl_fast needs torch 2.11 or newer, this is torch 2.9.1: pip")


def test_no_torch_at_all_is_one_line(monkeypatch):
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(UserError, match="there is none here: pip install"):
        check_torch()
