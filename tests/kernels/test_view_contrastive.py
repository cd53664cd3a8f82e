import pytest
import torch
from torch.nn.functional import normalize

from gcl_fast.kernels import negative_lse as lse
from gcl_fast.kernels.contrastive_draw import contrastive_draw
from gcl_fast.kernels.view_contrastive import view_contrastive, view_contrastive_reference

TEMPERATURE = 0.04


def case(B: int, N: int, D: int, K: int, clusters: int = 6, bank_dtype=torch.float32, device: str = "cpu") -> tuple:
    """Arguments of the loss; labels -1..clusters-1, repeated rows and exact ties of similarity included."""
    generator = torch.Generator().manual_seed(B + N + D)
    bank = normalize(torch.randn(N, D, generator=generator), dim=1).to(bank_dtype)
    bank[N // 2 :: 3] = bank[N // 2].clone()
    f, f_new = (normalize(torch.randn(B, D, generator=generator), dim=1) for _ in range(2))
    labels = torch.randint(-1 if clusters > 1 else 0, clusters, (N,), generator=generator)
    index, stream = torch.randint(N, (B,), generator=generator), torch.tensor([1, 2])
    positives, threshold = contrastive_draw(labels, index, stream, K)
    tensors = f, f_new, bank, labels, index, positives, threshold, stream
    return *(tensor.to(device) for tensor in tensors), TEMPERATURE


def loss_and_gradients(loss, arguments, dtype=torch.float32, **switches) -> list[torch.Tensor]:
    f, f_new = (x.detach().to(dtype).requires_grad_() for x in arguments[:2])
    bank = arguments[2].to(dtype) if dtype == torch.float64 else arguments[2]
    rows = loss(f, f_new, bank, *arguments[3:], **switches)
    weight = torch.arange(1, len(rows) + 1, dtype=dtype, device=rows.device)
    return [rows, *torch.autograd.grad((rows * weight).sum() / max(len(rows), 1), (f, f_new))]


def assert_as_exact_as_torch(ours, plain, truth) -> None:
    for mine, theirs, exact in zip(ours, plain, truth, strict=True):
        if exact.numel():
            error, allowed = (mine.cpu() - exact).abs().max(), (theirs - exact).abs().max()
            assert error <= 2 * allowed + 2e-6 * (1 + exact.abs().max()), (error, allowed)


SIZES = [(1, 1, 1, 5), (3, 2, 7, 1), (16, 300, 64, 8192), (70, 1100, 512, 200), (5, 3000, 2048, 1000), (0, 9, 4, 3)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "switches", [{}, {"live": True}, {"own_negatives": True}, {"live": True, "own_negatives": True}]
)
def test_matches_reference(size, switches, device):
    arguments = case(*size)
    ours = loss_and_gradients(view_contrastive, case(*size, device=device), **switches)
    assert all(tensor.device.type == device for tensor in ours)
    plain = loss_and_gradients(view_contrastive_reference, arguments, **switches)
    truth = loss_and_gradients(view_contrastive_reference, arguments, torch.float64, **switches)
    assert_as_exact_as_torch(ours, plain, truth)


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("own_negatives", [False, True])
def test_is_the_formula_of_the_paper(live, own_negatives):
    """One crop after the other, every row of another cluster a negative."""
    f, f_new, bank, labels, index, positives, *_ = arguments = case(6, 40, 8, 1000)
    rows = view_contrastive(*arguments, live=live, own_negatives=own_negatives)

    def term(query, positive, negatives):
        positive, negatives = (query @ positive / 0.04).exp(), (negatives / 0.04).exp().sum()
        return -(positive / (positive + negatives)).log()

    for b, i in enumerate(index.tolist()):
        others = bank[[n for n in range(40) if (n != i if labels[i] < 0 else labels[n] != labels[i])]]
        p, p_new = bank[positives[b]]
        expected = term(f_new[b], f[b] if live else bank[i], others @ f_new[b])
        expected += term(f_new[b], p_new, others @ f_new[b])
        expected += term(f[b], p, others @ (f[b] if own_negatives else f_new[b]))
        torch.testing.assert_close(rows[b], expected, rtol=1e-5, atol=1e-5)


def test_crop_without_negatives_adds_nothing(device):
    rows, *gradients = loss_and_gradients(view_contrastive, case(4, 20, 8, 5, clusters=1, device=device))
    assert (rows == 0).all()
    assert all((gradient == 0).all() for gradient in gradients)


def test_tiles_do_not_change_the_result(device):
    _, query, bank, labels, index, _, *draw = case(9, 500, 33, 100, device=device)
    whole = lse.negative_lse_tiled(query, bank, labels, index, *draw, tile=500)
    for tile in (1, 77, 499):
        for ours, theirs in zip(
            lse.negative_lse_tiled(query, bank, labels, index, *draw, tile=tile), whole, strict=True
        ):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_bf16_bank_autocast_and_strides(device):
    arguments = case(16, 300, 64, 100, bank_dtype=torch.bfloat16, device=device)
    truth = loss_and_gradients(view_contrastive_reference, arguments, torch.float64)
    spread = lambda x: torch.stack((x, x), -1)[..., 0]  # not contiguous
    strided = tuple(spread(x) if n in (0, 1, 3, 4, 5, 6) else x for n, x in enumerate(arguments))
    with torch.autocast(device, torch.bfloat16):
        ours = loss_and_gradients(view_contrastive, strided)
    assert ours[0].dtype == torch.float32
    for mine, exact in zip(ours, truth, strict=True):
        torch.testing.assert_close(mine.double(), exact, rtol=1e-5, atol=1e-5)
    half = loss_and_gradients(view_contrastive, arguments, torch.bfloat16)
    assert half[1].dtype == torch.bfloat16
    torch.testing.assert_close(half[0].double(), truth[0], rtol=0.02, atol=0.1)


def test_nan_propagates(device):
    f, f_new, *rest = case(3, 50, 8, 10, device=device)
    f_new[1, 2] = torch.nan
    assert view_contrastive(f, f_new, *rest).isnan().tolist() == [False, True, False]
    query, bank, labels, index, _, *draw = f_new, *rest
    assert lse.negative_lse(query, bank, labels, index, *draw).isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("switch", [False, True])
def test_gradcheck_in_double(switch):
    f, f_new, bank, *rest = case(3, 12, 5, 4)
    f, f_new = (x.double().requires_grad_() for x in (f, f_new))
    loss = lambda f, f_new: view_contrastive(f, f_new, bank.double(), *rest, live=switch, own_negatives=switch)
    assert torch.autograd.gradcheck(loss, (f, f_new))


def test_opcheck_and_fullgraph_compile(device):
    _, query, bank, labels, index, _, *draw = arguments = case(5, 90, 16, 30, device=device)
    for order in (query, query.T.contiguous().T):
        torch.library.opcheck(torch.ops.gcl_fast.negative_lse, (order.requires_grad_(), bank, labels, index, *draw))
    scores = torch.randn(5, 40, device=device)
    state = torch.tensor([[-torch.inf, 0.0]], device=device).repeat(5, 1)
    tile = scores, state, labels, index, *draw[:2], 50, TEMPERATURE
    torch.library.opcheck(torch.ops.gcl_fast.contrastive_rows, tile)
    compiled = torch.compile(view_contrastive, fullgraph=True)
    for ours, theirs in zip(*(loss_and_gradients(f, arguments) for f in (compiled, view_contrastive)), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_bad_input_is_named():
    f, f_new, bank, labels, index, *rest = case(3, 12, 5, 4)
    with pytest.raises(ValueError, match=r"labels \(11,\)"):
        view_contrastive(f, f_new, bank, labels[1:], index, *rest)
    with pytest.raises(ValueError, match="int64"):
        view_contrastive(f, f_new, bank, labels, index.int(), *rest)
    with pytest.raises(ValueError, match="bank on meta"):
        view_contrastive(f, f_new, bank.to("meta"), labels, index, *rest)
    with pytest.raises(ValueError, match="rows must be contiguous"):
        view_contrastive(f, f_new, bank.T.contiguous().T, labels, index, *rest)
    for wrong in (index + 12, index - 12):
        with pytest.raises(ValueError, match=r"view_contrastive: index .* outside 0\.\.11"):
            view_contrastive(f, f_new, bank, labels, wrong, *rest)
    positives, *rest = rest
    with pytest.raises(ValueError, match=r"view_contrastive: positives .* outside 0\.\.11"):
        view_contrastive(f, f_new, bank, labels, index, positives - 12, *rest)
