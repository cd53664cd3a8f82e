"""The generative forward pass (crop -> reconstruction, novel view, cycle) and the losses of the generator on it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.profiler import record_function

from gcl_fast.kernels.transfer_appearance import Carried
from gcl_fast.losses.adversarial import GeneratorAdversarialLoss
from gcl_fast.losses.paired_crops import own_view
from gcl_fast.losses.reconstruction import dissimilarity_loss, reconstruction_loss
from gcl_fast.models import GCL, appearance_input
from gcl_fast.render import Turn
from gcl_fast.settings import LossWeights


class Views(NamedTuple):
    """Holds the images that were generated from a batch of crops, and the outputs of the identity encoder.

    Part features and embeddings without a suffix are those of the crops; `rec`, `new` and `cyc` name the image.
    """

    x_rec: Tensor  # (B, 3, H, W) reconstruction
    x_new: Tensor  # (B, 3, H, W) novel view
    x_cyc: Tensor  # (B, 3, H, W) novel view, turned back
    parts: Tensor  # (B, P) part features
    parts_rec: Tensor
    parts_new: Tensor
    parts_cyc: Tensor
    embedding: Tensor  # (B, D), before L2 normalization
    embedding_new: Tensor
    code: Tensor  # (B, C, H/4, W/4) structure code at the crop's own yaw
    weight: Tensor | None = None  # (B, H, W) of the pixels of x_rec in the image losses; None: all equal

    @property
    def fakes(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the generated images: reconstruction, novel view, cycle."""
        return self.x_rec, self.x_new, self.x_cyc


def generative_forward(
    gcl: GCL, image: Tensor, turn: Turn, *, train_identity: bool, paired: Tensor | None = None
) -> Views:
    """Generate the reconstruction, the novel view and the cycle of a batch of crops.

        x_rec = G(E_str(m), p),   x_new = G(E_str(m_new), p),   x_cyc = G(E_str(m), P(x_new)),   p = P(x)

    P gives the part features of the identity encoder, m and m_new are structure maps (Chen et al. 2021; equations in
    docs/algorithm.md). An identity encoder in training mode sees x, x_rec, x_new, x_cyc as four batches in this order,
    because the statistics of its batch norms are per kind of image. Networks without such statistics see one batch.

    A generator that takes carried pixels gets those of x for x_new, and for x_cyc those of x_new carried back. For
    x_rec it gets those of x carried there and back: only what both views show is left, and x itself is the truth for
    the rest. So a copy of its input does not satisfy it. A crop that is `paired` is drawn from the pixels and part
    features of its neighbour instead (`own_view`).

    Args:
        gcl: the networks; the caller puts `gcl.identity` in training or in eval mode.
        image: crops (B, 3, H, W), ImageNet-normalized.
        turn: the crops' own views and the novel ones.
        train_identity: False keeps no graph of the real crops.
        paired: (B,) bool, the crops whose x_rec is drawn from their neighbour; needs a generator that takes carried
            pixels.

    Returns:
        The generated images, with the part features and embeddings of crops and generated images.

    Example:
        >>> from gcl_fast.models import ModelConfig
        >>> gcl = GCL(ModelConfig.demo()).eval()
        >>> turn = Turn(torch.rand(2, 1, 64, 40))  # one crop: its own view, the novel one
        >>> views = generative_forward(gcl, torch.randn(1, 3, 64, 40), turn, train_identity=False)
        >>> views.x_new.shape, views.embedding.requires_grad
        (torch.Size([1, 3, 64, 40]), False)
    """
    encode, decode = "gcl_fast::encode", "gcl_fast::decode"  # regions of a profile
    with torch.set_grad_enabled(train_identity and torch.is_grad_enabled()), record_function(encode):
        parts, embedding = gcl.identity(image)
    maps = turn.maps.contiguous(memory_format=torch.channels_last)
    appearance = carried_new = weight = None
    parts_own = parts
    if gcl.generator.carries:
        with record_function("gcl_fast::transfer"):
            carried_new = turn.there(image)
            carried_own, parts_own, weight = own_view(turn, image, parts, carried_new, paired)
            both = Carried(*map(torch.cat, zip(carried_own, carried_new)))
            appearance = appearance_input(maps, both)
    with record_function(decode):
        codes = gcl.structure(maps)
        code = codes.chunk(2)[0]
        images = gcl.generator(
            codes, torch.cat([parts_own, parts]), appearance
        )  # no statistics over the batch: one pass for both
    x_rec, x_new = images.chunk(2)
    with record_function(encode):
        if gcl.identity.training:
            parts_rec, _ = gcl.identity(x_rec)
            parts_new, embedding_new = gcl.identity(x_new)
        else:
            (parts_rec, parts_new), (_, embedding_new) = (pair.chunk(2) for pair in gcl.identity(images))
    if carried_new is not None:
        with record_function("gcl_fast::transfer"):
            returned = turn.back(Carried(x_new.float(), carried_new.confidence))
            appearance = appearance_input(turn.own, returned)
    with record_function(decode):
        x_cyc = gcl.generator(code, parts_new, appearance)
    with record_function(encode):
        parts_cyc, _ = gcl.identity(x_cyc)
    return Views(x_rec, x_new, x_cyc, parts, parts_rec, parts_new, parts_cyc, embedding, embedding_new, code, weight)


@record_function("gcl_fast::losses")
def generator_losses(
    views: Views,
    image: Tensor,
    adversarial: GeneratorAdversarialLoss,
    weights: LossWeights,
    *,
    view: Tensor | None = None,
    mixup: Tensor | None = None,
) -> dict[str, Tensor]:
    """Compute the losses of G and E_str (and of E_id in the joint stage) against the discriminator as it is now.

    Args:
        views: result of `generative_forward`, with its graph.
        image: crops (B, 3, H, W).
        adversarial: adversarial loss of the generator.
        weights: with `feature_loss_on` "reconstruction" P(x_rec) and P(x_cyc) are compared with P(x), as in the
            official code; with "novel_view" P(x_new) and P(x_cyc) are, as in the paper's figure.
        view: scalar view-invariant loss, in the joint stage.
        mixup: scalar loss of images with mixed part features, where it is on in the joint stage.

    Returns:
        Scalars by name: image_rec, image_cyc, similarity_{rec,cyc} unless their weight is 0, feature_{rec|new},
        feature_cyc, adversarial_{rec,new,cyc}, and view and mixup if given, all before their weights; `total` is
        their weighted sum.

    Example:
        >>> from gcl_fast.models import ModelConfig
        >>> gcl = GCL(ModelConfig.demo()).eval()
        >>> crops, turn = torch.randn(1, 3, 64, 40), Turn(torch.rand(2, 1, 64, 40))
        >>> views = generative_forward(gcl, crops, turn, train_identity=False)
        >>> losses = generator_losses(views, crops, GeneratorAdversarialLoss(gcl.discriminator), LossWeights())
        >>> sorted(losses)[:4], losses["total"].requires_grad
        (['adversarial_cyc', 'adversarial_new', 'adversarial_rec', 'feature_cyc'], True)
    """
    on_novel_view = weights.feature_loss_on == "novel_view"
    kind, parts = ("new", views.parts_new) if on_novel_view else ("rec", views.parts_rec)
    similarity = lambda x, weight: dissimilarity_loss(x, image, weight) if weights.similarity else None
    with record_function("gcl_fast::discriminate"):
        rec, new, cyc = adversarial(*views.fakes).unbind()
    terms = [  # name, weight, loss
        ("image_rec", weights.image, reconstruction_loss(views.x_rec, image, views.weight)),
        ("image_cyc", weights.image, reconstruction_loss(views.x_cyc, image)),
        ("similarity_rec", weights.similarity, similarity(views.x_rec, views.weight)),
        ("similarity_cyc", weights.similarity, similarity(views.x_cyc, None)),
        (f"feature_{kind}", weights.feature, reconstruction_loss(parts, views.parts)),
        ("feature_cyc", weights.feature, reconstruction_loss(views.parts_cyc, views.parts)),
        ("adversarial_rec", weights.adversarial, rec),
        ("adversarial_new", weights.adversarial, new),
        ("adversarial_cyc", weights.adversarial, cyc),
        ("view", weights.view, view),
        ("mixup", weights.mixup, mixup),
    ]
    given = [(name, weight, loss) for name, weight, loss in terms if loss is not None]
    total = torch.stack([weight * loss for _, weight, loss in given]).sum()
    return {name: loss for name, _, loss in given} | {"total": total}
