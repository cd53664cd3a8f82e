"""Another crop of the same person as the truth of a novel view: what such a pair gives to the generator."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from gcl_fast.kernels.transfer_appearance import Carried
from gcl_fast.losses.structural_similarity import WINDOW
from gcl_fast.render.turn import Turn, swap_neighbours

REACH = 40  # clothes and hair stand off the body by up to a fortieth of the crop's height


class OwnView(NamedTuple):
    """Holds what the generator draws the crops' own views from, and which pixels of them are judged."""

    carried: Carried
    parts: Tensor  # (B, P) part features
    weight: Tensor | None  # (B, H, W) of the pixels in the image losses; None: all equal


def own_view(turn: Turn, images: Tensor, parts: Tensor, novel: Carried, paired: Tensor | None = None) -> OwnView:
    """Choose what x_rec is drawn from: the crop's own pixels, or those of its neighbour, which shows the same person.

    A crop without a pair gets its own pixels by way of the novel view, so that only what both views show is left. A
    crop with a pair gets the pixels and part features of its neighbour, carried to the crop's own view and pose. So the
    crop is the truth of a view that the generator has not seen. The two backgrounds differ: such a crop is judged on
    the person, with a margin of a fortieth of the height around the body.

    Args:
        turn: the crops' own views and the novel ones.
        images: crops (B, 3, H, W), B even where there are pairs.
        parts: (B, P) part features of the crops.
        novel: the crops' pixels in the novel views.
        paired: (B,) bool, the crops that are drawn from their neighbour: row 2k from row 2k + 1 or the other way
            round. None: no crop is. A crop whose body lies outside the image counts as one without a pair.

    Example:
        >>> def carry(images, route):  # stands in for gcl_fast.bodies, which knows the bodies
        ...     return Carried(swap_neighbours(images) if route == "neighbour" else images, torch.ones(2, 1, 64, 40))
        >>> turn, images = Turn(torch.zeros(4, 1, 64, 40), carry), torch.rand(2, 3, 64, 40)
        >>> view = own_view(turn, images, torch.rand(2, 8), turn.there(images), torch.tensor([True, False]))
        >>> [bool((view.carried.colour[0] == images[k]).all()) for k in (0, 1)]
        [False, True]
    """
    returned = turn.back(novel)
    if paired is None:
        return OwnView(returned, parts, None)
    reach = round(images.shape[2] / REACH)
    person = max_pool2d((turn.own < 1).float(), 2 * reach + 1, 1, reach)[:, 0]
    margin = WINDOW // 2  # SSIM leaves out windows that reach over the border
    paired = paired & (person[:, margin:-margin, margin:-margin].sum((1, 2)) > 0)
    lent = turn.from_neighbours(images)
    mask = paired[:, None, None]
    carried = Carried(*(torch.where(mask[:, None], a, b) for a, b in zip(lent, returned)))
    return OwnView(
        carried,
        torch.where(paired[:, None], swap_neighbours(parts), parts),
        torch.where(mask, person, torch.ones_like(person)),
    )
