"""npm packages against a registry of our own: good, wrong and missing archives, and no registry the second time."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import shutil
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from unlabeled.core.contracts import RequestError
from unlabeled.core.data.npm import fetch_npm
from unlabeled.core.data.registry import cache_folder

FILE = "good-data-1.0.0.tgz"
MEMBER = "package/data/values.bin"
CONTENT = bytes(range(256)) * 40

needs_npm = pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")


def archive(canary: Path) -> bytes:
    """A package with a data file, a link, and scripts that would be seen if they ran."""
    touch = f"touch {canary}"
    scripts = dict.fromkeys(("prepare", "prepack", "postpack", "preinstall", "install", "postinstall"), touch)
    manifest = {"name": "good-data", "version": "1.0.0", "scripts": scripts}
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as tar:
        for name, content in ((MEMBER, CONTENT), ("package/package.json", json.dumps(manifest).encode())):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo("package/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(link)
    return made.getvalue()


class Registry:
    """What a registry answers for one package, and the paths it was asked for."""

    def __init__(self, tgz: bytes) -> None:
        self.tgz, self.asked, self.status = tgz, list[str](), 200
        self.host = ""

    def answer(self, path: str) -> tuple[int, str, bytes]:
        self.asked.append(path)
        if path == f"/files/{FILE}":
            return self.status, "application/octet-stream", self.tgz
        if path != "/good-data":
            return 404, "application/json", b"{}"
        integrity = "sha512-" + base64.b64encode(hashlib.sha512(self.tgz).digest()).decode()
        dist = {"tarball": f"http://{self.host}/files/{FILE}", "integrity": integrity}
        version = {"name": "good-data", "version": "1.0.0", "dist": dist}
        about = {"name": "good-data", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}
        return self.status, "application/json", json.dumps(about).encode()


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """A registry on this machine that npm is set to use; caches of our own."""
    made = Registry(archive(tmp_path / "canary"))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, kind, body = made.answer(self.path)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    for name in ("userconfig", "globalconfig"):
        monkeypatch.setenv(f"npm_config_{name}", str(tmp_path / name))
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "npm-cache"))
    monkeypatch.setenv("npm_config_fetch_retries", "0")
    for name in (
        "http_proxy",
        "https_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "npm_config_proxy",
        "npm_config_https_proxy",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("UNLABELED_CACHE", str(tmp_path / "cache"))
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        made.host = f"127.0.0.1:{http.server_address[1]}"
        monkeypatch.setenv("npm_config_registry", f"http://{made.host}/")
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield made
        http.shutdown()
        thread.join()


def get(sha256: str, member: str | None = MEMBER, version: str = "1.0.0") -> Path:
    return fetch_npm("good-data", version, FILE, sha256, member)


def digest(registry: Registry) -> str:
    return hashlib.sha256(registry.tgz).hexdigest()


@needs_npm
def test_member_and_archive_come_once_and_run_nothing(registry: Registry, tmp_path: Path) -> None:
    sha256 = digest(registry)
    assert get(sha256).read_bytes() == CONTENT
    asked = len(registry.asked)
    assert asked >= 2
    whole = get(sha256, member=None)
    assert whole == cache_folder() / sha256 / FILE and whole.read_bytes() == registry.tgz
    assert get(sha256, "package/package.json").read_bytes().startswith(b"{")
    assert get(sha256).read_bytes() == CONTENT and len(registry.asked) == asked
    assert not (tmp_path / "canary").exists()


@needs_npm
def test_another_file_is_never_opened_or_kept(registry: Registry) -> None:
    with pytest.raises(
        RequestError, match=r"good-data-1\.0\.0\.tgz from npm's registry is not the file that was checked"
    ):
        get("0" * 64)
    assert [p for p in cache_folder().rglob("*") if p.is_file()] == []


@needs_npm
@pytest.mark.parametrize("what", ["version", "status", "unreachable"])
def test_what_is_not_to_be_had(what: str, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    version = "2.0.0" if what == "version" else "1.0.0"
    registry.status = 500 if what == "status" else 200
    if what == "unreachable":
        monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9/")
    with pytest.raises(RequestError) as caught:
        get(digest(registry), version=version)
    assert str(caught.value) == (f"npm gives no {FILE} of good-data {version}; check npm's settings and the connection")


@needs_npm
def test_links_and_members_outside_are_refused(registry: Registry) -> None:
    sha256 = digest(registry)
    for member in ("package/link", "package/none"):
        with pytest.raises(RequestError, match="holds no file"):
            get(sha256, member)
    with pytest.raises(RequestError, match="would lie outside its archive"):
        get(sha256, "../outside")


def test_without_npm_the_mend_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("UNLABELED_CACHE", str(tmp_path / "cache"))
    with pytest.raises(
        RequestError, match=r"good-data comes through npm, which is not installed here; install Node\.js"
    ):
        get("0" * 64)
