"""A valid call of each registered op, which several tests start from; a new op needs an entry in ARGUMENTS."""

import importlib
import pkgutil

import torch

from gcl_fast import kernels

for module in pkgutil.iter_modules(kernels.__path__):
    if not module.name.startswith("_") and module.name != "aot":  # which needs Triton
        importlib.import_module(f"gcl_fast.kernels.{module.name}")

B, N, D, H, W = 3, 8, 4, 6, 5
LABELS, INDEX, STREAM = torch.arange(N) % 3, torch.tensor([4, 0, 7]), torch.tensor([1, 2])
EVERY = torch.full((B,), 2**32 - 1)  # a threshold that draws all rows of other clusters
IMAGES = torch.rand(B, D, H, W).contiguous(memory_format=torch.channels_last)
STYLE, MOMENTS = torch.rand(B, D), torch.stack((torch.zeros(B, D), torch.ones(B, D)), 1)
VERTICES = torch.tensor([[[0.0, 0, 1], [5, 0, 1], [0, 5, 1]]])
FACES = torch.tensor([[0, 2, 1]])
START, COLUMN = torch.tensor([0, 2, 4, 5]), torch.tensor([0, 1, 0, 1, 2], dtype=torch.int32)
VALUE = torch.full((5,), 0.5)
NEIGHBOURS = torch.tensor([[0, 1], [1, 0], [2, 1]], dtype=torch.int32)
LINES = (torch.tensor([1, 0]), torch.tensor([0, 2]), torch.tensor([[1], [0]] + [[-1]] * (H - 2)),
         torch.tensor([[0], [-1], [1]] + [[-1]] * (W - 3)))  # fmt: skip
TRANSFER = (VERTICES, VERTICES, FACES, torch.tensor([[1], [2], [0]], dtype=torch.int32), torch.ones(1),
            torch.eye(3, 4)[None], torch.eye(3, 4)[None], 0.0, 0.5)  # fmt: skip
ARGUMENTS = {
    "contrastive_draw": (LABELS, INDEX, STREAM, 2),
    "contrastive_rows": (torch.rand(B, 5), torch.zeros(B, 2), LABELS, INDEX, EVERY, STREAM, 3, 0.1),
    "csr_dbscan": (START, COLUMN, VALUE, 0.6, 2),
    "expand_queries": (START, COLUMN, VALUE, NEIGHBOURS, 0, 3),
    "gather_pixels": (IMAGES, *LINES),
    "gather_pixels_adjoint": (IMAGES[:, :, :2, :2], *LINES),
    "jaccard_rows": (START, COLUMN, VALUE, 0.0, 0, 3),
    "memory_update": (torch.eye(N, D), INDEX, torch.rand(B, D), 0.2),
    "merge_top_k": (torch.zeros(B, 2), torch.zeros(B, 2, dtype=torch.int32), torch.rand(B, 5), 0, 3),
    "negative_lse": (torch.rand(B, D), torch.eye(N, D), LABELS, INDEX, EVERY, STREAM, 0.1),
    "rank_queries": (torch.rand(2, 3), torch.tensor([0, 1, 2]), torch.tensor([[0, 2], [1, 3]]), torch.arange(2),
                     torch.full((3,), 7)),
    "rasterize": (VERTICES, FACES, H, W, True, False),
    "rasterize_backward": (torch.rand(1, H, W), torch.rand(1, H, W, 3), VERTICES, FACES,
                           torch.zeros(1, H, W, dtype=torch.int32), False),
    "reciprocal_weights": (torch.eye(3), NEIGHBOURS, 2, 0, 3),
    "reflect_pad": (IMAGES, None, 2, 0.2),
    "reflect_pad_adjoint": (IMAGES, None, 1, 1.0),
    "sample_crops": (torch.zeros(N, H, W, 3, dtype=torch.uint8), INDEX, torch.rand(B, 4), torch.rand(B, 3, 4),
                     torch.zeros(B, 4)),
    "structure_maps": (VERTICES, FACES, torch.eye(3, 4)[None], H, W),
    "styled_norm": (IMAGES, STYLE, STYLE, IMAGES, 0.2, False),
    "transfer_appearance": (torch.rand(1, 3, H, W), *TRANSFER),
    "transfer_appearance_backward": (torch.rand(1, H, W, 3), *TRANSFER),
    "styled_norm_backward": (IMAGES, IMAGES, STYLE, STYLE, MOMENTS, 0.2, False),
}  # fmt: skip


def registered() -> list[str]:
    """Return the names of all ops of gcl_fast, in C++ and in Python."""
    schemas = (schema.name for schema in torch._C._jit_get_all_schemas())
    return sorted({name.removeprefix("gcl_fast::") for name in schemas if name.startswith("gcl_fast::")})
