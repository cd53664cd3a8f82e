"""Prepare the hot parts of gcl_fast other than networks, each with its peers, for a measurement."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.cluster import DBSCAN
from sklearn.neighbors import NearestNeighbors
from torch import Tensor
from torch.nn.functional import normalize

from gcl_fast.bodies import AnnyBody, BodyParameters, OnlineStructureMaps, PrerenderedStructureMaps, walking_pose
from gcl_fast.bodies.structure_maps import PRERENDERED_YAWS
from gcl_fast.data import open_dataset
from gcl_fast.evaluation import rank
from gcl_fast.kernels.structure_maps import structure_maps as render_maps
from gcl_fast.kernels.transfer_appearance import transfer_appearance, transfer_appearance_reference
from gcl_fast.pseudo_labels.dbscan import dbscan
from gcl_fast.pseudo_labels.jaccard import (
    jaccard_similarity,
    k_reciprocal_jaccard,
    k_reciprocal_jaccard_reference,
    neighbourhoods,
)
from gcl_fast.pseudo_labels.neighbours import nearest_neighbours
from gcl_fast.render import project, rasterize, render_structure
from gcl_fast.render.camera import view_transform
from lib import bank_formulations, embeddings, epoch_readers, meshes
from lib.ceilings import Arithmetic
from lib.sorted_ranking import by_sorting


@dataclass(frozen=True)
class Part:
    """Represents one hot part at one size.

    contenders: "ours" first, then its peers. size, unit: how many of what one call works on. flops, moved: the least
    arithmetic and the least traffic in bytes (inputs read once, results written once) of a call, for the ceiling.
    device: what it runs on where that is not the run's.
    """

    name: str
    size: int
    unit: str
    contenders: Mapping[str, Callable[[], Any]]
    flops: float = 0.0
    moved: float = 0.0
    arithmetic: Arithmetic = "matrix"
    device: str = ""


def groups(device: str, full: bool) -> dict[str, Callable[[], Iterator[Part]]]:
    """Return groups of parts by name; a part is made in its turn, when the memory of the one before is free."""
    samples = (12_936, 100_000) if full else (12_936,)
    rows = (1500, 3000, 12_936, 33_000) if full else (1500, 3000, 12_936)
    dense = 3000 if full else 1500
    return {
        "loader": partial(loading, torch.device(device), 4000 if full else 1000),
        "rasterizer": lambda: (rasterizer(count, device) for count in (4, 16, 64)),
        "structure-maps": partial(structure_maps, device),
        "transfer": lambda: iter([transfer(device)]),
        "memory-bank": lambda: chain.from_iterable(memory_bank(n, device) for n in samples),
        "clustering": lambda: chain.from_iterable(clustering(n, device, n <= dense) for n in rows),
        "ranking": lambda: iter([ranking(3368 if full else 842, 15_913)]),
    }


def loading(device: torch.device, count: int) -> Iterator[Part]:
    """Yield the reading of epochs, from JPEG files of 128x64 to batches of 256x128."""
    with tempfile.TemporaryDirectory() as folder:
        epoch_readers.write_crops(Path(folder), count)
        records, size = open_dataset("folder", folder).train, (256, 128)
        readers = epoch_readers.ours(records, size, device, batch_size=64, threads=2)
        from_files, *cached = (name for name in readers if "augmented" not in name)
        peers = epoch_readers.peers(records, size, device, batch_size=64, workers=[2])
        crops = count // 64 * 64
        written = crops * 3 * size[0] * size[1] * 4
        yield Part("loader, JPEG files", crops, "crops", {"ours": readers[from_files]} | peers, moved=written)
        uncached = {f"{name}, no cache": work for name, work in peers.items()}  # it decodes in every epoch
        yield Part("loader, cached", crops, "crops", {"ours": readers[cached[-1]]} | uncached, moved=1.25 * written)


def rasterizer(count: int, device: str) -> Part:
    """Return the rasterizing of `count` walking bodies at 256x128."""
    bodies, faces = (x.to(device) for x in meshes.walkers(count))
    yaw, camera = torch.arange(count) * 45.0, torch.tensor([[0.52, 0.5, 0.5, 8]]).repeat(count, 1)
    vertices = project(bodies, yaw.to(device), camera.to(device), meshes.SIZE)
    peers: dict[str, Callable[[], object] | None] = {"PyTorch3D": meshes.pytorch3d_peer(vertices, faces)}
    if device == "cpu":
        peers["plain loop, 1 thread"] = meshes.plain_loop(vertices, faces)
    ours = {"ours": partial(rasterize, vertices, faces, meshes.SIZE, cull_backfaces=True)}
    moved = vertices.nbytes + count * meshes.SIZE[0] * meshes.SIZE[1] * 5 * 4
    return Part("rasterizer", count, "meshes", ours | {k: v for k, v in peers.items() if v is not None}, moved=moved)


def structure_maps(device: str, count: int = 32) -> Iterator[Part]:
    """Yield structure maps from body parameters; the peer reads the official code's pre-rendered images."""
    body, (height, width) = AnnyBody(), meshes.SIZE
    names = [f"{i:04d}.png" for i in range(count)]
    pose, shape = walking_pose(torch.arange(count) / count), torch.full((count, len(body.shape_names)), 0.5)
    camera, yaw = torch.tensor([[0.52, 0.5, 0.5, 8.0]]).repeat(count, 1), torch.arange(count) * 45.0
    people = BodyParameters(names, body.name, pose, shape, torch.zeros(count), camera, torch.ones(count))
    online, index = OnlineStructureMaps(body, people, meshes.SIZE, device), torch.arange(count, device=device)
    vertices = body(pose.to(device), shape.to(device))
    with tempfile.TemporaryDirectory() as root:
        for turn in PRERENDERED_YAWS:
            folder = Path(root) / "train" / (f"render_{turn}" if turn else "render")
            folder.mkdir(parents=True)
            turned = torch.full((count,), float(turn), device=device)
            maps = render_structure(vertices, body.faces, turned, camera.to(device), meshes.SIZE)
            for name, picture in zip(names, (maps[:, 0] * 127.5 + 127.5).byte().cpu().numpy(), strict=True):
                Image.fromarray(picture).save(folder / name)
        official = PrerenderedStructureMaps(root, "train", names, meshes.SIZE, device)

        def from_files() -> Tensor:
            official.decoded.zero_()
            return official(index, yaw)

        contenders: dict[str, Callable[[], Any]] = {
            "ours": lambda: online(index, yaw.to(device)),
            "pre-rendered pictures": from_files,
        }
        moved = vertices.nbytes + count * height * width * 4
        yield Part("structure maps", count, "maps", contenders, moved=moved)


def transfer(device: str, count: int = 32) -> Part:
    """Return the transfer of `count` crops of 256x128 to another view.

    The peers are its definition, and the structure maps of the same pairs of views, which say what a render costs.
    """
    body, (height, width) = AnnyBody().to(device), meshes.SIZE
    pose, shape = walking_pose(torch.arange(count) / count), torch.full((count, len(body.shape_names)), 0.5)
    vertices = body(pose.to(device), shape.to(device))
    camera, yaw = torch.tensor([[0.52, 0.5, 0.5, 8.0]]).repeat(count, 1).to(device), torch.arange(count) * 45.0
    views = [view_transform(vertices, angle.to(device), camera, meshes.SIZE) for angle in (yaw, yaw + 135)]
    images = torch.rand(count, 3, height, width, device=device)
    arguments = images, vertices, body.faces, body.donors, *views
    contenders: dict[str, Callable[[], Any]] = {
        "ours": lambda: transfer_appearance(*arguments),
        "structure maps of both views": lambda: [render_maps(vertices, body.faces, v, meshes.SIZE) for v in views],
        "plain PyTorch": lambda: transfer_appearance_reference(*arguments),
    }
    moved = vertices.nbytes + count * height * width * 7 * 4
    return Part("transfer of appearance", count, "crops", contenders, moved=moved)


def memory_bank(samples: int, device: str, batch: int = 16, dim: int = 512, negatives: int = 8192) -> Iterator[Part]:
    """Yield the contrastive loss with its backward pass, and the bank update, at the paper's sizes."""
    bank, index, f, f_new = bank_formulations.crops_and_bank(batch, samples, dim, negatives, device)
    chosen = {name: bank_formulations.CONTENDERS[name](bank) for name in ("ours", "reference", "official")}

    def loss(contender: Any) -> None:
        f.grad = f_new.grad = None
        contender.loss(f, f_new, index).backward()

    flops, moved = 4 * batch * samples * dim, bank.features.nbytes
    losses = {name: partial(loss, contender) for name, contender in chosen.items()}
    yield Part("contrastive loss", samples, "rows", losses, flops, moved)
    fresh = f.detach()
    updates = {name: partial(contender.update_, index, fresh) for name, contender in chosen.items()}
    yield Part("bank update", batch, "rows", updates, moved=3 * fresh.nbytes)


def clustering(rows: int, device: str, dense: bool, dim: int = 512, k1: int = 30, k2: int = 6) -> Iterator[Part]:
    """Yield neighbours, Jaccard similarity and DBSCAN; with `dense` the dense definition is a peer."""
    features = embeddings.crops(rows, dim)
    moved, eps = features.to(device), 0.6
    library = NearestNeighbors(n_neighbors=k1, algorithm="brute").fit(features.numpy())
    searches: dict[str, Callable[[], Any]] = {
        "ours": partial(nearest_neighbours, moved, k1),
        "product and top-k": lambda: (moved @ moved.T).topk(k1),
        "scikit-learn": lambda: library.kneighbors(features.numpy()),
    }
    yield Part("neighbours", rows, "rows", searches, flops=rows**2 * dim, moved=features.nbytes)
    sets = neighbourhoods(moved, k1, k2)
    graph = jaccard_similarity(sets, 1 - eps)
    entries = len(graph.values())
    similarities: dict[str, Callable[[], Any]] = {"ours": partial(k_reciprocal_jaccard, moved, k1, k2, 1 - eps)}
    if dense:
        similarities["dense definition"] = partial(k_reciprocal_jaccard_reference, features, k1, k2)
    yield Part("Jaccard, with neighbours", rows, "rows", similarities, flops=rows**2 * dim, moved=8 * entries)
    scans: dict[str, Callable[[], Any]] = {
        "ours": partial(dbscan, graph, eps, 4, "own"),
        "scikit-learn, sparse": partial(dbscan, graph.cpu(), eps, 4, "sklearn"),
    }
    if dense:
        distance = 1 - graph.cpu().to_dense().numpy()
        scans["scikit-learn, dense"] = lambda: DBSCAN(eps=eps, min_samples=4, metric="precomputed").fit(distance)
    yield Part("DBSCAN", rows, "rows", scans, moved=8 * entries)


def ranking(queries: int, gallery: int) -> Part:
    """Return mAP and CMC from a distance matrix, on the CPU: the op has no other kernel."""
    draw = np.random.default_rng(0)
    ids = [
        draw.integers(high, size=size) for high, size in [(750, queries), (750, gallery), (6, queries), (6, gallery)]
    ]
    tensors, distance = [torch.from_numpy(values) for values in ids], normalize(torch.rand(queries, gallery))
    contenders: dict[str, Callable[[], Any]] = {
        "ours": lambda: rank(distance, *tensors),
        "NumPy, sorting": lambda: by_sorting(distance.numpy(), ids),
    }
    return Part("ranking", queries, "queries", contenders, moved=distance.nbytes, device="cpu")
