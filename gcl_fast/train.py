"""Train GCL, from crops without labels to a retrieval model: torchrun gcl_fast/train.py --amp

With no more arguments the embedded synthetic dataset is made and the `demo` preset is trained: minutes on a laptop.
    torchrun gcl_fast/train.py --amp --preset paper --dataset market1501 --data-root DIR --init resnet50.pth

The networks of GCL (Chen et al. 2021):
    E_id   identity encoder        crop -> embedding, by which people are retrieved, and part features
    E_str  structure encoder       structure map of a posed body -> where the body is, and how it stands
    G      generator               part features and structure -> a crop of that person in that view
    D      discriminator           tells crops from generated ones
"""

import sys
from pathlib import Path

# Run as a script, Python puts this folder first on the path, where `data`, `memory` or `evaluate` would shadow others.
sys.path[:] = [folder for folder in sys.path if Path(folder or ".").resolve() != Path(__file__).resolve().parent]

from gcl_fast.command_line import check_init, parse  # noqa: E402
from gcl_fast.entry import INTERRUPTED, entry, in_one_line  # noqa: E402
from gcl_fast.process import prepare_process  # noqa: E402


@entry
def main(arguments: list[str] | None) -> int:
    """Train the stages that the settings ask for, one after the other, and return the exit status."""
    config, resume = parse(arguments)  # first, so that --help and a wrong flag wait for no import
    check_init(config)
    prepare_process()  # may restart the process: before torch is imported

    with in_one_line():
        from gcl_fast.distributed import ranks as processes
        from gcl_fast.inputs import prepare_inputs
        from gcl_fast.run.folder import RunFolder
        from gcl_fast.run.initialize import check_networks
        from gcl_fast.run.loop import Interrupted
        from gcl_fast.run.session import Session
        from gcl_fast.stages import graphs
        from gcl_fast.stages.generative import Generative
        from gcl_fast.stages.joint import make_joint
        from gcl_fast.stages.source import Source
        from gcl_fast.stages.warmups import make_warmup

    ranks = processes.start(config.device)  # of torchrun; one without it
    try:
        graphs.choose(config, ranks)  # refuses --set cuda_graphs=on where no step can be captured
        check_networks(config)  # before data are made for minutes
        with RunFolder(config, ranks, resume) as folder:
            inputs = prepare_inputs(config, ranks, folder.finished)  # crops, and how each person stands in them
            session = Session(config, inputs, ranks, folder)  # E_id, E_str, G and D, from --init or a checkpoint

            stages = {
                # With --source: E_id learns the identities of another, labelled dataset.
                "source": Source,
                # E_id learns to tell the clusters of its own embeddings apart; clusters are made again each epoch.
                "warmup": make_warmup,
                # E_str, G and D learn to turn people: from part features of a crop and the rendered body at another
                # yaw G draws the person from there. E_id stays as it is.
                "generative": Generative,
                # All learn together: a crop, its reconstruction and its novel view are one person to E_id, whose
                # memory bank holds an embedding of each crop and their clusters. Better embeddings draw better views.
                # With joint.clusters E_id keeps the warm-up's contrast, and novel views are further queries of it.
                "joint": make_joint,
            }
            with session.interruption.watched():  # Ctrl-C and SIGTERM save a checkpoint first
                session.start()
                for name, make in stages.items():
                    if session.awaits(name):
                        stage = session.begin(name, make)
                        session.train(stage)  # epochs of plan -> batches -> step; a checkpoint every minute
                        session.assess(stage)  # retrieval on query and gallery, SSIM of novel views
        return 0
    except Interrupted as stopped:
        print(f"gcl_fast: {stopped}", file=sys.stderr, flush=True)
        return INTERRUPTED
    finally:
        processes.stop()


if __name__ == "__main__":
    sys.exit(main())
