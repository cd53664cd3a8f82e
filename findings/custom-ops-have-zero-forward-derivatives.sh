#!/usr/bin/env bash
# torch.func.jvp of a custom op with a registered backward is zero, in silence, and opcheck finds no fault with the op.
#
# Versions: torch 2.14.1 and NumPy 2.4.6 from PyPI, Python 3.11, Linux x86-64 (torch 2.11.0 gives the same lines). No
# GPU is needed.
#
# Behaviour: torch.library.custom_op knows no forward formula. Forward-mode derivatives through the op are zeros without
# a warning, where an autograd.Function without a forward formula raises. torch.autograd.functional.jvp is right, since
# it runs the backward twice. torch.func.grad and vjp refuse the op and ask for a setup_context, which the op has.
#
# Output seen (derivatives of x * x at 1, 2, 3, which are 2, 4, 6):
#   backward of the op: [2.0, 4.0, 6.0]
#   autograd.functional.jvp of the op: [2.0, 4.0, 6.0]
#   func.jvp of the op: [0.0, 0.0, 0.0]
#   func.jacfwd of the op, diagonal: [0.0, 0.0, 0.0]
#   func.jvp of the autograd.Function: NotImplementedError
#   func.vjp of the autograd.Function: [2.0, 4.0, 6.0]
#   func.vjp of the op: RuntimeError: it must override the setup_context staticmethod
#   opcheck of the op, 4 checks: SUCCESS
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.4.6 2>/dev/null
cat > "$folder/derivatives.py" <<'PYTHON'
import re

import torch


@torch.library.custom_op("finding::square", mutates_args=())
def square(x: torch.Tensor) -> torch.Tensor:
    return x * x


def setup_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def backward(ctx, gradient):
    (x,) = ctx.saved_tensors
    return 2 * x * gradient


square.register_fake(torch.empty_like)
square.register_autograd(backward, setup_context=setup_context)


class Square(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return x * x

    setup_context = staticmethod(setup_context)
    backward = staticmethod(backward)


def gradient_of_the_sum():
    leaf = x.clone().requires_grad_()
    square(leaf).sum().backward()
    return leaf.grad


x, ones = torch.tensor([1.0, 2.0, 3.0]), torch.ones(3)
derivatives = {
    "backward of the op": gradient_of_the_sum,
    "autograd.functional.jvp of the op": lambda: torch.autograd.functional.jvp(square, x, ones)[1],
    "func.jvp of the op": lambda: torch.func.jvp(square, (x,), (ones,))[1],
    "func.jacfwd of the op, diagonal": lambda: torch.func.jacfwd(square)(x).diagonal(),
    "func.jvp of the autograd.Function": lambda: torch.func.jvp(Square.apply, (x,), (ones,))[1],
    "func.vjp of the autograd.Function": lambda: torch.func.vjp(Square.apply, x)[1](ones)[0],
    "func.vjp of the op": lambda: torch.func.vjp(square, x)[1](ones)[0],
}
for name, derivative in derivatives.items():
    try:
        print(f"{name}: {derivative().tolist()}")
    except NotImplementedError:
        print(f"{name}: NotImplementedError")
    except RuntimeError as error:
        print(f"{name}: RuntimeError: {re.search('it must override the setup_context staticmethod', str(error))[0]}")
results = torch.library.opcheck(square, (x.clone().requires_grad_(),))
print(f"opcheck of the op, {len(results)} checks: {', '.join(sorted(set(results.values())))}")
PYTHON
"$folder/venv/bin/python" "$folder/derivatives.py" 2>/dev/null | tee "$folder/seen"
diff "$folder/seen" <(sed -n 's/^#   //p' "${BASH_SOURCE[0]}") || { echo "the behaviour has changed" >&2; exit 1; }
