"""A file that is written atomically is the old one or the new one, and nothing else stays in its folder."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import BinaryIO

import pytest

from gcl_fast.atomic import check_writable, refuse_link, write_atomically
from gcl_fast.errors import UserError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The path of a file that does not exist, nor does its folder."""
    return tmp_path / "folder" / "file.txt"


def test_the_folder_holds_the_new_file_alone(path):
    for content in (b"first, and longer", b"second"):
        write_atomically(path, lambda file, content=content: file.write(content))
        assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_exception_leaves_the_old_file_and_no_temporary_one(path, error):
    write_atomically(path, lambda file: file.write(b"old"))

    def fail(file: BinaryIO) -> None:
        file.write(b"half of the new")
        raise error

    with pytest.raises(error):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def test_writers_at_the_same_time_do_not_disturb_each_other(path):
    """Both have opened their temporary file before either goes on, so a shared one would mix or vanish."""
    both = Barrier(2, timeout=60)

    def write(content: bytes) -> None:
        write_atomically(path, lambda file: (both.wait(), file.write(content), file.flush(), both.wait()))

    contents = [b"a" * 70_000, b"b" * 50_000]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, contents))
    assert path.read_bytes() in contents
    assert list(path.parent.iterdir()) == [path]


def test_the_umask_decides_who_may_read_it(path):
    former = os.umask(0o027)
    try:
        write_atomically(path, lambda file: file.write(b"shared"))
    finally:
        os.umask(former)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_link_is_replaced_or_refused_and_what_it_leads_to_stays(tmp_path):
    (tmp_path / "target").write_text("kept")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(UserError, match="link is a link, and the file that it leads to would be written; remove it"):
        refuse_link(tmp_path / "link")
    write_atomically(tmp_path / "link", lambda file: file.write(b"new"))
    assert not (tmp_path / "link").is_symlink()
    refuse_link(tmp_path / "link")
    assert (tmp_path / "target").read_text() == "kept"


def test_a_folder_is_checked_without_being_made(tmp_path):
    check_writable(tmp_path / "missing" / "below")
    check_writable(tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OSError, match="Not a directory"):
            check_writable(folder)
