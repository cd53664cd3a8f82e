"""Compare the memory bank with the official arrays, and check its draws and its edge cases."""

import numpy as np
import pytest
import torch

from gcl_fast.memory import MemoryBank


def bank_of(features: torch.Tensor, labels: torch.Tensor, **options) -> MemoryBank:
    bank = MemoryBank(*features.shape, **options).to(features.device)
    bank.features.copy_(features)
    bank.labels.copy_(labels)
    return bank


@pytest.fixture
def official(golden, device) -> dict[str, torch.Tensor]:
    with np.load(golden / "memory.npz", allow_pickle=False) as arrays:
        return {name: torch.from_numpy(arrays[name]).to(device) for name in arrays}


def official_bank(official: dict[str, torch.Tensor]) -> MemoryBank:
    settings = {name: float(official[name]) for name in ("momentum", "temperature")}
    return bank_of(official["bank"], official["labels"], **settings)


def test_golden_loss_gradients_and_update(official):
    bank = official_bank(official)
    f, f_new = official["f"].requires_grad_(), official["f_new"].requires_grad_()
    loss = bank.loss(f, f_new, official["index"], official["positive_index"])
    loss.backward()
    bank.update_(official["index"], f.detach())
    for ours, theirs in (
        (loss.double(), official["loss"]),
        (f.grad, official["grad_f"]),
        (f_new.grad, official["grad_f_new"]),
        (bank.features, official["bank_after"]),
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def test_draws_change_with_the_step_and_come_back_with_the_state(official):
    bank = official_bank(official)
    bank.num_negatives = 20
    f, f_new, index = official["f"], official["f_new"], official["index"]
    first = bank.loss(f, f_new, index)
    assert bank.loss(f, f_new, index) == first
    state = {name: value.clone() for name, value in bank.state_dict().items()}
    bank.update_(index[:0], f[:0])
    assert bank.loss(f, f_new, index) != first
    resumed = MemoryBank(*bank.features.shape, temperature=bank.temperature, num_negatives=20, seed=7)
    resumed.to(bank.features.device).load_state_dict(state)
    assert resumed.loss(f, f_new, index) == first


def test_empty_batch_is_zero_and_differentiable(official):
    bank = official_bank(official)
    f = torch.zeros(0, 64, requires_grad=True, device=bank.features.device)
    loss = bank.loss(f, f, bank.labels[:0])
    loss.backward()
    assert loss == 0
    assert f.grad.shape == (0, 64)


def test_anomaly_mode_names_the_rows_that_are_not_finite(official):
    bank, f_new = official_bank(official), official["f_new"].clone()
    f_new[[2, 5], 3] = torch.nan
    with torch.autograd.detect_anomaly(), pytest.raises(ValueError, match=r"f_new .* rows \[2, 5\]"):
        bank.loss(official["f"], f_new, official["index"])
    assert bank.loss(official["f"], f_new, official["index"]).isnan()
