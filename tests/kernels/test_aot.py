import pytest

triton = pytest.importorskip("triton")
from gcl_fast.kernels import aot, negative_lse  # noqa: E402


def test_every_kernel_has_an_entry(monkeypatch):
    assert aot.missing() == []
    everything = list(aot.entries("sm_90"))
    fused = [entry for entry in everything if entry.kernel is negative_lse._negative_lse_kernel]
    monkeypatch.setattr(aot, "entries", lambda _: [entry for entry in everything if entry not in fused])
    assert aot.missing() == ["_dot", "_negative_lse_kernel"]


def test_only_what_the_papers_sizes_have_is_taken_for_divisible():
    divisible: dict[str, set[str]] = {}
    for entry in aot.entries("sm_90"):
        names = {entry.kernel.arg_names[n] for (n,) in entry.source().attrs}
        numbers = {name for name in names if not entry.types[name].startswith("*")}
        divisible.setdefault(entry.kernel.fn.__name__, set()).update(numbers)
    assert divisible["_negative_lse_kernel"] == {"D", "query_stride", "bank_stride"}
    assert divisible["_memory_update_kernel"] == {"D", "bank_stride", "feature_stride"}
    assert divisible["_contrastive_draw_kernel"] == divisible["_contrastive_rows_kernel"] == set()  # 12,936 is none


def test_a_row_of_the_table():
    row = aot.compile_entry("sm_90", 0)
    assert row["kernel"] == "contrastive_draw_kernel"
    assert row["spilled_bytes"] == 0
    assert 16 <= row["registers"] <= 255
    assert 0 < row["occupancy"] <= 1


def test_a_spill_is_seen():
    entry = next(iter(aot.entries("sm_90")))
    options = {"num_warps": 4, "maxnreg": 24}
    compiled = triton.compile(entry.source(), target=aot.TARGETS["sm_90"], options=options)
    assert aot._nvidia_resources(compiled, 90)[1] > 0


def test_occupancy_is_the_scarcest_resource():
    assert aot.occupancy("sm_90", registers=32, shared=0, warps=8) == 1.0
    assert aot.occupancy("sm_90", registers=255, shared=0, warps=8) == 0.125
    assert aot.occupancy("sm_90", registers=32, shared=113 << 10, warps=8) == 0.25
