#!/usr/bin/env bash
# torch.export warns of incomplete tensors and of a package it cannot load, for files whose programs come back equal.
#
# Versions: torch 2.14.1 and NumPy 2.4.6 from PyPI, Python 3.11, Linux x86-64 (torch 2.11.0 gives the same lines). No
# GPU is needed.
#
# Behaviour: save takes a channels-last weight for a part of a tensor, since its memory is not contiguous, and warns.
# load logs "Unable to load package" for each path without the suffix .pt2, and then loads it. save accepts such a path
# with a line of its own. Memory order and values come back in all cases. Who turns warnings into errors cannot save the
# weights.
#
# Output seen (one 3x3 convolution; equal in values, memory order and result):
#   contiguous weights, file.pt2: equal
#     save: no warning
#     load: no warning
#   channels-last weights, file.pt2: equal
#     save: No complete tensor found in the group!
#     load: no warning
#   contiguous weights, file.program: equal
#     save: Expect archive file to be a file ending in .pt2
#     load: Unable to load package
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.14.1 numpy==2.4.6 2>/dev/null
cat > "$folder/export.py" <<'PYTHON'
import logging
import re
import sys
import warnings

import torch

MESSAGES = (
    "No complete tensor found in the group!",
    "Unable to load package",
    "Expect archive file to be a file ending in .pt2",
)


class Collector(logging.Handler):
    """Collects the messages of a logger."""

    def __init__(self):
        super().__init__()
        self.messages = []

    def emit(self, record):
        self.messages.append(record.getMessage())


def complaints(function, *arguments):
    """Return the result of the call, and those of MESSAGES that it warned of or logged."""
    collector, logger = Collector(), logging.getLogger("torch.export.pt2_archive._package")
    logger.addHandler(collector)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = function(*arguments)
    logger.removeHandler(collector)
    text = "\n".join([*collector.messages, *(str(warning.message) for warning in caught)])
    return result, ", ".join(message for message in MESSAGES if re.search(re.escape(message), text)) or "no warning"


crops = torch.randn(1, 3, 8, 8)
for order, name in (("contiguous", "file.pt2"), ("channels-last", "file.pt2"), ("contiguous", "file.program")):
    formats = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}
    module = torch.nn.Conv2d(3, 8, 3).to(memory_format=formats[order]).eval()
    path = f"{sys.argv[1]}/{name}"
    _, saved = complaints(torch.export.save, torch.export.export(module, (crops,)), path)
    program, loaded = complaints(torch.export.load, path)
    weight = program.state_dict["weight"]
    equal = torch.equal(weight, module.weight) and weight.stride() == module.weight.stride()
    equal = equal and torch.equal(program.module()(crops), module(crops))
    print(f"{order} weights, {name}: {'equal' if equal else 'different'}\n  save: {saved}\n  load: {loaded}")
PYTHON
"$folder/venv/bin/python" "$folder/export.py" "$folder" 2>/dev/null | tee "$folder/seen"
diff "$folder/seen" <(sed -n 's/^#   //p' "${BASH_SOURCE[0]}") || { echo "the behaviour has changed" >&2; exit 1; }
