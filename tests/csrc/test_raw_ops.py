"""Ops called past their Python faces, with arguments that would lead them out of a tensor: they raise."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gcl_fast.csrc.build import load
from gcl_fast.kernels import _sparse_rows, negative_lse  # noqa: F401 (the latter registers its op)
from gcl_fast.kernels.contrastive_draw import contrastive_draw_triton
from gcl_fast.kernels.gather_pixels import Line

load()
ops = torch.ops.gcl_fast
LABELS, INDEX, STREAM = torch.arange(9) % 3, torch.tensor([4, 0]), torch.tensor([1, 2])


def contrastive_rows(**changed: Tensor | int) -> Tensor:
    arguments = {
        "scores": torch.zeros(2, 5),
        "state": torch.zeros(2, 2),
        "labels": LABELS,
        "index": INDEX,
        "threshold": torch.zeros(2, dtype=torch.int64),
        "stream": STREAM,
        "first": 3,
        "temperature": 0.1,
    }
    return ops.contrastive_rows(*(arguments | changed).values())


def graph(start=(0, 2, 3), column=(0, 1, 1)) -> tuple[Tensor, Tensor, Tensor]:
    return torch.tensor(start), torch.tensor(column, dtype=torch.int32), torch.ones(len(column))


def rank_queries(order=(0, 1, 2), own=((0, 2), (1, 3)), distance=None) -> tuple[Tensor, Tensor, Tensor]:
    distance = torch.rand(2, 3) if distance is None else distance
    cameras = torch.arange(2), torch.full((distance.shape[1],), 7)
    return ops.rank_queries(distance, torch.tensor(order), torch.tensor(own), *cameras)


def many_nan() -> Tensor:
    """Distances of 40 matches, the more of which have no order."""
    return torch.where(torch.rand(2, 40) > 0.2, torch.nan, 1.0)


def rasterize_backward(face=0, barycentric=(1, 4, 4, 3)) -> Tensor:
    faces, face_index = torch.tensor([[0, 1, 2]]), torch.full((1, 4, 4), face, dtype=torch.int32)
    return ops.rasterize_backward(
        torch.zeros(1, 4, 4), torch.zeros(barycentric), torch.rand(1, 3, 3), faces, face_index, False
    )


def channels_last(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(shape, dtype=dtype).contiguous(memory_format=torch.channels_last)


def styled_norm_backward(moments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x, scale = channels_last(2, 3, 4, 4), torch.ones(2, 3)
    return ops.styled_norm_backward(x, x, scale, scale, moments, 1.0, False)


CASES: dict[str, tuple[Callable[[], object], str]] = {
    "draw of none": (lambda: ops.contrastive_draw(LABELS, INDEX, STREAM, 0), "num_negatives is 0"),
    "draw of fewer": (lambda: ops.contrastive_draw(LABELS, INDEX, STREAM, -3), "num_negatives is -3"),
    "draw, index": (lambda: ops.contrastive_draw(LABELS, INDEX + 5, STREAM, 2), "index 9 lies outside"),
    "rows, index": (lambda: contrastive_rows(index=INDEX[:1]), "each of the 2 rows of scores"),
    "rows, threshold": (lambda: contrastive_rows(threshold=INDEX[:1]), "each of the 2 rows of scores"),
    "rows, threshold's type": (lambda: contrastive_rows(threshold=INDEX.int()), "contiguous int64"),
    "rows, state": (lambda: contrastive_rows(state=torch.zeros(1, 2)), r"shape \(2, 2\)"),
    "rows, state's order": (lambda: contrastive_rows(state=torch.zeros(2, 2).T[:, :1].expand(2, 2)), "contiguous"),
    "rows, before the bank": (lambda: contrastive_rows(first=-1), r"first is -1, .* leave the bank's 9 rows"),
    "rows, behind the bank": (lambda: contrastive_rows(first=5), r"first is 5, .* leave the bank's 9 rows"),
    "rows, beyond all numbers": (lambda: contrastive_rows(first=2**63 - 1), "first is 9223372036854775807"),
    "rows, threshold below the keys": (
        lambda: contrastive_rows(threshold=INDEX - 5),
        r"threshold -1 lies outside 0\.\.",
    ),
    "rows, scores in one place": (lambda: contrastive_rows(scores=torch.zeros(1, 5).expand(2, 5)), "memory of its own"),
    "rows, temperature": (lambda: contrastive_rows(temperature=0.0), "temperature is 0"),
    "rows, scores": (lambda: contrastive_rows(scores=torch.zeros(5)), r"shape \(B, T\)"),
    "dbscan, column": (lambda: ops.csr_dbscan(*graph(column=(0, 2, 1)), 0.5, 2), r"a column lies outside 0\.\.1"),
    "dbscan, negative column": (lambda: ops.csr_dbscan(*graph(column=(0, -1, 1)), 0.5, 2), "a column lies outside"),
    "dbscan, start falls": (lambda: ops.csr_dbscan(*graph(start=(0, 7, 3)), 0.5, 2), "never fall"),
    "dbscan, start": (lambda: ops.csr_dbscan(*graph(start=(-4, 2, 3)), 0.5, 2), "begin at 0"),
    "expand, column": (
        lambda: ops.expand_queries(*graph(column=(0, 9, 1)), torch.zeros(2, 1, dtype=torch.int32), 0, 2),
        "expand_queries: a column lies outside",
    ),
    "jaccard, column": (lambda: ops.jaccard_rows(*graph(column=(0, 2, 1)), 0.0, 0, 2), "a column lies outside"),
    "rank, order": (lambda: rank_queries(order=(0, 3, 2)), r"order names gallery image 3, outside 0\.\.2"),
    "rank, negative order": (lambda: rank_queries(order=(0, -1, 2)), "order names gallery image -1"),
    "rank, own": (lambda: rank_queries(own=((0, 2), (1, 4))), r"the range 1\.\.4 of query 1 leaves order's 3"),
    "rank, negative own": (lambda: rank_queries(own=((-1, 2), (1, 3))), r"the range -1\.\.2 of query 0"),
    "rank, NaN": (lambda: rank_queries(range(40), ((0, 40), (0, 40)), many_nan()), "hold NaN"),
    "gradient of a face that is not there": (lambda: rasterize_backward(face=1), r"a face outside 0\.\.0"),
    "gradient of too few weights": (lambda: rasterize_backward(barycentric=(1, 4, 4)), r"\(B, H, W, 3\)"),
    "dbscan, eps": (lambda: ops.csr_dbscan(*graph(), torch.nan, 2), "eps must be a distance"),
    "dbscan, no samples": (lambda: ops.csr_dbscan(*graph(), 0.5, 0), "min_samples is 0"),
    "bank in one place": (
        lambda: ops.memory_update(torch.zeros(1, 4).expand(9, 4), INDEX, torch.rand(2, 4), 0.2),
        "memory of its own",
    ),
    "momentum": (lambda: ops.memory_update(torch.eye(9), INDEX, torch.rand(2, 9), torch.nan), r"within 0\.\.1"),
    "rank, twice": (lambda: rank_queries(order=(0, 2, 2)), "order names gallery image 2 twice"),
    "rank, backwards": (lambda: rank_queries(own=((0, 2), (3, 1))), r"the range 3\.\.1 of query 1"),
    "padding that overflows": (
        lambda: ops.reflect_pad_adjoint(channels_last(1, 2, 6, 6), None, 2**62 + 5, 1.0),
        "reflect_pad_adjoint: padding is 4611686018427387909",
    ),
    "moments": (lambda: styled_norm_backward(torch.zeros(2, 2, 2)), r"moments must be .* \(B, 2, C\)"),
}


@pytest.mark.parametrize("name", CASES)
def test_raises(name):
    call, message = CASES[name]
    with pytest.raises(RuntimeError, match=message):
        call()


def test_what_is_in_range_runs():
    """The same calls, unchanged."""
    contrastive_rows()
    ops.csr_dbscan(*graph(), 0.5, 2)
    rank_queries()
    rasterize_backward()
    styled_norm_backward(torch.zeros(2, 2, 3))


def test_a_placement_that_is_not_a_number_stays_within_the_crop():
    crops = torch.randint(256, (1, 4, 4, 3), dtype=torch.uint8)
    placement, same_colours = torch.tensor([[1.0, torch.nan, torch.inf, 0.0]]), torch.eye(3, 4).reshape(1, 12)
    sampled = ops.sample_crops(crops, torch.zeros(1, dtype=torch.int64), placement, same_colours, torch.zeros(1, 4))
    assert torch.equal(sampled, crops[:, 3:, :1].float().expand(1, 4, 4, 3))  # the last row's first pixel


@pytest.mark.parametrize(
    ("place", "message"), [((2**63 - 1, 0), "first_row is 9223"), ((0, 2**31 - 2), "first_column")]
)
def test_a_tile_stays_within_its_lists_and_columns_within_int32(place, message):
    values, indices = torch.full((3, 2), -torch.inf), torch.zeros(3, 2, dtype=torch.int32)
    with pytest.raises(RuntimeError, match=message):
        ops.merge_top_k(values, indices, torch.rand(2, 5), *place)
    assert values.isinf().all()


def test_rows_that_hold_zeros_give_each_column_once():
    start, column = torch.tensor([0, 2, 4, 6]), torch.tensor([0, 1, 0, 1, 0, 2], dtype=torch.int32)
    value = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.5, 0.5])
    neighbours = torch.tensor([[0, 1], [1, 0], [2, 0]], dtype=torch.int32)
    _, columns, values = ops.expand_queries(start, column, value, neighbours, 0, 1)
    assert (columns.tolist(), values.tolist()) == ([0, 1], [1.0, 0.0])
    _, columns, values = ops.jaccard_rows(start, column, value, 0.0, 0, 1)
    assert (columns.tolist(), values.tolist()) == ([0, 1, 2], [1.0, 1.0, pytest.approx(1 / 3)])


def test_tensors_on_two_devices_are_refused():
    with pytest.raises(ValueError, match=r"contrastive_draw: .* on one device; got .* index on meta"):
        ops.contrastive_draw(LABELS, INDEX.to("meta"), STREAM, 2)


def test_a_choice_of_pixels_lies_within_the_image():
    with pytest.raises(ValueError, match=r"sources \[-1, 2\] lie outside 0\.\.1"):
        Line.of([0, -1, 2], 2, torch.device("cpu"))
    assert Line.of([], 0, torch.device("cpu")).readers.shape == (0, 0)


def test_launchers_on_a_gpu_check_alike():
    with pytest.raises(ValueError, match="num_negatives is 0"):
        contrastive_draw_triton(LABELS, INDEX, STREAM, 0)
    for wrong, message in [
        ({"column": (0, 2, 1)}, r"dbscan: a column lies outside 0\.\.1"),
        ({"start": (0, 7, 3)}, "dbscan: start must begin at 0, never fall, and end at the 3 entries"),
        ({"start": (0, 2, 2)}, "end at the 3 entries"),
    ]:
        with pytest.raises(ValueError, match=message):
            _sparse_rows.check_rows("dbscan", *graph(**wrong))


@pytest.mark.parametrize("name", ["index", "threshold", "labels", "stream"])
def test_negative_lse_names_what_does_not_fit(name):
    tensors = {"labels": LABELS, "index": INDEX, "threshold": torch.zeros(2, dtype=torch.int64), "stream": STREAM}
    ops.negative_lse(torch.rand(2, 4), torch.rand(9, 4), *tensors.values(), 0.1)
    tensors[name] = tensors[name][1:]
    with pytest.raises(ValueError, match=rf"negative_lse: {name} must be .*got int64 \({len(tensors[name])},\)"):
        ops.negative_lse(torch.rand(2, 4), torch.rand(9, 4), *tensors.values(), 0.1)
