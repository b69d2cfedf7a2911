"""Downloads: the right file whole, or nothing and the reason."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from test_datasets import MODULE, write_mp_20

from unimat_lib.crystals.table import SPLITS
from unimat_lib.datasets import mp_20
from unimat_lib.datasets.mp_20 import download
from unimat_lib.datasets.preparation import load_dataset, prepare_dataset
from unimat_lib.datasets.report import DataError, git_blob_id

CONTENT = b"a,b\n1,2\n" * 100


@pytest.fixture
def server(monkeypatch):
    """A web server on this machine: what ``pages`` says, and every kind of misbehaviour."""
    pages = {"/train.csv": CONTENT}
    closing = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            pages["asked"] = pages.get("asked", 0) + 1
            kind, _, rest = self.path[1:].partition("/")
            if kind == "redirect":
                self.send_response(302)
                self.send_header("Location", rest)
                self.end_headers()
                return
            body = pages.get(self.path, CONTENT if kind in ("cut", "silent") else None)
            if kind == "silent":
                closing.wait(600)
            if kind == "garbage":
                self.wfile.write(b"\0\0 this is no HTTP\n" * 10)
                return
            self.send_response(200 if body else 404)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write((body or b"")[: 50 if kind == "cut" else None])

        def log_message(self, *args):
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *args):  # a client that has enough is no failure
            pass

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    httpd = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}", pages
    closing.set()
    httpd.shutdown()
    httpd.server_close()


@pytest.mark.parametrize("way", ["/train.csv", "/redirect//train.csv", "/redirect/{url}/train.csv"])
def test_download_is_checked_and_kept(server, tmp_path, way):
    url, _ = server
    target = tmp_path / "sub" / "train.csv"
    download(url + way.format(url=url), target, blob=git_blob_id(CONTENT))
    assert target.read_bytes() == CONTENT
    assert [p.name for p in target.parent.iterdir()] == ["train.csv"]


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        ("/train.csv", "git blob id 0000 expected, but [0-9a-f]{40} came .*800 bytes.*Try again"),
        ("/cut", "Nothing was kept. Try again"),
        ("/absent.csv", "cannot be downloaded.*404.*UNIMAT_DATA"),
        ("/silent", "timed out.*Nothing was kept"),
        ("/garbage", "cannot be downloaded"),
        ("/redirect/{file}", "No connection adapters.*file://"),
        ("/redirect/ftp://127.0.0.1/a", "No connection adapters.*ftp://"),
        ("/redirect/redirect/redirect", "cannot be downloaded"),
        ("{file}", "No connection adapters"),
        ("ftp://127.0.0.1/a", "No connection adapters"),
        ("no address", "cannot be downloaded"),
        ("http://127.0.0.1:1/a", "cannot be downloaded"),
    ],
)
def test_failed_downloads_leave_nothing(server, tmp_path, monkeypatch, page, reason):
    monkeypatch.setattr(mp_20, "TIMEOUT", 0.5 if page == "/silent" else 120)
    secret = tmp_path / "secret.csv"
    secret.write_bytes(CONTENT)
    url = page.format(file=secret.as_uri())
    if url.startswith("/"):
        url = server[0] + url
    target = tmp_path / "new" / "train.csv"
    blob = "0000" if page == "/train.csv" else git_blob_id(CONTENT)
    with pytest.raises(DataError, match=reason):
        download(url, target, blob=blob)
    assert server[1].get("asked", 0) < 50  # not for ever in a circle
    assert list(target.parent.iterdir()) == []


def test_a_failed_download_keeps_the_file_that_was_there(server, tmp_path):
    target = tmp_path / "train.csv"
    target.write_text("old")
    with pytest.raises(DataError):
        download(f"{server[0]}/cut", target, blob=git_blob_id(CONTENT))
    assert target.read_text() == "old"


def test_mp_20_is_downloaded_when_no_folder_is_given(server, tmp_path, monkeypatch):
    url, pages = server
    monkeypatch.delenv("UNIMAT_DATA", raising=False)
    write_mp_20(tmp_path / "public", source=False)
    entries = {}
    for split in SPLITS:
        pages[f"/{split}.csv"] = (tmp_path / "public" / f"{split}.csv").read_bytes()
        blob = git_blob_id(pages[f"/{split}.csv"])
        entries[split] = {"url": f"{url}/{split}.csv", "git_blob": blob, "rows": 3}
    monkeypatch.setattr(f"{MODULE}.mp_20.manifest", lambda: {"mp_20": {"files": entries}})
    table = load_dataset("mp_20", cache_dir=tmp_path / "c", workers=1)
    assert len(table) == 9
    pages.clear()  # a second time nothing is fetched
    prepare_dataset("mp_20", cache_dir=tmp_path / "c", workers=1)
