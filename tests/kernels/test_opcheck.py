"""Every registered op passes opcheck: schema, fake, autograd registration, and dynamic shapes in a traced graph.

The inputs of ops with gradients require them, so that opcheck runs the backward pass as well, eagerly and traced.
"""

import pytest
import torch
from op_calls import ARGUMENTS, registered

# Positions of the arguments by which an op with autograd is differentiated. `reflect_pad` has none of its own: an
# autograd.Function calls it and its adjoint. The other ops without autograd are backward passes, or give no gradient.
DIFFERENTIABLE = {"gather_pixels": [0], "negative_lse": [0], "rasterize": [0], "styled_norm": [0, 1, 2, 3],
                  "transfer_appearance": [0]}  # fmt: skip


@pytest.mark.parametrize("name", registered())
def test_op_passes_opcheck(name):
    op = getattr(torch.ops.gcl_fast, name).default
    arguments = [x.clone() if isinstance(x, torch.Tensor) else x for x in ARGUMENTS[name]]
    for position in DIFFERENTIABLE.get(name, ()):
        arguments[position].requires_grad_()
    torch.library.opcheck(op, arguments)


def test_gradients_are_asked_of_every_op_with_autograd():
    has_autograd = {
        name for name in registered() if torch._C._dispatch_has_kernel_for_dispatch_key(f"gcl_fast::{name}", "Autograd")
    }
    # torch.library.custom_op registers an entry for the adjoint as well, which refuses to be differentiated
    assert has_autograd - {"gather_pixels_adjoint"} == DIFFERENTIABLE.keys()
