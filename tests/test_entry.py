"""What entries do with errors that a user can mend, and with Ctrl-C."""

import re
import subprocess
import sys

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from gcl_fast import inspect_data
from gcl_fast.arguments import Parser
from gcl_fast.entry import entry, in_one_line
from gcl_fast.errors import UserError


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (None, 0, ""),
        (UserError("no such folder"), 2, "gcl_fast: no such folder\n"),
        (KeyboardInterrupt(), 130, "gcl_fast: interrupted\n"),
    ],
)
def test_an_entry_ends_in_one_line(error, status, said, capsys):
    @entry
    def main(arguments):
        if error:
            raise error
        return len(arguments or ())

    assert main() == status
    assert capsys.readouterr().err == said


def test_other_errors_keep_their_traceback():
    @entry
    def main(arguments):
        raise ValueError(arguments)

    with pytest.raises(ValueError, match="flag"):
        main(["flag"])


@pytest.mark.parametrize("command", ["bodies.estimates", "bodies.make_anny_asset", "csrc.build", "kernels.aot"])
def test_a_package_does_not_import_its_command(command):
    """Or `python -m` would warn that the module was imported before it runs, and run it a second time."""
    package, module = f"gcl_fast.{command.partition('.')[0]}", f"gcl_fast.{command}"
    script = f"import sys, {package}; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def test_the_sentence_stands_at_the_end_of_torchrun_s_report(tmp_path, monkeypatch, capsys):
    path = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(path))

    def refuse(arguments):
        raise UserError("no crops in DIR; name another one")

    @entry
    def imports(arguments):
        with in_one_line():
            refuse(arguments)
        return 0

    parses = lambda arguments: Parser("gcl-fast train", "Train.").refuse("no crops in DIR; name another one")
    for main in (entry(refuse), imports, parses):
        path.unlink(missing_ok=True)
        try:
            status = main([])
        except SystemExit as ended:
            status = ended.code
        assert status == 2
        assert capsys.readouterr().err == "gcl_fast: no crops in DIR; name another one\n"
        failure = ProcessFailure(local_rank=0, pid=1, exitcode=2, error_file=str(path))
        report = ChildFailedError("train.py", {0: failure}).format_msg()
        *_, sentence, _ = report.splitlines()  # a line of = is the last
        assert sentence.endswith("gcl_fast: no crops in DIR; name another one")
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "absent" / "error.json"))
    assert entry(refuse)([]) == 2  # the sentence was printed; nothing more can be done


PRINTS = """
import sys
from gcl_fast.entry import entry

@entry
def main(arguments):
    for _ in range(int(sys.argv[1])):
        print("a line of output" * 99)
    return 0

sys.exit(main([]))
"""


@pytest.mark.parametrize("lines", [1, 2000])
def test_a_pipe_that_nobody_reads_is_no_traceback(lines):
    with subprocess.Popen(
        [sys.executable, "-c", PRINTS, str(lines)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 141


SAYS = """
import sys
from gcl_fast.console import say

sys.stdin.read()
for _ in range(3):
    say("a line")
print("went on", file=sys.stderr)
"""


def test_training_goes_on_when_the_reader_of_its_lines_has_gone():
    with subprocess.Popen(
        [sys.executable, "-c", SAYS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == b"went on\n"
        assert process.wait(60) == 0


def test_a_path_that_is_too_long_is_one_sentence(capsys):
    long = "x" * 300
    assert inspect_data.main([long]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"gcl_fast: /.*\.\.\.: a path of 3\d\d characters is too long", line)
