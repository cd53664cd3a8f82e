"""What entries do with errors that a user can mend, and with Ctrl-C."""

import subprocess
import sys

import pytest

from gcl_fast.entry import entry
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
