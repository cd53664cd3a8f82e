#!/usr/bin/env bash
# Fused optimizers of torch on the CPU pair a weight and its state by their order in memory, without a check.
#
# Versions: torch 2.14.1 from PyPI, Python 3.11, Linux x86-64 (2.11.0 gives the same lines). No GPU is needed.
#
# Behaviour: a state that was saved under a contiguous 4-D weight and is loaded under the same weight in channels-last
# memory keeps its own order. The plain implementation then takes the same step as before. The fused one takes another,
# in silence: Optimizer.load_state_dict casts dtype and device of a state, and not its memory order.
#
# Output seen (largest difference of the weights after one step from the loaded state):
#   Adam plain: equal
#   Adam fused: differs
#   AdamW plain: equal
#   AdamW fused: differs
#   SGD with momentum plain: equal
#   SGD with momentum fused: differs
#   Adagrad plain: equal
#   Adagrad fused: differs
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.4.6 2>/dev/null
cat > "$folder/steps.py" <<'PYTHON'
import functools

import torch

KINDS = {
    "Adam": torch.optim.Adam,
    "AdamW": torch.optim.AdamW,
    "SGD with momentum": functools.partial(torch.optim.SGD, momentum=0.9),
    "Adagrad": torch.optim.Adagrad,
}


def after_two_steps(kind, fused, second_order):
    """The weight after a step in contiguous memory and, from the loaded state, one in `second_order`."""
    value, state = torch.arange(48.0).view(4, 3, 2, 2) / 48, None
    for seed, order in ((1, torch.contiguous_format), (2, second_order)):
        weight = torch.nn.Parameter(value.contiguous(memory_format=order))
        optimizer = kind([weight], lr=0.1, fused=fused)
        if state is not None:
            optimizer.load_state_dict(state)
        weight.grad = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(seed)).contiguous(memory_format=order)
        optimizer.step()
        value, state = weight.detach(), optimizer.state_dict()
    return value


for name, kind in KINDS.items():
    for how, fused in (("plain", False), ("fused", True)):
        same, other = (after_two_steps(kind, fused, order) for order in (torch.contiguous_format, torch.channels_last))
        print(f"{name} {how}: {'equal' if torch.allclose(same, other) else 'differs'}")
PYTHON
"$folder/venv/bin/python" "$folder/steps.py" 2>/dev/null | tee "$folder/seen"
diff "$folder/seen" <(sed -n 's/^#   //p' "${BASH_SOURCE[0]}") || { echo "the behaviour has changed" >&2; exit 1; }
