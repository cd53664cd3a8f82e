"""The page finds matches; it serves nothing but itself and the images of the index, and to this machine alone."""

import http.client
import io
import json
import threading
from contextlib import contextmanager
from http import HTTPStatus

import numpy as np
import pytest
from driven_browser import BROWSER, DrivenPage
from PIL import Image

from gcl_fast.data import Records
from gcl_fast.errors import UserError
from gcl_fast.gallery import open_index, server, write_index
from gcl_fast.gallery.index import Maker
from gcl_fast.gallery.server import GalleryServer, serve

HOSTILE = "<img src=x onerror=document.title='broken_out'>.jpg"


@contextmanager
def serving(index, model):
    with GalleryServer(index, model, 0) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield running
        finally:
            running.shutdown()
            thread.join()


@pytest.fixture
def running(folder, model):
    with serving(open_index(folder), model) as running:
        yield running


def ask(running, method, path, body=None, **headers):
    """Return the status, the headers and the body of an answer; the path goes out as it is."""
    connection = http.client.HTTPConnection("127.0.0.1", running.server_port, timeout=10)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, answer.headers, content


def sentence(answer):
    return answer[0], json.loads(answer[2])["error"]


def encoded(colour, size=(64, 128), **options):
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, **({"format": "PNG"} | options))
    return file.getvalue()


def test_it_listens_on_this_machine_alone(running):
    assert running.server_address[0] == "127.0.0.1"
    assert running.url == f"http://127.0.0.1:{running.server_port}/"


def test_the_page_loads_nothing_from_elsewhere(running):
    status, headers, page = ask(running, "GET", "/")
    assert status == 200
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'nonce-")
    nonce = policy.partition("'nonce-")[2].partition("'")[0].encode()
    assert page.count(b'nonce="' + nonce + b'"') == 2
    assert b"http://" not in page
    assert b"https://" not in page
    assert nonce not in ask(running, "GET", "/")[2]  # another one each time


def test_a_search_by_an_image_equals_that_of_the_index(running, model):
    status, _, content = ask(running, "POST", "/search?k=3", encoded((195, 40, 35)))
    assert status == 200
    row = model.embed([np.full((1, 1, 3), (195, 40, 35))]).numpy()
    (expected,) = running.index.search(row, 3)
    assert json.loads(content) == [match._asdict() for match in expected]
    assert json.loads(content)[0]["name"] == "0001_c1s1_000001_00.jpg"


def test_a_search_by_a_row_and_by_camera(running):
    found = json.loads(ask(running, "POST", "/search?row=0&k=5")[2])
    assert [match["row"] for match in found][:2] == [0, 1]
    found = json.loads(ask(running, "POST", "/search?row=0&camera=2")[2])
    assert [match["row"] for match in found] == [1, 4]


def test_images_are_served_by_row_as_small_jpegs(running, crops):
    Image.new("RGB", (1000, 2000), (9, 200, 9)).save(crops.paths[2])
    status, headers, content = ask(running, "GET", "/image/2")
    assert (status, headers["Content-Type"]) == (200, "image/jpeg")
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    image = Image.open(io.BytesIO(content))
    assert (image.format, image.size) == ("JPEG", (200, 400))
    assert np.abs(np.asarray(image).mean((0, 1)) - (9, 200, 9)).max() < 3


ELSEWHERE = (
    "/image/6 /image/-1 /image/0/ /image/0?x /image/../../etc/passwd /image/%2e%2e/x /image/0001_c1s1_000001_00.jpg"
    " /../manifest.json //etc/passwd /assets/page.html /image/ /image/999999999999999999999 /index.html"
)


@pytest.mark.parametrize("path", ELSEWHERE.split())
def test_nothing_else_is_served(running, path):
    assert ask(running, "GET", path)[0] == 404
    assert ask(running, "POST", path, encoded("red"))[0] == 404


def test_a_link_to_another_kind_of_file_gives_nothing_away(running, crops, tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    crops.paths[0].unlink()
    crops.paths[0].symlink_to(tmp_path / "secret.txt")
    answer = ask(running, "GET", "/image/0")
    assert sentence(answer) == (404, "this image of the gallery does not decode")


def test_an_image_that_is_gone_or_broken_is_named(running, crops):
    assert sentence(ask(running, "GET", "/image/5"))[0] == 404
    assert sentence(ask(running, "POST", "/search?row=5")) == (404, "this image of the gallery does not decode")
    crops.paths[0].unlink()
    status, text = sentence(ask(running, "GET", "/image/0"))
    assert status == 404
    assert "0001_c1s1_000001_00.jpg any more" in text


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:{}", 200),
        ("LOCALHOST:{}", 200),
        ("evil.example:{}", 403),
        ("127.0.0.1.evil.example:{}", 403),
        ("127.0.0.1", 403),  # another port
        ("", 403),
    ],
)
def test_a_name_that_leads_here_is_refused(running, host, status):
    """DNS rebinding: a page of evil.example whose name is changed to 127.0.0.1."""
    host = host.format(running.server_port)
    assert ask(running, "GET", "/", Host=host)[0] == status
    assert ask(running, "POST", "/search?row=0", Host=host)[0] == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://127.0.0.1:{}", "Sec_Fetch_Site": "same-origin"}, 200),
        ({"Origin": "http://localhost:{}"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "same-site"}, 403),  # another port of this machine
    ],
)
def test_requests_of_other_sites_are_refused(running, headers, status):
    headers = {name: value.format(running.server_port) for name, value in headers.items()}
    assert ask(running, "POST", "/search?k=1", encoded("red"), **headers)[0] == status
    assert ask(running, "GET", "/image/0", **headers)[0] == status


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "HEAD"])
def test_other_methods_are_refused(running, method):
    assert ask(running, method, "/")[0] == HTTPStatus.NOT_IMPLEMENTED


def test_images_that_cannot_be_searched_for(running, monkeypatch):
    post = lambda body, path="/search", **headers: sentence(ask(running, "POST", path, body, **headers))
    assert post(b"no image") == (415, "this does not decode as JPEG, PNG, BMP, WEBP or TIFF")
    assert post(b"") == (415, "this does not decode as JPEG, PNG, BMP, WEBP or TIFF")
    assert post(encoded("red", size=(200, 100))[:-200])[0] == 415
    assert post(encoded("red", format="GIF"))[0] == 415
    assert post(b"", Content_Length="99999999") == (413, "the image is larger than 16 MB")
    assert post(b"", Content_Length="-1")[0] == 411
    monkeypatch.setattr(server, "PIXELS", 100)
    assert post(encoded("red"))[0] == 413


def test_an_error_of_the_model_is_answered_and_logged(running, monkeypatch, caplog):
    monkeypatch.setattr(running.model, "embed", None, raising=False)
    assert sentence(ask(running, "POST", "/search", encoded("red"))) == (
        500,
        "the search failed; the terminal says why",
    )
    assert "NoneType" in caplog.text


@pytest.mark.parametrize("query", ["k=0", "k=6", "k=x", "k=-1", "camera=x", "row=6", "row=-1", "k=1e1"])
def test_numbers_out_of_range_are_named(running, query):
    status, text = sentence(ask(running, "POST", f"/search?{query}", encoded("red")))
    assert status == 400
    assert text.startswith(f"{query.partition('=')[0]} must be a number from")


def test_a_port_in_use_is_one_sentence(running):
    with pytest.raises(
        UserError, match=f"port {running.server_port}: address already in use; choose another by --port"
    ):
        GalleryServer(running.index, running.model, running.server_port)


def test_control_c_ends_it_cleanly(folder, model, monkeypatch, capsys):
    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(GalleryServer, "serve_forever", interrupted)
    serve(open_index(folder), model, 0)
    assert capsys.readouterr().out.startswith("http://127.0.0.1:")


@pytest.mark.skipif(BROWSER is None, reason="Chromium is not installed")
def test_the_page_in_a_browser(crops, model, tmp_path):
    hostile = crops.paths[1].rename(crops.paths[1].with_name(HOSTILE))
    paths = [crops.paths[0], hostile, *crops.paths[2:]]
    records = Records(crops.root, paths, crops.identity, crops.camera, crops.frame)
    write_index(tmp_path / "index", [model.embed(paths).numpy()], records, Maker(model.digest, model.size, "runs/X"))
    (tmp_path / "query.png").write_bytes(encoded((195, 40, 35)))
    (tmp_path / "broken.png").write_bytes(b"no image")
    names = "[...document.querySelectorAll('.name')].map(e => e.textContent)"
    with (
        serving(open_index(tmp_path / "index"), model) as running,
        DrivenPage(running.url, tmp_path / "profile") as page,
    ):
        page.wait_for("document.querySelectorAll('#cameras button').length == 4")
        assert "6 images of" in page.run("document.querySelector('#facts').textContent")

        page.choose_file("#file", tmp_path / "query.png")
        page.wait_for("document.querySelectorAll('.card').length == 5")
        row = model.embed([tmp_path / "query.png"]).numpy()
        (expected,) = running.index.search(row, 5)
        assert page.run(names) == [f"{place}. {match.name}" for place, match in enumerate(expected, 1)]
        assert page.run("document.querySelector('.facts').textContent") == f"{expected[0].cosine:.3f}camera 1"
        assert HOSTILE in page.run(names)[1]
        assert page.run("document.title") == "Gallery search"
        page.wait_for("[...document.querySelectorAll('img')].every(image => image.complete && image.naturalWidth)")

        page.run("document.querySelector('#group').click()")
        headings = "[...document.querySelectorAll('h2')].map(e => e.textContent)"
        assert page.run(headings) == ["Camera 1 2 of 5", "Camera 2 2 of 5", "Camera 3 1 of 5"]

        page.run("document.querySelectorAll('#cameras button')[2].click()")
        page.wait_for("document.querySelectorAll('.card').length == 2")
        assert page.run(headings) == ["Camera 2 2 of 2"]

        page.run("document.querySelectorAll('.card')[1].click()")  # a search by that image, within its camera
        page.wait_for("location.hash == '#row=4'")
        page.wait_for(f"{names}[0] == '1. 0003_c2s1_000005_00.jpg'")

        page.choose_file("#file", tmp_path / "broken.png")
        text = page.wait_for("document.querySelector('#note.alarm')?.textContent")
        assert text == "this does not decode as JPEG, PNG, BMP, WEBP or TIFF"
        assert page.run("document.querySelectorAll('.card').length") == 0
