"""Networks on a dataset: embeddings of every crop, retrieval of query against gallery, fidelity of novel views."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import normalize

from gcl_fast.data import Records
from gcl_fast.data.augment import IMAGENET_MEAN, IMAGENET_STD
from gcl_fast.evaluation.reranking import Reranking
from gcl_fast.evaluation.retrieval import Retrieval, evaluate
from gcl_fast.evaluation.structural_similarity import ssim
from gcl_fast.models import GCL

Autocast = Callable[[], AbstractContextManager[object]]
Batches = Iterable[tuple[Tensor, Tensor]]  # (images (B, 3, H, W), index (B,))


def to_unit(images: Tensor) -> Tensor:
    """Undo ImageNet normalization: (B, 3, H, W) in [0, 1], float32."""
    mean, std = (torch.tensor(v, device=images.device).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (images.float() * std + mean).clamp(0, 1)


@torch.no_grad()
def embeddings(encoder: nn.Module, batches: Batches, count: int, autocast: Autocast) -> Tensor:
    """L2-normalized eval-mode embeddings of all crops, float32, in record order, the same on every rank.

    Args:
        encoder: image -> (part features, embedding); its mode is restored.
        batches: over all ranks, every crop exactly once (`gcl_fast.data.ExtractLoader`).
        count: crops in all, N.

    Returns:
        (N, D) unit rows.
    """
    training = encoder.training
    encoder.eval()
    rows: Tensor | None = None
    for images, index in batches:
        with autocast():
            _, embedding = encoder(images)
        if rows is None:
            rows = torch.zeros(count, embedding.shape[1], device=embedding.device)
        rows[index] = normalize(embedding.float(), dim=1)
    encoder.train(training)
    if rows is None:
        raise ValueError("embeddings: no batch came; a rank without crops cannot know the width of an embedding")
    if dist.is_initialized():
        dist.all_reduce(rows)  # each row is zero on all ranks but one
    return rows


def retrieve(
    query: Tensor, gallery: Tensor, query_records: Records, gallery_records: Records, rerank: Reranking | None = None
) -> Retrieval:
    """Rank the gallery for each query by the protocol of Market-1501 (same identity and camera left out).

    Args:
        query: (Q, D) unit rows.
        gallery: (G, D) unit rows.
        rerank: k-reciprocal re-ranking instead of the plain distance.
    """
    return evaluate(
        query,
        gallery,
        torch.as_tensor(query_records.identity),
        torch.as_tensor(gallery_records.identity),
        torch.as_tensor(query_records.camera),
        torch.as_tensor(gallery_records.camera),
        rerank,
    )


@torch.no_grad()
def novel_views(
    gcl: GCL,
    images: Tensor,
    structure_maps: Callable[[Tensor, Tensor], Tensor],
    index: Tensor,
    yaw: Tensor,
    autocast: Autocast,
) -> tuple[Tensor, Tensor]:
    """Pictures of the persons in `images`, each turned by `yaw` degrees.

    Args:
        images: (B, 3, H, W) normalized crops.
        structure_maps: source of the split that `index` (B,) counts in.
        yaw: (B,) degrees; 0 gives the reconstruction.

    Returns:
        normalized pictures (B, 3, H, W) float32, and the structure maps (B, 1, H, W) they were drawn from.
    """
    gcl.eval()
    maps = structure_maps(index, yaw)
    with autocast():
        parts, _ = gcl.identity(images)
        picture = gcl.generator(gcl.structure(maps), parts)
    return picture.float(), maps


@torch.no_grad()
def view_fidelity(
    gcl: GCL,
    batches: Batches,
    structure_maps: Callable[[Tensor, Tensor], Tensor],
    names: list[str],
    true_views: Callable[[list[str], Tensor], tuple[Tensor, Tensor]] | None,
    yaws: list[float],
    autocast: Autocast,
) -> dict[str, float]:
    """SSIM of what the generator draws, over all crops of `batches`.

    Args:
        names: crop file names in the order of the index.
        true_views: (names, yaw) -> (images (B, 3, H, W) uint8, person (B, H, W) bool); None: no truth is known.
        yaws: degrees; crop i is drawn at yaws[i % len(yaws)].

    Returns:
        `ssim_reconstruction` (whole picture, yaw 0) and, where the truth is known, `ssim` and `ssim_copy`: the novel
        view and the untouched input crop against the true novel view, on the person's pixels. Means over crops.
    """
    totals: dict[str, float] = {}
    count = 0

    def add(name: str, values: Tensor) -> None:
        totals[name] = totals.get(name, 0.0) + float(values.sum())

    for images, index in batches:
        yaw = torch.tensor(yaws, device=images.device)[index % len(yaws)]
        crop = to_unit(images)
        again, _ = novel_views(gcl, images, structure_maps, index, torch.zeros_like(yaw), autocast)
        add("ssim_reconstruction", ssim(to_unit(again), crop))
        if true_views is not None:
            drawn, _ = novel_views(gcl, images, structure_maps, index, yaw, autocast)
            truth, person = true_views([names[i] for i in index.tolist()], yaw.cpu())
            truth, person = truth.to(images.device).float() / 255, person.to(images.device)
            add("ssim", ssim(to_unit(drawn), truth, person))
            add("ssim_copy", ssim(crop, truth, person))
        count += len(index)
    return {name: total / max(count, 1) for name, total in totals.items()}
