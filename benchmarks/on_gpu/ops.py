"""Check every op on a device at real sizes against float64 or the CPU's op, and time it.

python -m on_gpu.ops --device cuda [--only contrast bodies clusters maps]

On a CPU sizes are tiny: that tries this script.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gcl_fast.bodies.donors import make_donors
from gcl_fast.data.augment import Augmentation, draw
from gcl_fast.evaluation import evaluate, rank
from gcl_fast.kernels.cards import card_of
from gcl_fast.kernels.contrastive_draw import contrastive_draw
from gcl_fast.kernels.memory_update import memory_update
from gcl_fast.kernels.negative_lse import (
    CUDA_TILE_SCORES,
    fused_configuration,
    negative_lse_fused,
    negative_lse_tiled,
)
from gcl_fast.kernels.reflect_pad import reflect_pad, reflect_pad_reference
from gcl_fast.kernels.sample_crops import sample_crops, sample_crops_reference
from gcl_fast.kernels.styled_norm import styled_norm
from gcl_fast.kernels.transfer_appearance import Donors, transfer_appearance, transfer_appearance_reference
from gcl_fast.kernels.view_contrastive import view_contrastive, view_contrastive_reference
from gcl_fast.memory import MemoryBank
from gcl_fast.process import prepare_process
from gcl_fast.pseudo_labels.dbscan import csr_arrays, dbscan
from gcl_fast.pseudo_labels.jaccard import jaccard_similarity, k_reciprocal_jaccard, neighbourhoods
from gcl_fast.pseudo_labels.neighbours import nearest_neighbours
from gcl_fast.render import project, rasterize, rasterize_reference, render_structure, render_structure_reference
from gcl_fast.render.camera import view_transform
from lib.embeddings import crops
from lib.meshes import eggs, walkers
from lib.plain_layers import plain_norm
from on_gpu.rows import Row, check, emit
from on_gpu.timing import timed

STREAM = torch.tensor([(5 << 40) + 3, 7])
TEMPERATURE = 0.04
# B, N, D, K
BANKS = {
    "cuda": [(16, 12_936, 512, 8192), (256, 32_621, 512, 8192), (64, 50_000, 2048, 8192), (256, 100_000, 512, 8192)],
    "cpu": [(3, 70, 7, 1000), (5, 300, 64, 40)],
}
WIDTHS = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


def off(ours: Tensor, truth: Tensor) -> float:
    """Return the distance as a share of the truth's norm."""
    ours, truth = ours.detach().double().cpu(), truth.detach().double().cpu()
    return float((ours - truth).norm() / truth.norm().clamp_min(1e-300))


def contrast(device: str) -> Iterator[Row]:
    """Check draws, the loss with gradients by either route, and the bank update."""
    for B, N, D, K in BANKS[device]:
        generator = torch.Generator().manual_seed(N + B + D)
        labels = torch.randint(-1, N // 17, (N,), generator=generator)
        index = torch.randint(N, (B,), generator=generator)
        f, f_new, rows = (F.normalize(torch.randn(n, D, generator=generator), dim=1) for n in (B, B, N))
        size = f"B {B}, N {N:,}, D {D}"
        labels_there, index_there, stream = (x.to(device) for x in (labels, index, STREAM))
        draws = partial(contrastive_draw, labels_there, index_there, stream, K)
        ours, cpu = draws(), contrastive_draw(labels, index, STREAM, K)
        differ = sum(float((a.cpu() != b).sum()) for a, b in zip(ours, cpu))
        yield check("contrastive_draw, entries that differ from the CPU's", f"{size}, K {K}", differ, 0.0)
        yield from timed("contrastive_draw", size, "crops", B, {"ours": draws}, device, calls=10)
        f, f_new, (positives, threshold) = f.to(device), f_new.to(device), ours
        given = (labels_there, index_there, positives, threshold, stream, TEMPERATURE)
        for dtype, width in WIDTHS.items():
            bank = rows.to(device, dtype)
            label = f"{size}, {width} bank"
            truth = _loss(view_contrastive_reference, f.double(), f_new.double(), bank.double(), given)
            outcome = _loss(view_contrastive, f, f_new, bank, given)
            for name, mine, exact in zip(("loss", "gradient of f", "gradient of f_new"), outcome, truth):
                yield check(f"contrastive {name} against float64", label, off(mine, exact), 2e-5)
            yield from _routes(f_new, bank, (labels_there, index_there, threshold, stream), label, device)
            yield from _update(bank, index_there, f, label, device)


def _loss(loss: Callable[..., Tensor], f: Tensor, f_new: Tensor, bank: Tensor, given: tuple) -> list[Tensor]:
    f, f_new = (x.detach().requires_grad_() for x in (f, f_new))
    rows = loss(f, f_new, bank, *given)
    return [rows, *torch.autograd.grad(rows.sum(), (f, f_new))]


def _routes(
    query: Tensor, bank: Tensor, draws: tuple[Tensor, Tensor, Tensor, Tensor], label: str, device: str
) -> Iterator[Row]:
    """Check both routes of `negative_lse` against each other, and time them."""
    B, D = query.shape
    scores = CUDA_TILE_SCORES if device == "cuda" else 64
    labels, index, threshold, stream = draws
    route = lambda how: partial(how, query, bank, labels, index, threshold, stream, TEMPERATURE)
    tiled = partial(route(negative_lse_tiled), tile=max(scores // B, 1))
    routes: dict[str, Callable[[], object]] = {"ours, tiled": tiled}
    configuration = fused_configuration(B, D, bank.dtype, card_of(bank.device)) if device == "cuda" else None
    if configuration is not None:
        whole, fused = tiled(), partial(route(negative_lse_fused), configuration=configuration)
        for parts in (1, 3, 64):
            apart = max(map(off, fused(parts=parts), whole))
            # beside a bfloat16 bank a float32 crop goes in as two bfloat16 numbers, 16 bits
            yield check("fused route against tiled", f"{label}, {parts} parts", apart, 1e-4)
        processors = torch.cuda.get_device_properties(0).multi_processor_count
        parts = max(2 * processors // -(-B // configuration["BLOCK_B"]), 1)
        routes["ours, fused"] = partial(fused, parts=parts)
    work: dict[str, Any] = {"flops": 4 * B * len(bank) * D, "moved": bank.nbytes, "arithmetic": "bf16 matrix product"}
    yield from timed("negative_lse", label, "crops", B, routes, device, calls=5, **work)


def _update(bank: Tensor, index: Tensor, f: Tensor, label: str, device: str) -> Iterator[Row]:
    """Check the bank update of repeated rows against float64, row by row; time it and `update_`."""
    repeated = torch.cat((index, index[: len(index) // 3]))
    features = torch.cat((f, f[: len(index) // 3].flip(0)))
    ours, truth = bank.clone(), dict[int, Tensor]()
    memory_update(ours, repeated, features, 0.2)
    for i, row in zip(repeated.tolist(), features.double()):
        truth[i] = F.normalize(0.2 * truth.get(i, bank[i].double()) + 0.8 * row, dim=0)
    apart = off(ours[list(truth)], torch.stack(list(truth.values())))
    yield check("memory_update against float64", label, apart, 1e-6 if bank.dtype == torch.float32 else 4e-3)
    untouched = torch.ones(len(bank), dtype=torch.bool, device=bank.device).index_fill_(0, repeated, False)
    changed = float((ours[untouched] != bank[untouched]).sum())
    yield check("memory_update, entries of other rows that change", label, changed, 0.0)
    whole = MemoryBank(*bank.shape).to(bank.device)
    whole.features = bank
    for name, work in {
        "memory_update": partial(memory_update, bank, index, f, 0.2),
        "MemoryBank.update_": partial(whole.update_, index, f),
    }.items():
        yield from timed(name, label, "crops", len(index), {"ours": work}, device, calls=100, moved=3 * f.nbytes,
                         arithmetic="bf16 matrix product", note="100 calls queued")  # fmt: skip


def bodies(device: str) -> Iterator[Row]:
    """Check rasterizer and structure maps of walking bodies."""
    count, size = (16, (256, 128)) if device == "cuda" else (2, (48, 32))
    vertices, faces = walkers(count) if device == "cuda" else eggs(count, 400)
    yaw, camera = torch.arange(count) * 45.0, torch.tensor([[0.52, 0.5, 0.5, 8.0]]).repeat(count, 1)
    flat = project(vertices, yaw, camera, size)
    label = f"{count} meshes of {len(faces):,} faces, {size[0]}x{size[1]}"
    there, faces_there = flat.to(device), faces.to(device)
    ours, again = (rasterize(there, faces_there, size) for _ in range(2))
    cpu = rasterize(flat, faces, size)
    yield check("rasterizer, entries that differ from run to run", label, _differing(ours, again), 0.0)
    other = float((ours.face_index.cpu() != cpu.face_index).double().mean())
    yield check("rasterizer, share of pixels that see another face than on the CPU", label, other, 1e-4)
    exact = rasterize_reference(there[:1].double(), faces_there, size)
    other = float((ours.face_index[:1] != exact.face_index).double().mean())
    yield check("rasterizer, share of pixels that see another face than in float64", f"1 of {label}", other, 1e-3)
    same = ours.face_index[:1] == exact.face_index
    yield check("depth against float64", f"1 of {label}", off(ours.depth[:1][same], exact.depth[same]), 1e-5)
    scene = vertices.to(device), faces_there, yaw.to(device), camera.to(device), size
    maps, truth = render_structure(*scene), render_structure_reference(*scene)
    share = float(((maps - truth).abs() > 2 / 127.5).double().mean())
    yield check("structure maps, share of pixels off the reference by more than two levels", label, share, 1e-3)
    differ = _differing([maps], [render_structure(*scene)])
    yield check("structure maps, entries that differ from run to run", label, differ, 0.0)
    yield from _transfer(*scene[:4], size, label)
    moved = vertices.nbytes + count * size[0] * size[1] * 5 * 4
    culled = partial(rasterize, there, faces_there, size, cull_backfaces=True)
    calls: dict[str, Callable[[], Any]] = {"rasterizer": culled, "structure maps": partial(render_structure, *scene)}
    for name, work in calls.items():
        yield from timed(name, label, "meshes", count, {"ours": work}, device, calls=10, moved=moved,
                         arithmetic="fp32 matrix product", note="10 calls queued")  # fmt: skip


def _transfer(
    vertices: Tensor, faces: Tensor, yaw: Tensor, camera: Tensor, size: tuple[int, int], label: str
) -> Iterator[Row]:
    """Check the transfer of appearance and its gradient against the definition, and against itself."""
    donors = make_donors(vertices[0].cpu(), faces.cpu())
    donors = Donors(*(x.to(vertices.device) for x in donors))
    views = [view_transform(vertices, angle, camera, size) for angle in (yaw, yaw + 135)]
    images = torch.rand(len(vertices), 3, *size, device=vertices.device).requires_grad_()
    grad = torch.randn(images.shape, device=vertices.device)
    results = []
    for call in (transfer_appearance, transfer_appearance, transfer_appearance_reference):
        carried = call(images, vertices, faces, donors, *views)
        results.append([*carried, torch.autograd.grad(carried.colour, images, grad)[0]])
    ours, again, truth = results
    yield check("transfer, entries that differ from run to run", label, _differing(ours, again), 0.0)
    for name, mine, exact in zip(("colour", "confidence", "gradient"), ours, truth):
        share = float(((mine - exact).abs() > 1e-3).double().mean())
        yield check(f"transfer, share of the {name} off the reference", label, share, 1e-3)


def _differing(ours: Iterable[Tensor], theirs: Iterable[Tensor]) -> float:
    return float(sum(int((a != b).sum()) for a, b in zip(ours, theirs)))


def clusters(device: str) -> Iterator[Row]:
    """Check neighbours, Jaccard graph, DBSCAN and ranking at Market-1501's size."""
    N, k1, k2, eps = (12_936, 30, 6, 0.6) if device == "cuda" else (500, 12, 4, 0.6)
    features = crops(N, 512)
    there, label = features.to(device), f"{N:,} rows, D 512"
    similarity, _ = nearest_neighbours(there, k1)
    products = torch.cat([(part.double() @ there.double().T).topk(k1).values for part in there.split(2048)])
    yield check("similarity of the neighbours against float64", label, off(similarity, products), 1e-6)
    ours, cpu = k_reciprocal_jaccard(there, k1, k2, 1 - eps), k_reciprocal_jaccard(features, k1, k2, 1 - eps)
    yield check("Jaccard graph, entries more or fewer than the CPU's, share", label,
                abs(len(ours.values()) - len(cpu.values())) / len(cpu.values()), 1e-3)  # fmt: skip
    sets = neighbourhoods(features, k1, k2)
    graph = [x.to(device) for x in sets]
    given = csr_arrays(jaccard_similarity(type(sets)(*graph), 1 - eps))
    expected = csr_arrays(jaccard_similarity(sets, 1 - eps))
    same = all(torch.equal(a.cpu(), b) for a, b in zip(given[:2], expected[:2]))
    apart = off(given[2], expected[2]) if same else float("nan")
    yield check("Jaccard similarity of equal sets against the CPU's", label, apart, 1e-6)
    for radius in (0.3, 0.45, eps):
        graph_here = jaccard_similarity(sets, 1 - eps)
        labels = dbscan(graph_here.to(device), radius, 4, "own").cpu()
        differ = float((labels != dbscan(graph_here, radius, 4, "sklearn")).sum())
        yield check("DBSCAN, labels that differ from scikit-learn's", f"{label}, eps {radius}", differ, 0.0)
    yield from _ranking(device)


def _ranking(device: str) -> Iterator[Row]:
    Q, G = (3368, 15_913) if device == "cuda" else (40, 300)
    everyone = crops(Q + G, 512)
    people = torch.arange(Q + G) % (G // 21)
    identities = people[:Q], people[Q:], torch.zeros(Q).long(), torch.arange(G) % 6
    query, gallery = everyone[:Q].to(device), everyone[Q:].to(device)
    ours = evaluate(query, gallery, *identities)
    exact = rank(2 - 2 * everyone[:Q].double() @ everyone[Q:].double().T, *identities)
    label = f"{Q:,} queries, gallery of {G:,}"
    yield check("mAP of embeddings against distances in float64", label, abs(ours.mAP - exact.mAP), 1e-6)
    work = {"ours": partial(evaluate, query, gallery, *identities)}
    yield from timed("ranking from embeddings", label, "queries", Q, work, device, repeats=3)


def maps(device: str) -> Iterator[Row]:
    """Check augmentation, styled norms and reflect padding on maps of the paper's networks."""
    yield from _augmentation(device)
    shapes = [(16, 256, 64, 32), (16, 64, 256, 128)] if device == "cuda" else [(2, 8, 9, 7)]
    for shape in shapes:
        for dtype, width in WIDTHS.items():
            yield from _norms_and_padding(shape, dtype, f"{'x'.join(map(str, shape))}, {width}", device)


def _augmentation(device: str) -> Iterator[Row]:
    count, batch, (H, W) = (512, 256, (256, 128)) if device == "cuda" else (6, 4, (20, 10))
    generator = np.random.default_rng(0)
    images = torch.from_numpy(generator.integers(0, 256, (count, H, W, 3), dtype=np.uint8))
    index, changes = torch.arange(batch), draw(Augmentation(), batch, generator)
    there = images.to(device), index.to(device), *changes.to(torch.device(device))
    size = f"{batch} crops, {H}x{W}"
    largest = float((sample_crops(*there).cpu() - sample_crops(images, index, *changes)).abs().max())
    yield check("sample_crops, largest difference from the CPU's op", size, largest, 1e-3)
    contenders = {"ours": partial(sample_crops, *there), "plain PyTorch": partial(sample_crops_reference, *there)}
    moved = 5 * batch * H * W * 3
    yield from timed("sample_crops", size, "crops", batch, contenders, device, calls=5, moved=moved,
                     arithmetic="fp32 matrix product")  # fmt: skip


Case = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]


def _norms_and_padding(shape: tuple[int, ...], dtype: torch.dtype, label: str, device: str) -> Iterator[Row]:
    """Check values and input gradients against float64, and time forward with backward against plain PyTorch."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype).to(device)
    x = x.contiguous(memory_format=torch.channels_last)
    scale, shift = torch.randn(2, *shape[:2], generator=torch.Generator().manual_seed(2)).to(device)

    def norm(x: Tensor, whole: bool, how: Callable[..., Tensor]) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        return how(x, scale.to(wide), shift.to(wide), slope=0.2, whole=whole)

    def pad(x: Tensor, how: Callable[..., Tensor]) -> Tensor:
        return how(x, 1, 0.2)

    cases: dict[str, Case] = {  # ours, plain PyTorch's
        "AdaIN": (partial(norm, whole=False, how=styled_norm), partial(norm, whole=False, how=plain_norm)),
        "layer norm": (partial(norm, whole=True, how=styled_norm), partial(norm, whole=True, how=plain_norm)),
        "reflect padding": (partial(pad, how=reflect_pad), partial(pad, how=reflect_pad_reference)),
    }
    allowed = 2e-6 if dtype == torch.float32 else 6e-3
    for name, (ours, plain) in cases.items():
        # In float64 ours is the definition; torch's own group norm divides by another deviation
        definition = ours if name == "layer norm" else plain
        outcome, exact = _both_ways(ours, x), _both_ways(definition, x.double())
        yield check(f"{name} against float64", label, off(outcome[0], exact[0]), allowed)
        yield check(f"gradient of {name} against float64", label, off(outcome[1], exact[1]), 20 * allowed)
        contenders = {"ours": partial(_both_ways, ours, x), "plain PyTorch": partial(_both_ways, plain, x)}
        yield from timed(f"{name}, both ways", label, "maps", shape[0], contenders, device, calls=5, moved=5 * x.nbytes,
                         arithmetic="fp32 matrix product")  # fmt: skip


def _both_ways(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    leaf = x.detach().requires_grad_()
    made = function(leaf)
    channels = torch.linspace(-1, 1, made.shape[1], dtype=made.dtype, device=made.device)
    direction = channels[:, None, None] * made.detach().sin()
    return made.detach(), torch.autograd.grad(made, leaf, direction)[0]


GROUPS = {f.__name__: f for f in (contrast, bodies, clusters, maps)}


def main() -> None:
    """Check, time and report."""
    prepare_process()  # as train.py does
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), required=True)
    parser.add_argument("--only", nargs="+", choices=list(GROUPS), default=list(GROUPS))
    options = parser.parse_args()
    for name in options.only:
        for row in GROUPS[name](options.device):
            emit(row)


if __name__ == "__main__":
    main()
