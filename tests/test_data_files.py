import gzip
import hashlib
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from tacit.data import files
from tacit.data.files import File
from tacit.errors import InputError, MissingDataError

TEXT = b"63,1,1\n" * 400
NOWHERE = "http://127.0.0.1:9/nothing"  # the discard port, where nobody listens


def file_at(url: str) -> File:
    return File("set/rows.data", len(TEXT), hashlib.sha256(TEXT).hexdigest(), url)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.delenv("TACIT_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tacit"


@pytest.fixture
def home():
    """A public home on this machine: ``pages`` maps paths to bytes, ``asked`` lists requests."""
    site = SimpleNamespace(pages={}, asked=[])

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            site.asked.append(self.path)
            body = site.pages.get(self.path)
            if self.path == "/garbage":
                self.wfile.write(b"no status line\r\n\r\n")
                return
            self.send_response(404 if body is None else 200)
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        # A client that has read enough hangs up.
        server.handle_error = lambda *_: None
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        site.url = f"http://127.0.0.1:{server.server_port}"
        yield site
        server.shutdown()
        thread.join()


def left_behind(cache) -> list[str]:
    return [path.name for path in cache.rglob("*") if path.is_file()]


@pytest.mark.parametrize("page", ["/rows.data", "/rows.data.gz"])
def test_a_file_is_fetched_once_checked_and_kept_uncompressed(home, cache, page):
    home.pages[page] = gzip.compress(TEXT) if page.endswith(".gz") else TEXT
    file = file_at(home.url + page)
    for _ in range(2):
        assert files.contents("rows", [file]) == [TEXT]
    assert home.asked == [page]
    assert (cache / "set" / "rows.data").read_bytes() == TEXT
    assert left_behind(cache) == ["rows.data"]


@pytest.mark.parametrize(
    ("page", "body"),
    [
        ("/other", TEXT[:-2] + b"0\n"),
        ("/longer", TEXT + b"1"),
        ("/bomb.gz", gzip.compress(bytes(10_000_000))),
        ("/torn.gz", gzip.compress(TEXT)[:-20]),
        ("/text.gz", TEXT),
    ],
    ids=["other", "longer", "bomb", "torn", "text"],
)
def test_what_is_not_the_published_file_is_refused_and_nothing_kept(home, cache, page, body):
    home.pages[page] = body
    with pytest.raises(InputError, match=r"is not the published file|not a whole gzip file"):
        files.contents("rows", [file_at(home.url + page)])
    assert left_behind(cache) == []


def test_an_unfinished_write_leaves_nothing_behind(home, cache, monkeypatch):
    home.pages["/rows"] = TEXT

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(MissingDataError, match="No space left on device"):
        files.fetch("rows", [file_at(home.url + "/rows")])
    assert left_behind(cache) == []


def test_offline_one_sentence_says_both_ways():
    with pytest.raises(MissingDataError) as caught:
        files.contents("rows", [file_at(NOWHERE)])
    message = str(caught.value)
    assert "set TACIT_DATA to a folder that holds set/rows.data" in message
    assert "run `tacit data fetch rows`" in message
    assert "\n" not in message


@pytest.mark.parametrize(("page", "reason"), [("/gone", "404"), ("/garbage", "no status line")])
def test_a_home_that_does_not_answer_counts_as_offline(home, page, reason):
    with pytest.raises(MissingDataError, match=reason):
        files.fetch("rows", [file_at(home.url + page)])


@pytest.mark.parametrize("packed", [False, True])
def test_the_named_folder_comes_first(tmp_path, monkeypatch, packed):
    monkeypatch.setenv("TACIT_DATA", str(tmp_path))
    (tmp_path / "set").mkdir()
    path = tmp_path / "set" / ("rows.data.gz" if packed else "rows.data")
    path.write_bytes(gzip.compress(TEXT) if packed else TEXT)
    assert files.contents("rows", [file_at(NOWHERE)]) == [TEXT]
    assert files.fetch("rows", [file_at(NOWHERE)]) == [path]


def test_a_changed_file_in_the_folder_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("TACIT_DATA", str(tmp_path))
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "rows.data").write_bytes(TEXT + b"\n")
    with pytest.raises(InputError, match="not the published file"):
        files.contents("rows", [file_at(NOWHERE)])


@pytest.mark.parametrize("page", ["/rows", "/rows.gz"])
def test_a_download_is_bounded_by_the_published_size(home, page):
    # One byte more than published is enough to know; the rest is neither read nor decompressed.
    body = TEXT + bytes(50_000_000)
    home.pages[page] = gzip.compress(body) if page.endswith(".gz") else body
    file = replace(file_at(home.url + page), sha256=hashlib.sha256(TEXT + b"\0").hexdigest())
    [path] = files.fetch("rows", [file])
    assert path.read_bytes() == TEXT + b"\0"
