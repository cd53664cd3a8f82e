"""Serve a page on this machine, which shows the matches of a gallery for an image that is dropped on it.

The server listens on 127.0.0.1. It serves the page and the images of the index, which a request names by their row.
An image goes out as a JPEG made from its pixels: no other file can leave, whatever a name or a link leads to.
"""

from __future__ import annotations

import io
import json
import logging
import re
import secrets
import threading
from collections import Counter
from functools import cached_property
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

import numpy as np
from PIL import Image
from torch import Tensor

from gcl_fast.data.broken_images import FORMATS, UNREADABLE
from gcl_fast.data.pillow_decoder import open_rgb, rgb
from gcl_fast.errors import UserError
from gcl_fast.gallery.index import Index

log = logging.getLogger(__name__)

ADDRESS = "127.0.0.1"
HOSTS = (ADDRESS, "localhost")
UPLOAD = 16 << 20  # bytes of an image that is sent
PIXELS = 50_000_000  # of an image that is sent: some kilobytes can hold more than memory does
SHOWN = 400  # pixels of the longer side of an image that is served
POLICY = (  # the page loads nothing from elsewhere, and no other page frames it
    "default-src 'none'; script-src 'nonce-NONCE'; style-src 'nonce-NONCE'; connect-src 'self'; img-src 'self' blob:;"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
DEFAULT_K, MOST = 24, 200  # matches of a query


class Embedder(Protocol):
    """Embeds images in memory, as `gcl_fast.inference.model.Model` does."""

    def embed(self, images: Any) -> Tensor:
        """Return (N, D) float32 unit rows."""
        ...


class Refusal(Exception):
    """Holds the status and the sentence of an answer to a request that is refused."""

    def __init__(self, status: HTTPStatus, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class GalleryServer(ThreadingHTTPServer):
    """Serves the page of an index.

    Args:
        index: of the gallery.
        model: embeds the images that are sent; the one that made the rows.
        port: 0 takes a free one.

    Raises:
        UserError: the port is in use, or not permitted.
    """

    def __init__(self, index: Index, model: Embedder, port: int) -> None:
        self.index, self.model = index, model
        self.lock = threading.Lock()  # one search at a time: more would share the same cores
        try:
            super().__init__((ADDRESS, port), _Handler)
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise UserError(
                f"port {port}: {why}; choose another by --port, or --port 0 for any that is free"
            ) from error
        self.hosts = {f"{name}:{self.server_port}" for name in HOSTS}
        self.hosts |= set(HOSTS) if self.server_port == 80 else set()
        self.origins = {f"http://{host}" for host in self.hosts}

    @property
    def url(self) -> str:
        """Return the address of the page."""
        return f"http://{ADDRESS}:{self.server_port}/"

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Return what the page says about the index."""
        index = self.index
        return {
            "images": len(index),
            "unreadable": index.unreadable,
            "folder": index.folder.name,
            "root": str(index.root),
            "model": index.maker.path,
            "digest": index.maker.digest,
            "k": min(DEFAULT_K, len(index) - index.unreadable),
            "most": min(MOST, len(index) - index.unreadable),
            "upload": UPLOAD,
            "cameras": sorted(Counter(index.cameras.tolist()).items()),
        }

    def search(self, row: np.ndarray, k: int, camera: int | None) -> list[dict[str, Any]]:
        """Return the matches of a unit row (D,) in the form of JSON."""
        with self.lock:
            (matches,) = self.index.search(row[None], k, camera)
        return [match._asdict() for match in matches]

    def embed(self, data: bytes) -> np.ndarray:
        """Return the unit row (D,) of an image file.

        Raises:
            Refusal: it does not decode, or is too large.
        """
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if image.width * image.height > PIXELS:
                    raise Refusal(
                        HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the image has more than {PIXELS // 10**6} million pixels"
                    )
                pixels = rgb(image).numpy()
        except UNREADABLE as error:
            kinds = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
            raise Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"this does not decode as {kinds}") from error
        with self.lock:
            return self.model.embed([pixels]).numpy()[0]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log that a browser went away, for debugging alone."""
        log.debug("a request ended early", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server: GalleryServer
    server_version, sys_version = "gcl-fast", ""
    timeout = 30  # seconds that a browser may be silent

    def do_GET(self) -> None:
        """Answer with the page, the facts of the index, or an image of it."""
        self._answer(self._get)

    def do_POST(self) -> None:
        """Answer a search with its matches."""
        self._answer(self._post)

    def _get(self) -> tuple[str, bytes]:
        if self.path == "/":
            return "text/html; charset=utf-8", _page(self.nonce)
        if self.path == "/facts":
            return _json(self.server.facts)
        if match := re.fullmatch(r"/image/(\d{1,12})", self.path):
            return "image/jpeg", self._image(int(match[1]))
        raise Refusal(HTTPStatus.NOT_FOUND, "there is nothing here; the page is at /")

    def _post(self) -> tuple[str, bytes]:
        address = urlsplit(self.path)
        if address.path != "/search":
            raise Refusal(HTTPStatus.NOT_FOUND, "there is nothing here; searches go to /search")
        fields = {name: values[-1] for name, values in parse_qs(address.query).items()}
        k = _number(fields, "k", self.server.facts["k"], 1, self.server.facts["most"])
        camera = _number(fields, "camera", -1, 0, 2**31 - 1) if "camera" in fields else None
        if "row" in fields:
            row = self.server.index.rows[_number(fields, "row", 0, 0, len(self.server.index) - 1)]
            if np.isnan(row).any():
                raise Refusal(HTTPStatus.NOT_FOUND, "this image of the gallery does not decode")
        else:
            row = self.server.embed(self._body())
        return _json(self.server.search(row, k, camera))

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"\d{1,12}", length):
            raise Refusal(HTTPStatus.LENGTH_REQUIRED, "send one image, with its Content-Length")
        if int(length) > UPLOAD:
            raise Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the image is larger than {UPLOAD >> 20} MB")
        return self.rfile.read(int(length))

    def _image(self, row: int) -> bytes:
        """Return the image in a row as JPEG, made smaller where it is large."""
        if row >= len(self.server.index):
            raise Refusal(HTTPStatus.NOT_FOUND, f"the index has {len(self.server.index)} images")
        try:
            image = open_rgb(self.server.index.path(row))
        except UserError as error:
            raise Refusal(HTTPStatus.NOT_FOUND, str(error)) from error
        except UNREADABLE as error:
            raise Refusal(HTTPStatus.NOT_FOUND, "this image of the gallery does not decode") from error
        image.thumbnail((SHOWN, SHOWN))
        file = io.BytesIO()
        image.save(file, format="JPEG", quality=90)
        return file.getvalue()

    def _answer(self, find: Any) -> None:
        """Send what `find` returns, or its refusal."""
        self.nonce = secrets.token_urlsafe(16)  # marks the page's own script and style
        status = HTTPStatus.OK
        try:
            self._refuse_strangers()
            kind, content = find()
        except Refusal as refusal:
            status = refusal.status
            kind, content = _json({"error": str(refusal)})
        except Exception:
            log.exception("a request failed")
            status = HTTPStatus.INTERNAL_SERVER_ERROR
            kind, content = _json({"error": "the search failed; the terminal says why"})
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "private, max-age=60" if kind == "image/jpeg" else "no-store")
        self.send_header("Content-Security-Policy", POLICY.replace("NONCE", self.nonce))
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(content)

    def _refuse_strangers(self) -> None:
        """Refuse a request that another site made a browser send.

        Its own name may lead to 127.0.0.1 (DNS rebinding), but then it stands in the Host header.
        """
        if self.headers.get("Host", "").lower() not in self.server.hosts:
            raise Refusal(HTTPStatus.FORBIDDEN, f"this page is at {self.server.url} alone")
        origin, site = self.headers.get("Origin"), self.headers.get("Sec-Fetch-Site")
        foreign = origin is not None and origin.lower() not in self.server.origins
        if foreign or (site not in (None, "same-origin", "none") and self.path != "/"):  # a link to the page is fine
            raise Refusal(HTTPStatus.FORBIDDEN, "another site sent this request")

    def log_message(self, format: str, *args: Any) -> None:
        """Log a request for debugging alone, as a terminal would fill with images."""
        log.debug(format, *args)


def _json(value: Any) -> tuple[str, bytes]:
    return "application/json", json.dumps(value).encode()


def _page(nonce: str) -> bytes:
    """Return the page, with the mark that its own script and style carry."""
    page = files("gcl_fast.gallery").joinpath("assets", "page.html").read_text(encoding="utf-8")
    return page.replace("NONCE", nonce).encode()


def _number(fields: dict[str, str], name: str, default: int, low: int, high: int) -> int:
    """Return a whole number of a request, low..high."""
    text = fields.get(name, str(default))
    if not re.fullmatch(r"\d{1,12}", text) or not low <= int(text) <= high:
        raise Refusal(HTTPStatus.BAD_REQUEST, f"{name} must be a number from {low} to {high}")
    return int(text)


def serve(index: Index, model: Embedder, port: int) -> None:
    """Serve the page until Ctrl-C.

    Args:
        index: of the gallery.
        model: the one that made its rows.
        port: 0 takes a free one.

    Raises:
        UserError: the port is in use, or not permitted.
    """
    with GalleryServer(index, model, port) as server:
        print(f"{server.url}  (Ctrl-C ends it)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            log.info("the page has ended")
