"""Keep what has been measured on a card, and of which sources, in the JSON file that the page is made from."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from gcl_fast.atomic import write_atomically

ROOT = Path(__file__).resolve().parents[2]
MEASURED = ("gcl_fast", "kernels", "csrc")  # folders: what a figure is of


def sources(root: Path = ROOT) -> str:
    """Return a digest of the package's sources: equal digests, equal figures. Tests and texts do not count."""
    digest = hashlib.sha256()
    for folder in MEASURED:
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in (".py", ".cpp", ".cu", ".h") and not path.parent.is_symlink():
                digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


class State:
    """Holds the facts of the machine and, by "part: command", the result of each command.

    Of a command: status ("done", "failed", "timed out", "left out", "no time") and its reason, date, commit, sources;
    where it ran seconds, rows, tail (the last lines of its output, where it did not end well), shown (its output, where
    the page shows it).
    """

    def __init__(self, path: Path, card: str, facts: dict[str, Any]) -> None:
        self.path, self.card, self.facts = path, card, facts
        held: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"card": card, "commands": {}}
        self.commands: dict[str, dict[str, Any]] = held["commands"] if held["card"] == card else {}

    def done(self, key: str, digest: str) -> bool:
        """Return whether the command has ended well with these sources."""
        held = self.commands.get(key, {})
        return held.get("status") == "done" and held.get("sources") == digest

    def keep(self, key: str, result: dict[str, Any]) -> None:
        """Take the result of a command and write the file; a command that could not run replaces no figures."""
        if result["status"] in ("left out", "no time") and self.commands.get(key, {}).get("rows"):
            return
        self.commands[key] = result
        self.write()

    def write(self) -> None:
        """Write the file, whole or not at all."""
        text = json.dumps({"card": self.card, "facts": self.facts, "commands": self.commands}, indent=1) + "\n"
        write_atomically(self.path, lambda file: file.write(text.encode()))

    def rows(self) -> list[dict[str, Any]]:
        """Return all rows, each with its part and command."""
        return [
            {"part": key.split(": ")[0], "command": key.split(": ", 1)[1], **row}
            for key, result in self.commands.items()
            for row in result.get("rows", [])
        ]

    def rates(self) -> dict[str, float]:
        """Return the ceilings measured on this card, by name."""
        return {row["what"]: row["value"] for row in self.rows() if row["kind"] == "rate"}
