#!/usr/bin/env bash
# DALI says of one unreadable image that its pipeline is no longer valid, and the next run delivers the next batch.
#
# Versions: nvidia-dali-cuda130 2.4.0, Pillow 13.0.0, NumPy 2.4.6 from PyPI, Python 3.11, Linux x86-64. No GPU is
# needed.
#
# Behaviour: the default executor loses the batch with the image and goes on, so that a caller who catches the error
# reads the rest of the data. With exec_dynamic=False every later run raises the first error again. The message is the
# same in both. The image is a valid GIF here, a format that DALI does not read.
#
# Output seen (five batches of one grey image, whose level is read back; the second is the GIF):
#   default: 10, RuntimeError: Current pipeline object is no longer valid., 30, 40, 50
#   exec_dynamic=False: 10, then four times RuntimeError: Current pipeline object is no longer valid.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    nvidia-dali-cuda130==2.4.0 pillow==13.0.0 numpy==2.4.6 2>/dev/null
cat > "$folder/read.py" <<'PYTHON'
import io

import numpy as np
from nvidia.dali import fn, pipeline_def
from PIL import Image


def encoded(level, file_format):
    """Return the file of a grey image as a (bytes,) uint8 array."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (level, level, level)).save(file, file_format)
    return np.frombuffer(file.getvalue(), np.uint8)


images = [encoded(level, "GIF" if level == 20 else "PNG") for level in (10, 20, 30, 40, 50)]


@pipeline_def(batch_size=1, num_threads=1, device_id=None, prefetch_queue_depth=1)
def decode():
    return fn.decoders.image(fn.external_source(source=[[image] for image in images], cycle=True), device="cpu")


for name, settings in (("default", {}), ("exec_dynamic=False", {"exec_dynamic": False})):
    pipeline, results = decode(**settings), []
    pipeline.build()
    for _ in images:
        try:
            (batch,) = pipeline.run()
            results.append(str(np.asarray(batch[0]).max()))
        except RuntimeError as error:
            results.append(f"RuntimeError: {str(error).strip().splitlines()[-1]}")
    if len(set(results[1:])) == 1:  # one error for every later run
        results[1:] = [f"then four times {results[1]}"]
    print(f"{name}: {', '.join(results)}")
PYTHON
"$folder/venv/bin/python" "$folder/read.py" 2>/dev/null | tee "$folder/seen"
diff "$folder/seen" <(sed -n 's/^#   //p' "${BASH_SOURCE[0]}") || { echo "the behaviour has changed" >&2; exit 1; }
