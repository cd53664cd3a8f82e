#!/usr/bin/env bash
# torch.compiler.is_exporting() is true under torch.compile in torch 2.11: compiled code takes the branch for export.
#
# Versions: torch 2.11.0 and 2.14.1 with NumPy 2.4.6 from PyPI, Python 3.11, Linux x86-64. No GPU is needed.
#
# Behaviour: the documentation promises true for torch.export alone, in both versions. torch.compile of 2.11 puts the
# constant true in place of the call. A module that leaves its fast kernel out of an exported file therefore compiles
# without the kernel as well. The results stay right, and no message appears. A flag that is read outside the compiled
# region and passed in as an argument is right in both versions.
#
# Output seen:
#   torch 2.11.0
#     eager: False
#     torch.compile: True
#     torch.export: True
#     torch.compile, asked outside: False
#   torch 2.14.1
#     eager: False
#     torch.compile: False
#     torch.export: True
#     torch.compile, asked outside: False
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/flag.py" <<'PYTHON'
import torch


class Flag(torch.nn.Module):
    """Returns whether its code is exported, as a tensor that survives every kind of tracing."""

    def forward(self, x):
        return x + 1 if torch.compiler.is_exporting() else x


class Passed(torch.nn.Module):
    """Asks outside the compiled region, and passes the answer on."""

    def __init__(self):
        super().__init__()
        self.compiled = torch.compile(lambda x, exporting: x + 1 if exporting else x, backend="eager", fullgraph=True)

    def forward(self, x):
        return self.compiled(x, torch.compiler.is_exporting())


zero = torch.zeros(1)
print(f"torch {torch.__version__.partition('+')[0]}")
print(f"  eager: {bool(Flag()(zero))}")
print(f"  torch.compile: {bool(torch.compile(Flag(), backend='eager', fullgraph=True)(zero))}")
print(f"  torch.export: {bool(torch.export.export(Flag(), (zero,)).module()(zero))}")
print(f"  torch.compile, asked outside: {bool(Passed()(zero))}")
PYTHON
for version in 2.11.0 2.14.1; do
    python3.11 -m venv "$folder/venv"
    "$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
        "torch==$version" numpy==2.4.6 2>/dev/null
    "$folder/venv/bin/python" "$folder/flag.py" 2>/dev/null
    rm -r "$folder/venv"
done | tee "$folder/seen"
diff "$folder/seen" <(sed -n 's/^#   //p' "${BASH_SOURCE[0]}") || { echo "the behaviour has changed" >&2; exit 1; }
