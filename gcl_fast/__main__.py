"""Start a command by its name: gcl-fast train, or python -m gcl_fast train.

A command is a module whose `main(arguments)` returns the exit status. It is imported when it is called, and parses its
arguments before it imports torch. So --help and a mistyped flag answer at once.
"""

from __future__ import annotations

import importlib
import sys

from gcl_fast.arguments import Parser, did_you_mean

COMMANDS = {  # name: (module, what it does)
    "data": ("gcl_fast.inspect_data", "show what is in a dataset, before hours are spent on it"),
    "crops": ("gcl_fast.crops", "cut crops from videos, by the boxes of a tracker"),
    "train": ("gcl_fast.train", "train a run: warm-up, generative and joint stage"),
    "evaluate": ("gcl_fast.evaluate", "measure retrieval and generated views of a run"),
    "embed": ("gcl_fast.embed", "write the embeddings of images"),
    "search": ("gcl_fast.search", "index a gallery, and search it by images"),
    "export": ("gcl_fast.export", "write the encoder as a file for onnxruntime or torch"),
    "report": ("gcl_fast.report", "write a page on a run: curves, ranked lists, threshold, views"),
    "compare": ("gcl_fast.compare", "set runs side by side, with intervals over seeds"),
    "generate": ("gcl_fast.generate", "draw crops from other sides"),
    "estimate": ("gcl_fast.estimate", "estimate the body parameters of crops"),
    "synthetic": ("gcl_fast.synthetic.__main__", "make the embedded dataset"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command that the first argument names, with the others, and return the exit status.

    Args:
        arguments: the name and what the command takes; None for the arguments of the process.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    width = max(map(len, COMMANDS))
    parser = Parser(
        "gcl-fast",
        "Train models that find a person in other cameras, without labels, and use them.",
        usage="gcl-fast COMMAND ...",
        epilog="commands:\n"
        + "".join(f"  {name:<{width}}  {purpose}\n" for name, (_, purpose) in COMMANDS.items())
        + "\ngcl-fast COMMAND --help lists the flags of a command.",
    )
    if not arguments or arguments[0].startswith("-"):
        parser.parse_args(arguments)  # --help and --version end here
        parser.error("name a command")
    name, *rest = arguments
    if name not in COMMANDS:
        parser.error(f"there is no command {name}{did_you_mean(name, COMMANDS)}")
    return importlib.import_module(COMMANDS[name][0]).main(rest)


if __name__ == "__main__":
    sys.exit(main())
