"""Read a page of the report as a browser would, for the tests."""

from html.parser import HTMLParser
from pathlib import Path

from driven_browser import DrivenPage

HOSTILE = "<img src=x onerror=\"document.title='broken out'\">"  # a part of a file name that is an element of HTML


class Page(HTMLParser):
    """Holds the elements of a page, its text, and its ranked lists."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.lists: list[tuple[dict[str, str | None], list[dict[str, str]]]] = []  # attributes, entries
        self._figure: dict[str, str] | None = None
        self.feed(text)

    @property
    def text(self) -> str:
        """The text that a reader sees."""
        return " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.elements.append((tag, values))
        if tag == "li" and "data-ap" in values:
            self.lists.append((values, []))
        kind = (values.get("class") or "").removeprefix("crop ")
        if tag == "figure" and kind in ("match", "other", "junk"):
            self._figure = {"kind": kind, "place": values["data-place"], "caption": ""}
            self.lists[-1][1].append(self._figure)
        if tag == "img" and self._figure is not None:
            self._figure["name"] = values["alt"].partition(": ")[2].rpartition(", camera")[0]

    def handle_endtag(self, tag):
        if tag == "figure":
            self._figure = None

    def handle_data(self, data):
        self.texts.append(data)
        if self._figure is not None:
            self._figure["caption"] += data


def open_in_browser(path: Path, profile: Path, fragment: str = "") -> str:
    """Open a file in headless Chromium, let its script run, and return the elements that are there then."""
    with DrivenPage(path.absolute().as_uri() + fragment, profile) as page:
        page.wait_for("location.href != 'about:blank' && document.readyState == 'complete'")
        return page.run("document.documentElement.outerHTML")
