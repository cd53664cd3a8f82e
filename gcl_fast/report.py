"""Write one self-contained HTML page on a run: gcl-fast report runs/NAME

The page holds settings, curves, clusterings, ranked lists, similarities with a threshold, a map and novel views.
"""

from __future__ import annotations

import sys
from pathlib import Path

from gcl_fast.arguments import Parser, add_run_arguments
from gcl_fast.entry import entry, in_one_line
from gcl_fast.errors import UserError
from gcl_fast.process import prepare_process


def parser() -> Parser:
    """Return the parser of the flags."""
    parser = Parser("gcl-fast report", str(__doc__))
    add_run_arguments(parser)
    parser.add_argument("--out", type=Path, metavar="FILE", help="the page to write (default: RUN/report.html)")
    parser.add_argument("--stage", help="stage whose weights are measured (default: the last finished)")
    parser.add_argument("--files-only", action="store_true", help="measure nothing: no dataset, no weights, no lists")
    return parser


@entry
def main(arguments: list[str] | None) -> int:
    """Write the page, and return the exit status."""
    options = parser().parse_args(arguments)
    prepare_process()  # may restart the process: before torch is imported
    with in_one_line():
        from gcl_fast.atomic import check_target, write_text
        from gcl_fast.reports.measured import measure
        from gcl_fast.reports.readings import read_readings
        from gcl_fast.reports.report_page import choose_stage, report_page, views_of_run
        from gcl_fast.run.restore import load_run
        from gcl_fast.run.run_files import read_run

    others = [name for name in ("dataset", "data_root", "structure_maps", "smpl") if getattr(options, name)]
    if others and options.files_only:
        raise UserError(f"--{others[0].replace('_', '-')} with --files-only: no dataset is read; leave one of them out")
    run = read_run(options.run)
    stage = choose_stage(run, options.stage)
    check_target(out := options.out or options.run / "report.html")
    readings = read_readings(run.path)
    sections = {} if options.dataset else views_of_run(run, stage)
    if not options.files_only:
        config = load_run(options)
        sections |= measure(run.path, config, stage, options.device, config.amp, draw="views" not in sections)
    page = report_page(run, stage, readings, sections)
    write_text(out, page)
    print(f"{out}: {stage} of {run.name}, {out.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
