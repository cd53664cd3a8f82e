import pytest
import torch
from scipy.stats import chi2

from gcl_fast.kernels.contrastive_draw import (
    NEGATIVES,
    contrastive_draw,
    contrastive_draw_reference,
    differs_from,
    draw_keys,
)

STREAM = torch.tensor([(5 << 40) + 3, 7])  # a seed of more than 32 bits


def drawn(labels, index, stream, K):
    """(B, N) bool: the negatives that the threshold names."""
    threshold = contrastive_draw(labels, index, stream, K)[1]
    keys = draw_keys(index, stream, NEGATIVES, len(labels))
    return differs_from(labels, index) & (keys <= threshold[:, None])


def labels_of(kind: str, N: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(N)
    return {
        "mixed": torch.randint(-1, 6, (N,), generator=generator),
        "one cluster": torch.zeros(N, dtype=torch.int64),
        "outliers": torch.full((N,), -1),
        "singletons": torch.arange(N),
    }[kind]


@pytest.mark.parametrize("kind", ["mixed", "one cluster", "outliers", "singletons"])
@pytest.mark.parametrize(
    ("N", "B", "K"), [(1, 1, 1), (2, 3, 1), (97, 70, 20), (3000, 5, 2999), (3000, 9, 1200), (64, 4, 10**6)]
)
def test_matches_reference_and_counts(kind, N, B, K, device):
    labels = labels_of(kind, N)
    index = torch.randint(N, (B,), generator=torch.Generator().manual_seed(B))
    ours = contrastive_draw(labels.to(device), index.to(device), STREAM.to(device), K)
    assert all(tensor.device.type == device for tensor in ours)
    ours, reference = [tensor.cpu() for tensor in ours], contrastive_draw_reference(labels, index, STREAM, K)
    assert torch.equal(ours[0], reference[0])
    assert torch.equal(ours[1], reference[1])
    assert not differs_from(labels, index).gather(1, ours[0]).any()
    available = differs_from(labels, index).sum(1)
    keys = draw_keys(index, STREAM, NEGATIVES, N)
    negatives = differs_from(labels, index) & (keys <= ours[1][:, None])
    assert torch.equal(negatives.sum(1), available.clamp_max(K))


def test_depends_on_seed_step_and_crop_but_not_on_the_batch():
    labels, index = labels_of("mixed", 200), torch.arange(40)
    first = drawn(labels, index, STREAM, 50)
    order = torch.randperm(40)
    assert torch.equal(drawn(labels, index[order], STREAM, 50), first[order])
    assert torch.equal(drawn(labels, index[::2], STREAM, 50), first[::2])
    for other in (STREAM + torch.tensor([1, 0]), STREAM + torch.tensor([0, 1]), STREAM + torch.tensor([1 << 40, 0])):
        assert not torch.equal(drawn(labels, index, other, 50), first)
    assert len(first[labels[:40] == 0].unique(dim=0)) == (labels[:40] == 0).sum()


def p_value(observed: torch.Tensor, share_drawn: float = 0.0) -> float:
    """Of a chi-square test against equal frequencies; drawing without replacement shrinks every variance."""
    expected = observed.double().mean()
    statistic = ((observed - expected) ** 2 / expected).sum() / (1 - share_drawn)
    return float(chi2.sf(statistic, observed.numel() - 1))


def test_draws_are_uniform():
    labels, index = torch.arange(64) % 4, torch.arange(0, 64, 4)  # 16 crops of one cluster, 48 negatives each
    negatives, positives = torch.zeros(64), torch.zeros(256)
    for step in range(300):
        stream = torch.tensor([11, step])
        negatives += drawn(labels, index, stream, 10).sum(0)
        p, p_new = (contrastive_draw(labels, index, stream, 10)[0] // 4).unbind(1)
        positives += (16 * p + p_new).bincount(minlength=256)
    assert 1e-4 < p_value(negatives[labels != 0], 10 / 48) < 1 - 1e-4
    assert 1e-4 < p_value(positives) < 1 - 1e-4  # all pairs equally often: uniform and independent


def test_draws_are_uniform_over_crops_of_one_step():
    N = 256
    labels = torch.arange(N)  # everything else is a negative
    counts = sum(drawn(labels, torch.arange(N), torch.tensor([seed, 0]), 64).sum(0) for seed in range(40))
    assert 1e-4 < p_value(counts, 64 / N) < 1 - 1e-4


def test_bad_input():
    labels, index = torch.arange(5), torch.tensor([0, 5])
    with pytest.raises(RuntimeError, match=r"index 5 lies outside 0..4"):
        contrastive_draw(labels, index, STREAM, 3)
    with pytest.raises(ValueError, match="num_negatives is 0"):
        contrastive_draw(labels, index, STREAM, 0)
    with pytest.raises(RuntimeError, match="int64"):
        contrastive_draw(labels, index.int(), STREAM, 3)


def test_opcheck(device):
    given = torch.arange(5), torch.tensor([0, 3]), STREAM
    torch.library.opcheck(torch.ops.gcl_fast.contrastive_draw, (*(x.to(device) for x in given), 3))
