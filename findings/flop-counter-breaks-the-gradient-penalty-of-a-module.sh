#!/usr/bin/env bash
# Under FlopCounterMode, autograd.grad by the input of a module raises: a GAN's R1 penalty cannot be counted.
#
# Versions: torch 2.14.1 and NumPy 2.4.6 from PyPI, Python 3.11, Linux x86-64 (torch 2.11.0 gives the same lines). No
# GPU is needed.
#
# Behaviour: the counter hooks every module that runs under it, and its hook asks the autograd engine about the input.
# The engine refuses that question for a leaf during autograd.grad. The penalty of a discriminator on real crops is such
# a gradient. The same step is counted where the input is not a leaf (crops + 0), or where the layers are called as
# functions.
#
# Output seen (gradient penalty of two convolutions, with backward):
#   without the counter: works
#   counter, module on a leaf: RuntimeError: A leaf node was passed to _will_engine_execute_node
#   counter, module on a leaf, no second derivative: RuntimeError: A leaf node was passed to _will_engine_execute_node
#   counter, module on crops + 0: 1181952 FLOPs
#   counter, functions on a leaf: 1181952 FLOPs
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.14.1 numpy==2.4.6 2>/dev/null
cat > "$folder/penalty.py" <<'PYTHON'
import re

import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.LeakyReLU(0.2), nn.Conv2d(8, 1, 3))


def functions(crops):
    """Apply the layers of the module without a call of a module."""
    first, _, last = module
    hidden = functional.leaky_relu(functional.conv2d(crops, first.weight, first.bias), 0.2)
    return functional.conv2d(hidden, last.weight, last.bias)


def penalize(discriminator, make_input, second=True):
    """Compute the squared gradient of the scores by the crops, and its own gradient if `second` is true."""
    crops = make_input(torch.ones(2, 3, 16, 16, requires_grad=True))
    (gradient,) = torch.autograd.grad(discriminator(crops).sum(), crops, create_graph=second)
    if second:
        gradient.square().sum().backward()


def leaf(crops):
    return crops


penalize(module, leaf)
print("without the counter: works")
cases = {
    "module on a leaf": (module, leaf),
    "module on a leaf, no second derivative": (module, leaf, False),
    "module on crops + 0": (module, lambda crops: crops + 0),
    "functions on a leaf": (functions, leaf),
}
for name, case in cases.items():
    try:
        with FlopCounterMode(display=False) as counter:
            penalize(*case)
        print(f"counter, {name}: {counter.get_total_flops()} FLOPs")
    except RuntimeError as error:
        message = re.match("A leaf node was passed to _will_engine_execute_node", str(error))[0]
        print(f"counter, {name}: RuntimeError: {message}")
PYTHON
"$folder/venv/bin/python" "$folder/penalty.py" 2>/dev/null | tee "$folder/seen"
diff "$folder/seen" <(sed -n 's/^#   //p' "${BASH_SOURCE[0]}") || { echo "the behaviour has changed" >&2; exit 1; }
