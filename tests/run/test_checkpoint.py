import os

import pytest
import torch

from gcl_fast.errors import UserError
from gcl_fast.run import checkpoint
from gcl_fast.run.checkpoint import load_state, save_state


def test_the_newest_comes_back_and_old_ones_go(tmp_path):
    for step in (3, 10, 200):
        save_state(tmp_path, step, {"step": step, "weights": torch.full((2,), float(step))})
    state = load_state(tmp_path)
    assert state is not None
    assert state["step"] == 200
    assert torch.equal(state["weights"], torch.full((2,), 200.0))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_000000010.pt", "step_000000200.pt"]


def test_nothing_there(tmp_path):
    assert load_state(tmp_path / "absent") is None


def test_a_truncated_checkpoint_falls_back_to_the_one_before(tmp_path):
    save_state(tmp_path, 1, {"step": 1})
    last = save_state(tmp_path, 2, {"step": 2})
    assert last is not None
    last.write_bytes(last.read_bytes()[:100])
    with pytest.warns(UserWarning, match="step_000000002.pt cannot be read"):
        assert load_state(tmp_path) == {"step": 1}
    (tmp_path / "step_000000001.pt").write_bytes(b"")
    with pytest.warns(UserWarning, match="cannot be read"), pytest.raises(UserError, match="none of the 2 checkpoints"):
        load_state(tmp_path)


class Code:
    """An object whose unpickling would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    torch.save({"step": 1, "hook": Code(tmp_path / "executed")}, tmp_path / "step_000000001.pt")
    with (
        pytest.warns(UserWarning, match="UnpicklingError"),
        pytest.raises(UserError, match="none of the 1 check"),
    ):
        load_state(tmp_path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("failing", ["fsync", "save"])
def test_a_full_disk_keeps_the_last_one(tmp_path, monkeypatch, failing):
    save_state(tmp_path, 1, {"step": 1})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((os, "fsync") if failing == "fsync" else (checkpoint.torch, "save")), full)
    with pytest.warns(UserWarning, match="No space left"):
        assert save_state(tmp_path, 2, {"step": 2}) is None
    assert load_state(tmp_path) == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["step_000000001.pt"]
