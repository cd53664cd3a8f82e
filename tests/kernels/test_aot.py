import pytest

triton = pytest.importorskip("triton")
from gcl_fast.kernels import aot, negative_lse  # noqa: E402
from gcl_fast.kernels.cards import TARGETS  # noqa: E402

H100 = TARGETS["sm_90"].card


def test_every_kernel_has_an_entry(monkeypatch):
    assert aot.missing() == []
    everything = aot.entries(H100)
    fused = [entry for entry in everything if entry.kernel is negative_lse._negative_lse_kernel]
    monkeypatch.setattr(aot, "entries", lambda _: [entry for entry in everything if entry not in fused])
    assert aot.missing() == ["_add_rows", "_dot", "_negative_lse_kernel"]


def test_only_what_the_papers_sizes_have_is_taken_for_divisible():
    divisible: dict[str, set[str]] = {}
    for entry in aot.entries(H100):
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
    entry = aot.entries(H100)[0]
    entry.configuration["maxnreg"] = 24
    assert aot.compiled(entry, "sm_90")[2] > 0


def test_occupancy_is_the_scarcest_resource():
    assert aot.occupancy("sm_90", registers=32, shared=0, warps=8) == 1.0
    assert aot.occupancy("sm_90", registers=255, shared=0, warps=8) == 0.125
    assert aot.occupancy("sm_90", registers=32, shared=113 << 10, warps=8) == 0.25
    assert aot.occupancy("sm_86", registers=32, shared=0, warps=1) == 16 / 48  # blocks
    assert aot.occupancy("gfx1100", registers=100, shared=0, warps=8) == 0.75  # 120 of them are given out


@pytest.mark.parametrize(
    ("target", "registers", "shared", "warps"),
    [("sm_75", 64, (64 << 10) + 1, 4), ("sm_86", 64, 100 << 10, 4), ("sm_90", 166, 0, 16)],
)
def test_no_block_of_a_launch_that_asks_for_too_much(target, registers, shared, warps):
    assert aot.occupancy(target, registers, shared, warps) == 0


def test_spills_launches_that_do_not_fit_and_forgotten_kernels_fail():
    good, spills, large = ({"spilled_bytes": b, "occupancy": o} for b, o in ((0, 0.5), (8, 0.5), (0, 0.0)))
    assert aot.verdict([good], []) == ("0 spill, 0 do not fit", 0)
    assert aot.verdict([good, spills], []) == ("1 spill, 0 do not fit", 1)
    assert aot.verdict([good, large], []) == ("0 spill, 1 do not fit", 1)
    assert aot.verdict([good], ["_k"]) == ("0 spill, 0 do not fit; no entry: ['_k']", 1)


def test_only_cards_with_matrix_units_for_float32_take_the_fused_route():
    for name, target in TARGETS.items():
        fused = [entry for entry in aot.entries(target.card) if entry.kernel is negative_lse._negative_lse_kernel]
        assert bool(fused) == (name not in ("sm_75", "gfx1100")), name
