#!/usr/bin/env bash
# A compiler flag that contains the letters "arch", such as -Dsearch_width=8, makes torch ignore TORCH_CUDA_ARCH_LIST.
#
# Versions: torch 2.14.1, setuptools 80.9.0, ninja 1.13.0, NumPy 2.4.6 from PyPI, Python 3.11, Linux x86-64. No GPU is
# needed.
#
# Behaviour: the extension builder of torch takes any nvcc flag with these letters for a choice of architectures, and
# adds none. -march=native for the host compiler, an include path below a folder "research" and a macro "search" are
# such flags. nvcc then compiles for its default architecture alone. No message says so. TORCH_CUDA_ARCH_LIST is set to
# 9.0 here.
#
# Output seen (architectures in the build file that torch.utils.cpp_extension.load writes for one .cu file):
#   no flag: -gencode=arch=compute_90,code=sm_90
#   -O3: -gencode=arch=compute_90,code=sm_90
#   -DSEARCH_WIDTH=8: -gencode=arch=compute_90,code=sm_90
#   -Dsearch_width=8: none
#   -I/opt/research/include: none
#   -Xcompiler -march=native: none
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    torch==2.14.1 setuptools==80.9.0 ninja==1.13.0 numpy==2.4.6 2>/dev/null
mkdir "$folder/cuda"
echo "int one() { return 1; }" > "$folder/one.cu"
cat > "$folder/build.py" <<'PYTHON'
import contextlib
import re
import sys
from pathlib import Path

from torch.utils.cpp_extension import load

folder = Path(sys.argv[1])
choices = ("", "-O3", "-DSEARCH_WIDTH=8", "-Dsearch_width=8", "-I/opt/research/include", "-Xcompiler -march=native")
for number, flags in enumerate(choices):
    build = folder / f"build{number}"
    build.mkdir()
    settings = {"extra_cuda_cflags": flags.split(), "build_directory": str(build), "with_cuda": True}
    with contextlib.suppress(RuntimeError):  # the CUDA folder has no nvcc: the build file is what counts
        load(f"one{number}", [str(folder / "one.cu")], **settings)
    architectures = re.findall(r"-gencode\S+", (build / "build.ninja").read_text())
    print(f"{flags or 'no flag'}: {' '.join(architectures) or 'none'}")
PYTHON
CUDA_HOME="$folder/cuda" TORCH_CUDA_ARCH_LIST=9.0 PATH="$folder/venv/bin:$PATH" \
    "$folder/venv/bin/python" "$folder/build.py" "$folder" 2>/dev/null | tee "$folder/seen"
diff "$folder/seen" <(sed -n 's/^#   //p' "${BASH_SOURCE[0]}") || { echo "the behaviour has changed" >&2; exit 1; }
