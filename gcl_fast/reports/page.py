"""Fill the templates of the pages.

Every text that comes from a run or a dataset is escaped. A page loads nothing: its policy admits images that it holds
itself, and the one script whose digest it names.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

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
