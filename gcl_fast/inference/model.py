"""Apply trained networks to images: embeddings, similarities, novel views."""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from gcl_fast.assessment.views import YAWS
from gcl_fast.bodies import AnnyBody, BodyParameters, OnlineStructureMaps
from gcl_fast.bodies.body_estimator import estimate_images
from gcl_fast.data.broken_images import why_broken
from gcl_fast.errors import UserError
from gcl_fast.evaluation.inference import embed_batch, novel_views, to_unit
from gcl_fast.evaluation.retrieval import query_tiles
from gcl_fast.inference.images import Images, listed, read
from gcl_fast.models import GCL, IdentityEncoder, for_inference
from gcl_fast.optim.precision import Precision
from gcl_fast.run.restore import TRAINED_GENERATOR

log = logging.getLogger(__name__)

NAMED = 5  # images that do not decode and are named in the warning


class Matches(NamedTuple):
    """Holds the nearest entries of a gallery for each of Q queries, the most similar first."""

    indices: Tensor  # (Q, k) int64 rows of the gallery
    similarity: Tensor  # (Q, k) float32 cosine, -1..1


class Model:
    """Represents trained networks with the images that they take; `gcl_fast.load` makes it.

    Args:
        encoder: the identity encoder, in eval mode.
        gcl: all networks, in eval mode; None where the encoder alone is there.
        size: (H, W) of the images that the networks see; others are resized.
        metadata: where the weights come from (`gcl_fast.run.weights.describe`).
        precision: of the forward passes.

    Example:
        >>> import numpy as np
        >>> from gcl_fast.models import ModelConfig
        >>> from gcl_fast.optim.precision import choose
        >>> encoder = IdentityEncoder(ModelConfig.demo().identity).eval()  # stands in for a trained one
        >>> model = Model(encoder, None, (128, 64), {}, choose(False, torch.device("cpu")))
        >>> model.embed(np.zeros((3, 200, 80, 3), np.uint8)).shape
        torch.Size([3, 256])
    """

    def __init__(
        self,
        encoder: IdentityEncoder,
        gcl: GCL | None,
        size: tuple[int, int],
        metadata: dict[str, Any],
        precision: Precision,
    ) -> None:
        self.encoder, self.gcl, self.size, self.metadata, self.precision = encoder, gcl, size, metadata, precision

    def __repr__(self) -> str:
        stage, data = self.metadata.get("stage", "?"), self.metadata.get("data", {}).get("name", "?")
        height, width = self.size
        return f"Model(stage={stage}, data={data}, size={height}x{width}, dim={self.dim}, device={self.device})"

    @property
    def device(self) -> torch.device:
        """Return where the networks are."""
        return next(self.encoder.parameters()).device

    @property
    def dim(self) -> int:
        """Return the size D of an embedding."""
        return self.encoder.dim

    @functools.cached_property
    def digest(self) -> str:
        """Return a digest of the identity encoder's weights and of the size of its images, 16 hexadecimal digits.

        Rows of two models with the same digest can be compared.
        """
        code = hashlib.sha256(str(self.size).encode())
        for name, tensor in sorted(self.encoder.state_dict().items()):
            if not name.endswith("num_batches_tracked"):
                code.update(name.encode())
                code.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
        return code.hexdigest()[:16]

    @functools.cached_property
    def _network(self) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """Return the fastest form of the encoder, as evaluation uses it; later changes of its weights are not seen."""
        return for_inference(self.encoder, self.precision.dtype)

    @torch.no_grad()
    def embed(self, images: Images, *, bgr: bool = False, flip: bool = False, progress: bool = True) -> Tensor:
        """Embed images of any size; their cosine similarity says how alike two people look.

        Images are resized to `size` by bicubic interpolation with antialiasing, as in training. Another resize changes
        the rows: bilinear by Pillow costs 0.006 of cosine, and swapped channels cost 0.35.

        Args:
            images: a path, a folder (searched with its subfolders, see `find_images`), a PIL image, a uint8 array
                (H, W, 3) or (N, H, W, 3), a uint8 tensor (3, H, W) or (N, 3, H, W), or an iterable of these. RGB.
            bgr: the channels of arrays and tensors are blue, green, red, as OpenCV reads them.
            flip: take the mean with the embedding of the mirrored image, which takes twice as long.
            progress: show a bar on a terminal when it takes longer than two seconds.

        Returns:
            (N, D) float32 unit rows on the CPU, in the order of `images`. The row of a file that does not decode is
            NaN; a warning counts and names such files.

        Raises:
            UserError: an object that is no image, of another dtype or shape, a folder without images, or no such path.
        """
        items = listed(images)
        count = len(items) if isinstance(items, list) else None
        rows, failures = [], []
        bar = tqdm(total=count, unit="image", delay=2, disable=None if progress else True)
        with bar:
            for batch in read(items, self.size, self.device, bgr=bgr):
                embedding = embed_batch(self._network, batch.images, self.precision.evaluating, flip)
                rows.append(embedding.masked_fill(~batch.decoded[:, None], torch.nan).cpu())
                failures += batch.places[~batch.decoded].tolist()
                bar.update(len(embedding))
        if failures:
            names = [
                f"{items[i]} ({why_broken(Path(items[i]))})" if isinstance(items, list) else f"number {i}"
                for i in failures[:NAMED]
            ]
            names += ["..."] * (len(failures) > NAMED)
            total = sum(map(len, rows))
            log.warning("%d of %d images do not decode, their rows are NaN: %s", len(failures), total, "; ".join(names))
        return torch.cat(rows) if rows else torch.empty(0, self.dim)

    def search(self, query: Images | Tensor, gallery: Images | Tensor, k: int = 10) -> Matches:
        """Find the images of a gallery that are most similar to each query.

        Args:
            query: images as `embed` takes them, or float rows (Q, D) of `embed` or of a file by `gcl-fast embed`.
            gallery: the same.
            k: matches of each query, 1 to the size of the gallery.

        Returns:
            Rows of the gallery with their similarities; a gallery image that does not decode comes last, with -inf.

        Raises:
            UserError: k is out of range, or rows of another size than D.
        """
        queries, entries = self._rows(query), self._rows(gallery)
        if not 1 <= k <= len(entries):
            raise UserError(f"k={k}: the gallery has {len(entries)} images; expected 1 to {len(entries)}")
        tiles = query_tiles(len(queries), len(entries))
        parts = [(queries[tile] @ entries.T).nan_to_num(-torch.inf).topk(k) for tile in tiles]
        if not parts:
            return Matches(torch.empty(0, k, dtype=torch.int64), torch.empty(0, k))
        similarity, index = (torch.cat(part) for part in zip(*parts))
        return Matches(index, similarity)

    @torch.no_grad()
    def turn(self, images: Images, yaws: Sequence[float] = YAWS, *, bgr: bool = False) -> Tensor:
        """Draw people from other sides; their bodies are estimated from the images.

        Args:
            images: as `embed` takes them.
            yaws: Y angles in degrees about the vertical axis; 0 is the view of the image.
            bgr: as in `embed`.

        Returns:
            (N, Y, 3, H, W) float32 in 0..1, RGB, on the CPU.

        Raises:
            UserError: no trained generator (load the folder of a run that has finished its generative stage), an
                image that does not decode, or a yaw that is no number.
        """
        if self.gcl is None:
            raise UserError(
                "these weights are an identity encoder alone; load the folder of its run, or that run's"
                " checkpoints/STAGE.safetensors"
            )
        if self.metadata.get("stage") not in TRAINED_GENERATOR:
            raise UserError(
                f"no generator is trained in these weights (stage {self.metadata.get('stage')}); load a run that has"
                " finished its generative stage, or that stage's .safetensors"
            )
        views, body, items = [], AnnyBody(), listed(images)
        yaw = torch.tensor([float(angle) for angle in yaws], device=self.device)
        if not yaw.isfinite().all():
            raise UserError(f"yaws={list(yaws)}: expected numbers of degrees")
        for batch in read(items, self.size, self.device, bgr=bgr):
            if not batch.decoded.all():
                place = int(batch.places[~batch.decoded][0])
                name = items[place] if isinstance(items, list) else place
                raise UserError(f"image {name} does not decode; leave it out")
            bodies: BodyParameters = estimate_images(batch.images, [str(i) for i in batch.places.tolist()])
            maps = OnlineStructureMaps(body, bodies, self.size, self.device)
            for place, image in enumerate(batch.images):
                index = torch.full((len(yaw),), place, device=self.device)
                copies = image.expand(len(yaw), -1, -1, -1)
                drawn = novel_views(self.gcl, copies, maps.turn(index, yaw), self.precision.evaluating)
                views.append(to_unit(drawn.images).cpu())
        return torch.stack(views) if views else torch.empty(0, len(yaw), 3, *self.size)

    def _rows(self, images: Images | Tensor) -> Tensor:
        """Return rows as they are, or the rows of images."""
        if isinstance(images, np.ndarray) and images.dtype.kind == "f":
            images = torch.from_numpy(np.array(images))
        if not (isinstance(images, Tensor) and images.is_floating_point()):
            return self.embed(images)
        if images.ndim != 2 or images.shape[1] != self.dim:
            raise UserError(f"rows have shape {tuple(images.shape)}; this model makes (N, {self.dim})")
        return images.float().cpu()
