"""The generative forward pass, crop -> reconstruction, novel view, cycle, and the generator's losses on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.profiler import record_function

from gcl_fast.losses.adversarial import GeneratorAdversarialLoss
from gcl_fast.losses.reconstruction import reconstruction_loss
from gcl_fast.models import GCL

FeatureLossOn = Literal["code", "paper"]


class Views(NamedTuple):
    """Pictures (B, 3, H, W) made from a batch of crops, and what the identity encoder says of them.

    `parts*` are part features (B, P); `embedding*` are (B, D), before L2 normalization; `code` is the structure code of
    the crop's own yaw.
    """

    x_rec: Tensor
    x_new: Tensor
    x_cyc: Tensor
    parts: Tensor
    parts_rec: Tensor
    parts_new: Tensor
    parts_cyc: Tensor
    embedding: Tensor
    embedding_new: Tensor
    code: Tensor

    @property
    def fakes(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.x_rec, self.x_new, self.x_cyc


@dataclass(frozen=True)
class LossWeights:
    """Weights of the generator's terms, and which part features the feature loss compares (see `generator_losses`).

    `view` and `mixup` count in the joint stage alone.
    """

    image: float = 5.0
    feature: float = 5.0
    adversarial: float = 1.0
    view: float = 1.0
    mixup: float = 0.0  # of pictures with mixed part features (Chen et al. 2022); one more G and E_id pass unless 0
    feature_loss_on: FeatureLossOn = "code"


def generative_forward(
    gcl: GCL,
    image: Tensor,
    structure_map: Tensor,
    structure_map_new: Tensor,
    *,
    train_identity: bool,
) -> Views:
    """x_rec = G(E_str(m), p), x_new = G(E_str(m_new), p), x_cyc = G(E_str(m), P(x_new)); p = P(x), P = part features.

    Where it is in training mode the identity encoder sees x, x_rec, x_new, x_cyc as four batches in this order:
    batch-norm statistics are per kind. What has no statistics over the batch goes through in one pass.

    Args:
        gcl: the networks; the caller puts `gcl.identity` in training or in eval mode.
        image: crops (B, 3, H, W), ImageNet-normalized.
        structure_map, structure_map_new: (B, 1, H, W) in [-1, 1], at the crop's own and at the novel yaw.
        train_identity: False keeps no graph of the real crops.
    """
    encode, decode = "gcl_fast::encode", "gcl_fast::decode"  # regions of a profile
    with torch.set_grad_enabled(train_identity and torch.is_grad_enabled()), record_function(encode):
        parts, embedding = gcl.identity(image)
    with record_function(decode):
        codes = gcl.structure(torch.cat([structure_map, structure_map_new]))
        code = codes.chunk(2)[0]
        made = gcl.generator(codes, parts.repeat(2, 1))  # no statistics over the batch: one pass for both
    x_rec, x_new = made.chunk(2)
    with record_function(encode):
        if gcl.identity.training:
            parts_rec, _ = gcl.identity(x_rec)
            parts_new, embedding_new = gcl.identity(x_new)
        else:
            (parts_rec, parts_new), (_, embedding_new) = (both.chunk(2) for both in gcl.identity(made))
    with record_function(decode):
        x_cyc = gcl.generator(code, parts_new)
    with record_function(encode):
        parts_cyc, _ = gcl.identity(x_cyc)
    return Views(x_rec, x_new, x_cyc, parts, parts_rec, parts_new, parts_cyc, embedding, embedding_new, code)


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
    """Losses of G and E_str, and of E_id in the joint stage, against the discriminator as it is now.

    Args:
        views: of `generative_forward`, with its graph.
        image: the crops (B, 3, H, W).
        weights: `feature_loss_on` "code" compares P(x_rec) and P(x_cyc) with P(x), as the official implementation does;
            "paper" compares P(x_new) and P(x_cyc), as the paper's figure does.
        view: the view-invariant loss, in the joint stage.
        mixup: the loss of mixed pictures there, where it is on.

    Returns:
        scalars by name: image_rec, image_cyc, feature_{rec|new}, feature_cyc, adversarial_{rec,new,cyc}, and view
        and mixup if given, all before their weights; `total`, their weighted sum.
    """
    first, parts_first = ("rec", views.parts_rec) if weights.feature_loss_on == "code" else ("new", views.parts_new)
    losses = {
        "image_rec": reconstruction_loss(views.x_rec, image),
        "image_cyc": reconstruction_loss(views.x_cyc, image),
        f"feature_{first}": reconstruction_loss(parts_first, views.parts),
        "feature_cyc": reconstruction_loss(views.parts_cyc, views.parts),
    }
    with record_function("gcl_fast::discriminate"):
        realism = adversarial(*views.fakes)
    losses |= zip(("adversarial_rec", "adversarial_new", "adversarial_cyc"), realism.unbind())
    losses |= {name: loss for name, loss in (("view", view), ("mixup", mixup)) if loss is not None}
    weighted = [getattr(weights, name.split("_")[0]) * loss for name, loss in losses.items()]
    return losses | {"total": torch.stack(weighted).sum()}
