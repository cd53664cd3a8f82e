"""Draw clustered unit rows that stand for the embeddings of a data set."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize


def crops(N: int, D: int, noise: float = 1.2) -> Tensor:
    """Return (N, D) clustered unit rows, about 17 an identity as in Market-1501, that fill all D dimensions.

    Of 30 neighbours 13 are other identities, which chance and no structure brought near: the hardest for a search that
    follows structure.
    """
    generator = torch.Generator().manual_seed(0)
    centre = torch.randn(max(1, N // 17), D, generator=generator)
    rows = centre[torch.randint(len(centre), (N,), generator=generator)]
    return normalize(rows.add_(torch.randn(N, D, generator=generator), alpha=noise))


def bank(N: int, D: int) -> Tensor:
    """Return (N, D) rows as `crops` does, with the spectrum of a memory bank; made in place, for a million rows.

    Identities lie in a subspace of 16 dimensions, most of the noise in another of 8, a ninth of the energy everywhere.
    At N = 12,936 and D = 512 the squared singular values have a participation ratio of 27 and 77 of them hold 90 %; a
    row's cosine with its 10th and 30th neighbour is 0.58 and 0.52. Banks of the demo's joint stage (1,800 rows of
    D = 256): 21 to 28, 51 to 96, 0.51 to 0.72, 0.42 to 0.58.
    """
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator)
    centre = draw(max(1, N // 17), 16) @ draw(16, D).div_(4)
    noise = draw(8, D).div_(8**0.5)
    rows = torch.empty(N, D)
    for part in rows.split(2**16):
        torch.index_select(centre, 0, torch.randint(len(centre), (len(part),), generator=generator), out=part)
        part.addmm_(draw(len(part), 8), noise).add_(draw(*part.shape), alpha=0.5)
        part /= part.norm(dim=1, keepdim=True)
    return rows


FEATURES = {"isotropic": crops, "bank": bank}
