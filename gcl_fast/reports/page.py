"""Fill the templates of the pages, and write files completely or not at all.

Every text that comes from a run or a dataset is escaped. A page loads nothing: its policy admits images that it holds
itself, and the one script whose digest it names.
"""

from __future__ import annotations

import base64
import hashlib
import tempfile
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from gcl_fast.atomic import write_atomically
from gcl_fast.errors import UserError

ASSETS = Path(__file__).parent / "assets"


def render(template: str, **content: Any) -> str:
    """Return a page.

    Args:
        template: name of a file in assets/.
        content: what the template shows. Only `Markup` stays as it is; any other text is escaped.
    """
    environment = Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (ASSETS / "page.js").read_text()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template(template).render(
        style=Markup((ASSETS / "page.css").read_text()),
        script=Markup(script),
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'",
        **content,
    )


def check_target(path: Path) -> None:
    """Check before the long work that `path` can be written; nothing is made.

    Raises:
        UserError: it is a folder, or the folder that it goes to cannot be written.
    """
    if path.is_dir():
        raise UserError(f"--out {path} is a folder; name a file in it")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"cannot write {path}: {folder} ({error.strerror}); choose another place with --out") from error


def write_text(path: Path, text: str) -> None:
    """Write a file completely or not at all.

    Raises:
        UserError: it cannot be written.
    """
    try:
        # A file name may hold bytes that are no UTF-8: they become question marks
        write_atomically(path, lambda file: file.write(text.encode(errors="replace")))
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}); choose another place with --out") from error
