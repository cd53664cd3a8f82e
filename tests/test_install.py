"""Installation from an archive whose links were dropped ends in one sentence."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SETUP = Path(__file__).parents[1] / "setup.py"


@pytest.mark.parametrize("dropped", [("kernels",), ("csrc",), ("kernels", "csrc")])
def test_links_that_an_archive_dropped_are_named(tmp_path, dropped):
    shutil.copy(SETUP, tmp_path)
    for name in ("kernels", "csrc"):
        (tmp_path / name).mkdir()
        (tmp_path / "gcl_fast").mkdir(exist_ok=True)
        if name in dropped:
            (tmp_path / "gcl_fast" / name).write_text(f"../{name}")  # as pip's unzip leaves a link
        else:
            (tmp_path / "gcl_fast" / name).symlink_to(f"../{name}")
    done = subprocess.run([sys.executable, "setup.py", "--version"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("gcl_fast/kernels and gcl_fast/csrc are no folders")
    assert "pip install git+URL" in line
