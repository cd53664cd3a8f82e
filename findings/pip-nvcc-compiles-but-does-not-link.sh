#!/usr/bin/env bash
# pip's nvcc compiles but does not link by itself: it looks for its libraries in lib64, and pip's packages install into lib.
#
# Versions: nvidia-cuda-nvcc 13.0.88, nvidia-cuda-runtime 13.0.96, nvidia-nvvm 13.0.88, nvidia-cuda-crt 13.0.88,
# nvidia-cuda-cccl 13.0.85, from PyPI, Linux x86-64. No GPU is needed.
#
# Behaviour: `nvcc -c` works. `nvcc FILE.cu -o PROGRAM` ends in ld's "cannot find -lcudart_static". With -L of the lib
# folder the static runtime links. The shared runtime does not, since the package holds libcudart.so.13 and no
# libcudart.so; -l:libcudart.so.13 names it.
#
# Output seen:
#   compile: works
#   link: cannot find -lcudart_static
#   link with -L lib, static runtime: works
#   link with -L lib, -lcudart: cannot find -lcudart
#   link with -L lib, -l:libcudart.so.13: works
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check nvidia-cuda-nvcc==13.0.88 nvidia-cuda-runtime==13.0.96 \
    nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-cuda-cccl==13.0.85 2>/dev/null
home=$(echo "$folder"/venv/lib/python3*/site-packages/nvidia/cu13)
nvcc=$home/bin/nvcc
cat > "$folder/one.cu" <<'CUDA'
__global__ void one(int* out) { *out = 1; }
int main() { int* out = nullptr; cudaMalloc(&out, sizeof(int)); return 0; }
CUDA

attempt() {  # attempt NAME COMMAND...: one line on whether it works, or which library the linker misses
    local name=$1
    shift
    if "$@" > "$folder/log" 2>&1; then
        echo "$name: works"
    else
        echo "$name: $(grep -o 'cannot find -l[a-z_]*' "$folder/log" | grep -v cudadevrt | head -n 1)"
    fi
}

attempt "compile" "$nvcc" -c "$folder/one.cu" -o "$folder/one.o" | tee "$folder/seen"
{
    attempt "link" "$nvcc" "$folder/one.cu" -o "$folder/a"
    attempt "link with -L lib, static runtime" "$nvcc" "$folder/one.cu" "-L$home/lib" -o "$folder/b"
    attempt "link with -L lib, -lcudart" g++ "$folder/one.o" "-L$home/lib" -lcudart -o "$folder/c"
    attempt "link with -L lib, -l:libcudart.so.13" g++ "$folder/one.o" "-L$home/lib" -l:libcudart.so.13 -o "$folder/d"
} | tee -a "$folder/seen"

diff "$folder/seen" <(sed -n 's/^#   //p' "${BASH_SOURCE[0]}") || { echo "the behaviour has changed" >&2; exit 1; }
