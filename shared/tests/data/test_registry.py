"""The registry against a package index of files: good, wrong, missing and hostile archives, and no network twice."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from unlabeled.core.contracts import RequestError
from unlabeled.core.data.registry import cache_folder, fetch

MEMBER = "good_data-1.0/data/values.bin"
CONTENT = bytes(range(256)) * 40


def archive(path: Path, member: str = MEMBER) -> str:
    """A source archive with one data file, a link and code that would be seen if it ran; its sha256."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in ((member, CONTENT), ("good_data-1.0/setup.py", b"raise SystemExit('ran')")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo("good_data-1.0/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(link)
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file:// index that pip is set to use, and nothing else; a cache of its own."""
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX", "PIP_CERT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    root = tmp_path / "index"
    (root / "simple" / "good-data").mkdir(parents=True)
    (root / "files").mkdir()
    monkeypatch.setenv("PIP_INDEX_URL", (root / "simple").as_uri())
    monkeypatch.setenv("UNLABELED_CACHE", str(tmp_path / "cache"))
    return root


def offer(index: Path, name: str = "good_data-1.0.tar.gz") -> str:
    """Put an archive and its page on the index; its sha256."""
    digest = archive(index / "files" / name)
    link = f'<a href="../../files/{name.replace("+", "%2B")}#sha256={digest}">{name}</a>'
    (index / "simple" / "good-data" / "index.html").write_text(f"<!DOCTYPE html><html><body>{link}<br/></body></html>")
    return digest


def get(sha256: str, member: str | None = MEMBER, filename: str = "good_data-1.0.tar.gz") -> Path:
    return fetch("Good_Data", "1.0", filename, sha256, member)


def test_member_and_archive(index: Path) -> None:
    digest = offer(index)
    assert get(digest).read_bytes() == CONTENT
    whole = get(digest, member=None)
    assert whole == cache_folder() / digest / "good_data-1.0.tar.gz"
    assert hashlib.sha256(whole.read_bytes()).hexdigest() == digest


def test_second_time_needs_no_index(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = offer(index)
    first = get(digest)
    (index / "simple" / "good-data" / "index.html").unlink()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert get(digest) == first and get(digest, "good_data-1.0/setup.py").read_bytes().startswith(b"raise")


def test_another_file_is_never_opened_or_kept(index: Path) -> None:
    offer(index)
    with pytest.raises(RequestError, match=r"good_data-1\.0\.tar\.gz from the package index is not the file") as caught:
        get("0" * 64)
    assert str(index) not in str(caught.value)
    assert [p for p in cache_folder().rglob("*") if p.is_file()] == []


@pytest.mark.parametrize("member", ["../outside", "/etc/passwd", "good_data-1.0/../../outside", "", "..\\outside"])
def test_member_outside_is_refused(member: str, index: Path, tmp_path: Path) -> None:
    digest = archive(index / "files" / "good_data-1.0.tar.gz", member or "x")
    with pytest.raises(RequestError, match="would lie outside its archive"):
        get(digest, member)
    assert not (tmp_path / "outside").exists() and not cache_folder().exists()


@pytest.mark.parametrize("member", ["good_data-1.0/link", "good_data-1.0/none", "good_data-1.0/data"])
def test_links_and_missing_members_are_refused(member: str, index: Path) -> None:
    digest = offer(index)
    with pytest.raises(RequestError, match="holds no file"):
        get(digest, member)
    assert not list((cache_folder() / digest).rglob("link"))


def test_missing_version_and_missing_package(index: Path) -> None:
    digest = offer(index)
    for package, version in (("good-data", "2.0"), ("unheard-of", "2.0")):
        with pytest.raises(RequestError) as caught:
            fetch(package, version, f"{package}-2.0.tar.gz", digest)
        assert str(caught.value) == (
            f"the package index gives no {package}-2.0.tar.gz of {package} 2.0; check pip's settings and the connection"
        )


def test_find_links_and_extra_index(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "wheels"
    folder.mkdir()
    with zipfile.ZipFile(folder / "good_data-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("data/values.bin", CONTENT)
    digest = hashlib.sha256((folder / "good_data-1.0-py3-none-any.whl").read_bytes()).hexdigest()
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_NO_INDEX", "true")
    assert get(digest, "data/values.bin", "good_data-1.0-py3-none-any.whl").read_bytes() == CONTENT
    # the first index has no such package, the second has
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", (index / "simple").as_uri())
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "empty").as_uri())
    assert get(offer(index)).read_bytes() == CONTENT


@pytest.fixture
def server(index: Path) -> Iterator[tuple[str, list[str | None]]]:
    """A real HTTP index that answers in JSON and wants a password; the authorisations it saw."""
    seen: list[str | None] = []
    digest = offer(index)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers.get("Authorization"))
            kind, body = "application/octet-stream", (index / "files" / "good_data-1.0.tar.gz").read_bytes()
            if self.path == "/simple/good-data/":
                kind = "application/vnd.pypi.simple.v1+json"
                link = {
                    "filename": "good_data-1.0.tar.gz",
                    "url": "/files/good_data-1.0.tar.gz",
                    "hashes": {"sha256": digest},
                }
                body = json.dumps({"meta": {"api-version": "1.0"}, "name": "good-data", "files": [link]}).encode()
            status = 403 if seen[-1] is None else 200
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"127.0.0.1:{http.server_address[1]}", seen
        http.shutdown()
        thread.join()


def test_json_index_with_a_password(
    server: tuple[str, list[str | None]], index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, seen = server
    digest = hashlib.sha256((index / "files" / "good_data-1.0.tar.gz").read_bytes()).hexdigest()
    monkeypatch.setenv("PIP_INDEX_URL", f"http://{host}/simple")
    with pytest.raises(RequestError, match=r"\(it answered 403\)") as caught:
        get(digest)
    # nor does a traceback name the host
    assert "127.0.0.1" not in str(caught.value) and caught.value.__context__ is None
    monkeypatch.setenv("PIP_INDEX_URL", f"http://me:p%40ss@{host}/simple/")
    assert get(digest).read_bytes() == CONTENT
    assert seen[1:] == ["Basic " + base64.b64encode(b"me:p@ss").decode()] * 2  # the page and the file


def test_unreachable_index_is_not_named(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(RequestError) as caught:
        get("0" * 64)
    assert "(it cannot be reached)" in str(caught.value) and "127.0.0.1" not in str(caught.value)
