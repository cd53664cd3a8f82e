"""Place embeddings on a plane by t-SNE (van der Maaten and Hinton 2008), so that near crops stay near."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

LARGEST = 20_000  # rows up to which scikit-learn's t-SNE takes minutes
FEWEST = 10  # rows below which a map shows nothing
COMPONENTS = 50  # of the principal components that t-SNE sees
PERPLEXITY = 30.0
SEED = 0


@dataclass(frozen=True)
class Map:
    """Holds the map of M of the N rows."""

    points: np.ndarray  # (M, 2)
    index: np.ndarray  # (M,) rows that are shown
    how: str  # for the reader: what made the map, and of how many rows


def embedding_map(rows: np.ndarray, largest: int = LARGEST) -> Map:
    """Return the map of rows.

    Args:
        rows: (N, D) float32 embeddings, N >= FEWEST.
        largest: number of rows beyond which openTSNE makes the map where it is installed, else a sample of rows.
    """
    index, how, library = np.arange(len(rows)), f"t-SNE of scikit-learn, {len(rows):,} crops", None
    if len(rows) > largest:
        try:
            library = importlib.import_module("openTSNE")
            how = f"t-SNE of openTSNE, {len(rows):,} crops"
        except ImportError:
            index = np.linspace(0, len(rows) - 1, largest).astype(int)
            how = (
                f"t-SNE of scikit-learn, {largest:,} crops spread evenly over {len(rows):,};"
                ' with openTSNE (pip install "gcl-fast[large]") all of them'
            )
    chosen = rows[index]
    components = min(COMPONENTS, *chosen.shape)
    reduced = PCA(components, svd_solver="randomized", random_state=SEED).fit_transform(chosen)
    perplexity = min(PERPLEXITY, (len(chosen) - 1) / 3)
    if library is None:
        points = TSNE(perplexity=perplexity, random_state=SEED).fit_transform(reduced)
    else:
        points = np.asarray(library.TSNE(perplexity=perplexity, random_state=SEED).fit(reduced))
    return Map(points, index, how)
