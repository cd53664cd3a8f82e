import pytest
import torch
from torch.nn.functional import normalize

from gcl_fast.kernels.memory_update import memory_update, memory_update_reference

CASES = {  # index, D
    "distinct": ([4, 0, 7], 64),
    "repeated": ([3, 5, 3, 3, 0, 5, 3], 33),
    "all equal": ([2] * 9, 48),
    "many": (list(range(8)) * 9, 2048),
    "one": ([6], 1),
    "empty": ([], 16),
}
DTYPES = pytest.mark.parametrize(
    "dtypes",
    [
        (bank, features)
        for bank in (torch.float32, torch.bfloat16)
        for features in (torch.float32, torch.bfloat16, torch.float16)
    ],
)


def case(name: str, bank_dtype: torch.dtype, feature_dtype: torch.dtype, device: str = "cpu"):
    rows, D = CASES[name]
    generator = torch.Generator().manual_seed(len(rows) + D)
    bank = normalize(torch.randn(8, D, generator=generator), dim=1).to(device, bank_dtype)
    features = 3 * torch.randn(len(rows), D + 3, generator=generator).to(device, feature_dtype)[:, :D]  # rows apart
    return bank, torch.tensor(rows, dtype=torch.int64, device=device), features, 0.2


def truth(bank, index, features, momentum) -> torch.Tensor:
    """One row after the other, in float64."""
    out = bank.double().clone()
    for i, f in zip(index.tolist(), features.double(), strict=True):
        if f.isfinite().all():
            out[i] = normalize(momentum * out[i] + (1 - momentum) * normalize(f, dim=0), dim=0)
    return out


def check(update, name, bank_dtype, feature_dtype, device="cpu", ulps=0.5) -> None:
    bank, index, features, momentum = case(name, bank_dtype, feature_dtype, device)
    expected, before = truth(bank, index, features, momentum), bank.clone()
    update(bank, index, features, momentum)
    assert ((bank - expected).abs() <= ulps * torch.finfo(bank_dtype).eps * expected.abs() + 1e-6).all()
    untouched = torch.ones(len(bank), dtype=torch.bool, device=bank.device).index_fill(0, index, False)
    assert torch.equal(bank[untouched], before[untouched])


@DTYPES
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("update", [memory_update, memory_update_reference])
def test_one_row_after_the_other(update, name, dtypes, device):
    check(update, name, *dtypes, device)


@pytest.mark.parametrize("bank_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("update", [memory_update, memory_update_reference])
def test_an_embedding_that_is_not_finite_leaves_its_row_alone(update, bank_dtype, device):
    bank, index, features, momentum = case("repeated", bank_dtype, torch.float32, device)  # rows 3, 5, 3, 3, 0, 5, 3
    features[0, 1], features[3, 32], features[4, 0] = torch.nan, torch.inf, -torch.inf
    expected, before = truth(bank, index, features, momentum), bank.clone()
    update(bank, index, features, momentum)
    assert torch.equal(bank[0], before[0])  # its only embedding
    torch.testing.assert_close(bank.double(), expected, rtol=0.5 * torch.finfo(bank_dtype).eps, atol=1e-6)
    assert not torch.equal(bank[3], before[3])


@pytest.mark.parametrize("update", [memory_update, memory_update_reference])
@pytest.mark.parametrize("size", [0.0, 1e-30, 1e30])
def test_the_length_of_an_embedding_is_normalized_as_by_torch(update, size, device):
    bank, index, features, momentum = case("distinct", torch.float32, torch.float32, device)
    features = features * size  # squares underflow to 0, or overflow to infinity: as torch's, such a row adds nothing
    expected = bank.clone()
    expected[index] = normalize(momentum * bank[index] + (1 - momentum) * normalize(features, dim=1), dim=1)
    update(bank, index, features, momentum)
    torch.testing.assert_close(bank, expected, rtol=0, atol=1e-6)
    assert bank.isfinite().all()


@pytest.mark.parametrize("bank_dtype", [torch.float32, torch.bfloat16])
def test_autocast_updates_the_bank_itself(device, bank_dtype):
    with torch.autocast(device, torch.bfloat16):
        check(memory_update, "repeated", bank_dtype, torch.bfloat16, device)


def test_opcheck_and_fullgraph_compile(device):
    bank, index, features, momentum = case("repeated", torch.float32, torch.float32, device)
    torch.library.opcheck(torch.ops.gcl_fast.memory_update, (bank.clone(), index, features, momentum))
    expected = truth(bank, index, features * 2, momentum)

    @torch.compile(fullgraph=True)
    def step(bank, features):
        memory_update(bank, index, features * 2, momentum)
        return bank.sum()

    total = step(bank, features)
    torch.testing.assert_close(bank.double(), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(total, bank.sum())


def test_bad_input_is_named():
    bank, index, features, momentum = case("repeated", torch.float32, torch.float32)
    with pytest.raises(ValueError, match=r"features must be .*\(B, D\).* got float32 \(\d, 5\).* D = 33"):
        memory_update(bank, index, features[:, :5], momentum)
    with pytest.raises(ValueError, match="index must be int64"):
        memory_update(bank, index.int(), features, momentum)
    with pytest.raises(ValueError, match=r"features must be .* on cpu; got .* on meta"):
        memory_update(bank, index, features.to("meta"), momentum)
    with pytest.raises(RuntimeError, match=r"index 8 lies outside 0..7"):
        memory_update(bank, index + 3, features, momentum)
    with pytest.raises(ValueError, match="features must be float32 or bfloat16 or float16"):
        memory_update(bank, index, features.double(), momentum)
    with pytest.raises(ValueError, match="bank must be float32 or bfloat16"):
        memory_update(bank.half(), index, features, momentum)
    with pytest.raises(ValueError, match=r"momentum must be a number within 0\.\.1, not nan"):
        memory_update(bank, index, features, float("nan"))
