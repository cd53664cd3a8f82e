"""Every loss of the warm-ups, the source and the joint stage on a device beside the CPU: value and gradient."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from gcl_fast.losses.camera_proxies import CameraProxies, camera_proxy_loss
from gcl_fast.losses.cluster_memory import (
    Clusters,
    cluster_centres,
    cluster_memory_loss,
    instance_memory_loss,
    update_by_hardest_,
)
from gcl_fast.losses.local_global import global_loss, local_loss
from gcl_fast.losses.multi_label import multi_label_loss
from gcl_fast.losses.soft_labels import Mix, soft_label_loss
from gcl_fast.losses.supervised import batch_hard_triplet_loss, identity_loss
from gcl_fast.memory import MemoryBank

N, D, B = 90, 48, 12


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def partition(device: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows of the bank, their labels, their cameras, and the rows of a batch."""
    labels = torch.arange(N) // 6
    labels[::7] = -1
    rows = normalize(draw(N, D), dim=1), labels, torch.arange(N) % 3, torch.arange(0, N, N // B)[:B]
    return tuple(x.to(device) for x in rows)


def of_bank(f: Tensor) -> Tensor:
    features, labels, _, index = partition(f.device)
    bank = MemoryBank(N, D, num_negatives=40).to(f.device)
    bank.features.copy_(features)
    bank.labels.copy_(labels)
    return bank.loss(f, f.flip(1), index)


def of_clusters(f: Tensor) -> Tensor:
    features, labels, _, index = partition(f.device)
    clusters = Clusters.from_labels(labels)
    centres = cluster_centres(features, clusters)
    update_by_hardest_(centres, clusters.of_row[index], f.detach(), 2, 0.2)
    by_centre = cluster_memory_loss(f, centres, clusters.of_row[index])
    return by_centre + instance_memory_loss(f, features, clusters, index) + global_loss(f, features, clusters, index)


def of_cameras(f: Tensor) -> Tensor:
    features, labels, cameras, index = partition(f.device)
    return camera_proxy_loss(f, features, CameraProxies.from_labels(labels, cameras), index)


def of_labels(f: Tensor) -> Tensor:
    features, _, _, index = partition(f.device)
    positives = torch.stack([index, (index + 1) % N, torch.full_like(index, -1)], 1)
    return multi_label_loss(f, features, positives) + multi_label_loss(f, features, positives, form="logistic")


def of_identities(f: Tensor) -> Tensor:
    target = torch.arange(B, device=f.device) // 4
    return identity_loss(f, draw(5, D).to(f.device), target) + batch_hard_triplet_loss(f, target, f, target)


def of_mixture(f: Tensor) -> Tensor:
    place = torch.arange(B, device=f.device)
    centroids = normalize(draw(7, D), dim=1).to(f.device)
    weight, clusters = torch.linspace(0.5, 1, B, device=f.device), torch.stack([place % 7, place % 5], 1)
    return soft_label_loss(f, Mix(weight, place.flip(0), clusters, centroids, 0.1))


LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "view-invariant": of_bank,
    "clusters": of_clusters,
    "camera proxies": of_cameras,
    "variants of a crop": lambda f: local_loss(f, variants=3),
    "multi-label": of_labels,
    "identities": of_identities,
    "mixup": of_mixture,
}


@pytest.mark.parametrize("name", LOSSES)
def test_equals_the_cpu(exact_float32, name, device):
    results = []
    for place in (device, "cpu"):
        f = draw(B, D).to(place).requires_grad_()
        with torch.autocast(place, torch.bfloat16):  # which they leave by themselves
            loss = LOSSES[name](f)
        assert loss.dtype == torch.float32
        assert loss.device.type == place
        results.append((loss.detach().cpu(), torch.autograd.grad(loss, f)[0].cpu()))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert results[0][1].abs().max() > 1e-3
