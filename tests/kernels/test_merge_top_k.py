"""Lists that are merged tile by tile equal the definition, with ties, NaN and infinities, in both memory orders."""

import pytest
import torch

from gcl_fast.kernels.merge_top_k import merge_top_k, merge_top_k_reference

SIZES = [(1, 1, 1, 1), (3, 5, 2, 2), (9, 40, 40, 7), (33, 70, 8, 32)]


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("rows", "columns", "k", "tile"), SIZES)
def test_equals_the_definition(rows, columns, k, tile, transposed):
    generator = torch.Generator().manual_seed(rows)
    entries = torch.randint(-3, 4, (rows, columns), generator=generator).float()  # many ties
    entries[torch.rand(entries.shape, generator=generator) < 0.1] = torch.nan
    entries[torch.rand(entries.shape, generator=generator) < 0.1] = -torch.inf
    lists = [(torch.full((rows + 2, k), -torch.inf), torch.zeros(rows + 2, k, dtype=torch.int32)) for _ in range(2)]
    for first in range(0, columns, tile):
        part = entries[:, first : first + tile]
        part = part.T.contiguous().T if transposed else part.contiguous()
        for merge, (values, indices) in zip((merge_top_k, merge_top_k_reference), lists):
            merge(values, indices, part, 2, first)
    (values, indices), (expected, expected_indices) = lists
    assert torch.equal(values, expected)
    there = expected > -torch.inf
    assert torch.equal(indices[there], expected_indices[there])
