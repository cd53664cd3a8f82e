"""Train GCL, from crops without labels to a retrieval model: torchrun gcl_fast/train.py --amp

With no more arguments the embedded synthetic dataset is made and the `demo` preset is trained: minutes on a laptop.
    torchrun gcl_fast/train.py --amp --preset paper --dataset market1501 --data-root DIR --init resnet50.pth
"""

import sys
from pathlib import Path

# Run as a script, Python puts this folder first on the path, where `data`, `memory` or `evaluate` would shadow others.
sys.path[:] = [folder for folder in sys.path if Path(folder or ".").resolve() != Path(__file__).resolve().parent]

from gcl_fast.entry import INTERRUPTED, entry, in_one_line  # noqa: E402
from gcl_fast.process import prepare_process  # noqa: E402


@entry
def main(arguments: list[str] | None) -> int:
    """Read the settings, then train the stages one after the other. Returns the exit status."""
    prepare_process()  # may restart the process: before torch is imported

    with in_one_line():
        from gcl_fast.command_line import parse
        from gcl_fast.distributed import ranks as processes
        from gcl_fast.run.loop import Interrupted
        from gcl_fast.run.run import Run

    config, resume = parse(arguments)
    try:
        with Run(config, processes.start(config.device), resume) as run:
            for stage in config.stages:
                run.train(stage)
        return 0
    except Interrupted as stopped:
        print(f"gcl_fast: {stopped}", file=sys.stderr, flush=True)
        return INTERRUPTED
    finally:
        processes.stop()


if __name__ == "__main__":
    sys.exit(main())
