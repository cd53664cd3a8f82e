#!/usr/bin/env bash
# torchrun starts each rank in a session of its own: signals to its process group do not reach the ranks.
#
# Versions: torch 2.14.1 from PyPI, Python 3.11, Linux x86-64. No GPU is needed.
#
# Behaviour: `kill -- -GROUP` with the process group of torchrun, as schedulers, `timeout` and shells send it, ends
# torchrun alone at once where the signal cannot be caught. The ranks go on without a launcher, and keep their GPU.
#
# Output seen:
#   sessions: 3 for torchrun and two ranks
#   process groups: 3
#   after SIGKILL to the process group of torchrun: 2 ranks go on
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.4.6 2>/dev/null
cat > "$folder/rank.py" <<'PYTHON'
import os
import sys
import time
from pathlib import Path

own = Path(sys.argv[1]) / f"rank{os.environ['RANK']}"
own.with_suffix(".tmp").write_text(str(os.getpid()))
own.with_suffix(".tmp").replace(own)
time.sleep(120)
PYTHON
cat > "$folder/watch.py" <<'PYTHON'
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

folder = Path(sys.argv[1])
launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
command = [*launcher, str(folder / "rank.py"), str(folder)]
torchrun = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
files = [folder / f"rank{rank}" for rank in range(2)]
deadline = time.monotonic() + 120
while not all(file.exists() for file in files) and time.monotonic() < deadline:
    time.sleep(0.1)
ranks = [int(file.read_text()) for file in files]
print(f"sessions: {len({os.getsid(pid) for pid in (torchrun.pid, *ranks)})} for torchrun and two ranks")
print(f"process groups: {len({os.getpgid(pid) for pid in (torchrun.pid, *ranks)})}")
os.killpg(os.getpgid(torchrun.pid), signal.SIGKILL)
torchrun.wait()
time.sleep(3)
alive = [pid for pid in ranks if Path(f"/proc/{pid}").exists() and ") Z " not in Path(f"/proc/{pid}/stat").read_text()]
print(f"after SIGKILL to the process group of torchrun: {len(alive)} ranks go on")
for pid in alive:
    os.kill(pid, signal.SIGKILL)
PYTHON
"$folder/venv/bin/python" "$folder/watch.py" "$folder" | tee "$folder/output"
diff "$folder/output" - <<'EXPECTED'
sessions: 3 for torchrun and two ranks
process groups: 3
after SIGKILL to the process group of torchrun: 2 ranks go on
EXPECTED
