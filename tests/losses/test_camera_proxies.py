"""Compare the camera-aware contrast with its definition, crop by crop."""

import pytest
import torch
from torch.nn.functional import normalize

from gcl_fast.losses import camera_proxies
from gcl_fast.losses.camera_proxies import CameraProxies, camera_proxy_loss

#                        0  1   2  3  4   5  6  7  8  9 10 11
LABELS = torch.tensor([7, 7, 7, 7, -1, 3, 3, 3, -1, 0, 0, 3])
CAMERAS = torch.tensor([1, 2, 2, 6, 1, 1, 1, 2, 1, 6, 6, 1])
GROUPS = {  # (cluster, camera) -> rows; each outlier is a cluster of its own
    (7, 1): [0], (7, 2): [1, 2], (7, 6): [3], ("a", 1): [4], (3, 1): [5, 6, 11], (3, 2): [7], ("b", 1): [8],
    (0, 6): [9, 10],
}  # fmt: skip
INDEX = torch.tensor([0, 2, 6, 10, 7, 4])


def case():
    generator = torch.Generator().manual_seed(0)
    features = normalize(torch.randn(12, 6, generator=generator, dtype=torch.float64), dim=1)
    return torch.randn(6, 6, generator=generator, dtype=torch.float64, requires_grad=True), features


def definition(f, features, temperature, hard):
    """Compute the loss in float64, by loops over crops and proxies."""
    total = torch.zeros((), dtype=torch.float64)
    for embedding, row in zip(f, INDEX.tolist()):
        own = next(name for name, rows in GROUPS.items() if row in rows)
        s = {}
        for name, rows in GROUPS.items():
            mean = features[rows].mean(0)
            s[name] = embedding @ mean / (embedding.norm() * mean.norm() * temperature)
        camera = torch.stack([value for name, value in s.items() if name[1] == own[1]])
        total = total + camera.exp().sum().log() - s[own]
        positives = [value for name, value in s.items() if name[0] == own[0] and name[1] != own[1]]
        others = sorted((value for name, value in s.items() if name[0] != own[0]), key=float)[-hard:]
        for positive in positives:
            total = total + 0.5 * (torch.stack([*positives, *others]).exp().sum().log() - positive) / len(positives)
    return total / len(f)


def test_a_proxy_for_each_camera_of_a_cluster():
    proxies = CameraProxies.from_labels(LABELS, CAMERAS)
    ends = [*proxies.groups.offsets[1:].tolist(), 12]
    rows = [sorted(proxies.groups.order[a:b].tolist()) for a, b in zip(proxies.groups.offsets.tolist(), ends)]
    assert sorted(rows) == sorted(GROUPS.values())
    for p, members in enumerate(rows):
        assert set(CAMERAS[members].tolist()) == {int(proxies.camera[p])}
        assert proxies.groups.of_row[members].tolist() == [p] * len(members)
    same = proxies.cluster[proxies.groups.of_row]
    expected = (LABELS[:, None] == LABELS) & (LABELS >= 0)[:, None] | torch.eye(12, dtype=torch.bool)
    assert torch.equal(same[:, None] == same, expected)


@pytest.mark.parametrize("hard", [2, 50])
def test_loss_by_its_definition_and_its_gradient(hard, monkeypatch):
    monkeypatch.setattr(camera_proxies, "HARD", hard)
    f, features = case()
    loss = camera_proxy_loss(f, features, CameraProxies.from_labels(LABELS, CAMERAS), INDEX, 0.1)
    expected = definition(f, features, 0.1, hard)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    ours, theirs = (torch.autograd.grad(value, f)[0] for value in (loss, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(camera_proxy_loss(f, features, CameraProxies.from_labels(LABELS, CAMERAS), INDEX, 0.1), loss)


def test_one_cluster_in_one_camera_is_no_loss_and_no_nan():
    f, features = case()
    proxies = CameraProxies.from_labels(torch.zeros(12, dtype=torch.int64), torch.ones(12, dtype=torch.int64))
    loss = camera_proxy_loss(f, features, proxies, INDEX)
    assert loss == 0
    assert torch.autograd.grad(loss, f)[0].abs().max() == 0
