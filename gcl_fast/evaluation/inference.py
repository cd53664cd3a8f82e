"""Run the networks on crops: the embeddings of a dataset, novel views, and the fidelity of those views."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from gcl_fast.data.augment import denormalize
from gcl_fast.distributed.ranks import sum_over_processes
from gcl_fast.kernels.transfer_appearance import Carried
from gcl_fast.losses.structural_similarity import ssim
from gcl_fast.models import GCL, appearance_input, for_inference
from gcl_fast.render import Turn
from gcl_fast.render.turn import Turns

Autocast = Callable[[], AbstractContextManager[object]]
Encoder = Callable[[Tensor], tuple[Tensor, Tensor]]  # images -> (part features, embeddings)
ViewsOf = Callable[[Tensor, Tensor], Iterator[tuple[Tensor, Tensor]]]  # (images, index) -> (views, which are used)
Batches = Iterable[tuple[Tensor, Tensor]]  # (images (B, 3, H, W), index (B,))


def to_unit(images: Tensor) -> Tensor:
    """Undo ImageNet normalization.

    Args:
        images: (B, 3, H, W), ImageNet-normalized.

    Returns:
        (B, 3, H, W) float32 in 0..1.

    Example:
        >>> to_unit(torch.zeros(1, 3, 1, 1)).flatten()  # the mean colour
        tensor([0.4850, 0.4560, 0.4060])
    """
    return denormalize(images.float()).clamp(0, 1)


@torch.no_grad()
def embed_batch(encoder: Encoder, images: Tensor, autocast: Autocast, flip: bool = False) -> Tensor:
    """Compute the L2-normalized embeddings of a batch in the encoder's mode.

    Args:
        encoder: maps images to (part features, embeddings).
        images: crops (B, 3, H, W), ImageNet-normalized.
        autocast: makes the context of the forward pass, such as `contextlib.nullcontext`.
        flip: take the direction of the mean with the embedding of the mirrored crop.

    Returns:
        (B, D) float32 unit rows.

    Example:
        >>> from contextlib import nullcontext
        >>> from gcl_fast.models import ModelConfig
        >>> encoder = GCL(ModelConfig.demo()).identity.eval()
        >>> embed_batch(encoder, torch.randn(2, 3, 64, 32), nullcontext, flip=True).shape
        torch.Size([2, 256])
    """
    with autocast():
        _, embedding = encoder(images)
    rows = normalize(embedding.float(), dim=1)
    return normalize(rows + embed_batch(encoder, images.flip(3), autocast), dim=1) if flip else rows


@torch.no_grad()
def embeddings(
    encoder: nn.Module,
    batches: Batches,
    count: int,
    autocast: Autocast,
    flip: bool = False,
    dtype: torch.dtype | None = None,
    views: ViewsOf | None = None,
) -> Tensor:
    """Compute the L2-normalized eval-mode embeddings of all crops, in record order and equal on every rank.

    Args:
        encoder: maps images to (part features, embeddings); its mode is restored.
        batches: this rank's batches of (crops, index); over all ranks every crop comes exactly once
            (`gcl_fast.data.ExtractLoader`).
        count: N, the number of crops over all ranks.
        autocast: makes the context of the forward pass, such as `contextlib.nullcontext`.
        flip: take the direction of the mean with the embedding of the mirrored crop.
        dtype: of `autocast`, for the fastest form of the encoder (`models.for_inference`); None: as it is.
        views: take the direction of the sum with the mean over the novel views of each crop
            (`evaluation.view_pooling.CarriedViews`); None: the crop alone.

    Returns:
        (N, D) float32 unit rows.

    Raises:
        ValueError: there is no batch.

    Example:
        >>> from contextlib import nullcontext
        >>> from gcl_fast.models import ModelConfig
        >>> gcl = GCL(ModelConfig.demo())
        >>> batches = [(torch.randn(2, 3, 64, 32), torch.tensor([1, 0]))]  # the second crop of the dataset, the first
        >>> embeddings(gcl.identity, batches, count=2, autocast=nullcontext).shape
        torch.Size([2, 256])
    """
    training = encoder.training
    network = for_inference(encoder.eval(), dtype)
    rows: Tensor | None = None
    for images, index in batches:
        embedding = embed_batch(network, images, autocast, flip)
        if views is not None:
            total, count_used = torch.zeros_like(embedding), torch.zeros_like(embedding[:, :1])
            for view, used in views(images, index):
                total += used[:, None] * embed_batch(network, view, autocast, flip)
                count_used += used[:, None]
            embedding = normalize(embedding + total / count_used.clamp(min=1), dim=1)
        if rows is None:
            rows = torch.zeros(count, embedding.shape[1], device=embedding.device)
        rows[index] = embedding
    encoder.train(training)
    if rows is None:
        raise ValueError("embeddings: there is no batch; a rank without crops cannot know the size of an embedding")
    return sum_over_processes(rows)  # each row is zero on all ranks but one


class NovelViews(NamedTuple):
    """Holds the views of a batch of crops that were drawn at other yaws."""

    images: Tensor  # (B, 3, H, W) float32, ImageNet-normalized
    carried: Carried | None  # the crops' own pixels in these views, where bodies are known


@torch.no_grad()
def novel_views(gcl: GCL, images: Tensor, turn: Turn, autocast: Autocast) -> NovelViews:
    """Generate images of the people in `images` in the novel views of `turn`.

    Args:
        gcl: the networks, which are put in eval mode.
        images: crops (B, 3, H, W), ImageNet-normalized.
        turn: the crops' own views and the novel ones; at yaw 0 the images are reconstructions.
        autocast: makes the context of the forward pass, such as `contextlib.nullcontext`.

    Returns:
        The generated images; and for a generator that takes them, the pixels that it was given.

    Example:
        >>> from contextlib import nullcontext
        >>> from gcl_fast.models import ModelConfig
        >>> turn = Turn(torch.rand(4, 1, 64, 40))  # gcl_fast.bodies renders the maps
        >>> gcl, crops = GCL(ModelConfig.demo()), torch.randn(2, 3, 64, 40)
        >>> novel_views(gcl, crops, turn, nullcontext).images.shape
        torch.Size([2, 3, 64, 40])
    """
    carried = turn.there(images) if gcl.generator.carries else None
    return NovelViews(_draw(gcl, images, turn.novel, carried, autocast), carried)


@torch.no_grad()
def turned_back(gcl: GCL, views: NovelViews, turn: Turn, autocast: Autocast) -> Tensor:
    """Generate the crops' own views from their novel ones.

    Args:
        gcl: the networks, which are put in eval mode.
        views: what `novel_views` returned.
        turn: the crops' own views and the novel ones.
        autocast: makes the context of the forward pass, such as `contextlib.nullcontext`.

    Returns:
        (B, 3, H, W) float32, ImageNet-normalized.
    """
    carried = None
    if views.carried is not None:
        carried = turn.back(Carried(views.images, views.carried.confidence))
    return _draw(gcl, views.images, turn.own, carried, autocast)


@torch.no_grad()
def reconstructions(gcl: GCL, images: Tensor, views: NovelViews, turn: Turn, autocast: Autocast) -> Tensor:
    """Generate the crops' own views from the crops: the reconstruction of the training losses.

    Args:
        gcl: the networks, which are put in eval mode.
        images: crops (B, 3, H, W), ImageNet-normalized.
        views: what `novel_views` returned; carried pixels come from the crop by way of this view.
        turn: the crops' own views and the novel ones.
        autocast: makes the context of the forward pass, such as `contextlib.nullcontext`.

    Returns:
        (B, 3, H, W) float32, ImageNet-normalized.
    """
    carried = None if views.carried is None else turn.back(views.carried)
    return _draw(gcl, images, turn.own, carried, autocast)


def _draw(gcl: GCL, images: Tensor, maps: Tensor, carried: Carried | None, autocast: Autocast) -> Tensor:
    """Draw the people in `images` as `maps` show them."""
    gcl.eval()
    with autocast():
        parts, _ = gcl.identity(images)
        appearance = None if carried is None else appearance_input(maps, carried)
        return gcl.generator(gcl.structure(maps), parts, appearance).float()


@torch.no_grad()
def view_fidelity(
    gcl: GCL,
    batches: Batches,
    turns: Turns,
    names: list[str],
    true_views: Callable[[list[str], Tensor], tuple[Tensor, Tensor]] | None,
    yaws: list[float],
    autocast: Autocast,
) -> dict[str, float]:
    """Measure the SSIM of generated images, as means over all crops of `batches`.

    Args:
        gcl: the networks, which are put in eval mode.
        batches: batches of (crops, index).
        turns: makes the views of crops.
        names: file names of the crops, in the order of the index.
        true_views: maps (names, yaw) to images (B, 3, H, W) uint8 and masks of the person (B, H, W) bool; None: the
            true views are not known.
        yaws: degrees; crop i is turned by yaws[i % len(yaws)].
        autocast: makes the context of the forward pass, such as `contextlib.nullcontext`.

    Returns:
        `ssim_reconstruction`, over the whole image at yaw 0. With `true_views` also `ssim` of the novel view and
        `ssim_copy` of the untouched crop. A generator that takes carried pixels has `ssim_transfer` of these alone.
        All of them compare with the true view, on the person's pixels.

    Example:
        >>> from contextlib import nullcontext
        >>> from gcl_fast.models import ModelConfig
        >>> class Maps:  # stands in for gcl_fast.bodies, which renders bodies
        ...     def turn(self, index, yaw):
        ...         return Turn(torch.rand(2 * len(index), 1, 64, 40))
        >>> gcl, batches = GCL(ModelConfig.demo()), [(torch.randn(2, 3, 64, 40), torch.arange(2))]
        >>> list(view_fidelity(gcl, batches, Maps(), ["a.jpg", "b.jpg"], None, [90.0], nullcontext))
        ['ssim_reconstruction']
    """
    totals: dict[str, float] = {}
    count = 0

    def add(name: str, values: Tensor) -> None:
        """Add the values of one batch to the total of a metric."""
        totals[name] = totals.get(name, 0.0) + float(values.sum())

    for images, index in batches:
        yaw = torch.tensor(yaws, device=images.device)[index % len(yaws)]
        crop = to_unit(images)
        views = novel_views(gcl, images, turn := turns.turn(index, yaw), autocast)
        reconstruction = reconstructions(gcl, images, views, turn, autocast)
        add("ssim_reconstruction", ssim(to_unit(reconstruction), crop))
        if true_views is not None:
            truth, person = true_views([names[i] for i in index.tolist()], yaw.cpu())
            truth, person = truth.to(images.device).float() / 255, person.to(images.device)
            add("ssim", ssim(to_unit(views.images), truth, person))
            add("ssim_copy", ssim(crop, truth, person))
            if views.carried is not None:
                add("ssim_transfer", ssim(to_unit(views.carried.colour), truth, person))
        count += len(index)
    return {name: total / max(count, 1) for name, total in totals.items()}
