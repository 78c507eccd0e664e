"""img2dataset itself, in an environment of its own, downloading from a server of this process.

It cannot share the product's (it would be resolved back to a release of 2022), so its environment
lies in `.tools`, beside uv, named by version, and is made by the first run that wants it.
"""

from __future__ import annotations

import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

VERSION = "1.47.0"
# setuptools: it imports pkg_resources, which later ones no longer have
PACKAGES = (f"img2dataset=={VERSION}", "setuptools<81")
TOOLS = Path(__file__).parents[2] / ".tools"
INSTALL_SECONDS = 180
RUN_SECONDS = 240

_DOWNLOAD = (
    "import json, sys; from img2dataset import download; download(**json.loads(sys.argv[1]))"
)


def environment() -> Path:
    """The interpreter that has img2dataset. Skips the test where it cannot be installed."""
    home = TOOLS / f"img2dataset-{VERSION}-py{sys.version_info[0]}.{sys.version_info[1]}"
    python = home / "bin" / "python"
    if python.exists():
        return python
    # made under another name: a run that was stopped leaves no half of one, two make one each
    made = TOOLS / f"{home.name}-{uuid.uuid4().hex}.tmp"
    try:
        if (why := _install(made)) is not None:
            pytest.skip(f"img2dataset {VERSION} cannot be installed here: {why}")
        # an interpreter may move, its scripts may not: none of those is used
        if not python.exists():
            made.rename(home)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return python


def _install(home: Path) -> str | None:
    """Make the environment, with uv or else with pip; why not, where neither can."""
    uv, python = TOOLS / "bin" / "uv", home / "bin" / "python"
    ways = [
        (
            [uv, "venv", "-q", "--clear", "--python", sys.executable, home],
            [uv, "pip", "install", "-q", "--python", python, *PACKAGES],
        ),
        (
            [sys.executable, "-m", "venv", "--clear", home],
            [python, "-m", "pip", "install", "-q", *PACKAGES],
        ),
    ]
    why = ""
    only_pip = not uv.exists() or "PIP_NO_INDEX" in os.environ  # uv has no such setting
    for commands in ways[1:] if only_pip else ways:
        try:
            for command in commands:
                subprocess.run(
                    command,
                    env=_with_settings_of_pip(os.environ),
                    check=True,
                    capture_output=True,
                    text=True,
                    timeout=INSTALL_SECONDS,
                )
        except subprocess.TimeoutExpired:
            return f"not done after {INSTALL_SECONDS} s"
        except subprocess.CalledProcessError as error:
            # uv knows the settings of pip in the environment; pip knows those in its files too
            why = (error.stderr.strip() or f"exit code {error.returncode}").splitlines()[-1]
        else:
            return None
    return why


def _with_settings_of_pip(given: Mapping[str, str]) -> dict[str, str]:
    """An environment in which uv takes packages from where pip would."""
    same = {
        "PIP_FIND_LINKS": "UV_FIND_LINKS",
        "PIP_INDEX_URL": "UV_INDEX_URL",
        "PIP_EXTRA_INDEX_URL": "UV_EXTRA_INDEX_URL",
        "PIP_CONSTRAINT": "UV_CONSTRAINT",
        "PIP_CERT": "SSL_CERT_FILE",
    }
    return {uv: given[pip] for pip, uv in same.items() if given.get(pip)} | dict(given)


def download(
    files: Mapping[str, bytes], rows: Sequence[tuple[str, str]], folder: Path, **options: Any
) -> None:
    """Let img2dataset fetch pictures into a folder.

    Args:
        files: path -> bytes of what the server has; any other path is a 404.
        rows: (path, caption) of each row asked for.
        folder: where it writes its tars, parquet files and stats.
        options: more of `img2dataset.download`.
    """
    python = environment()
    table = folder.parent / f"{folder.name}.jsonl"
    folder.mkdir(parents=True)
    with _serving(files) as base:
        table.write_text(
            "".join(json.dumps({"url": base + path, "caption": text}) + "\n" for path, text in rows)
        )
        given = {
            "url_list": str(table),
            "input_format": "jsonl",
            "url_col": "url",
            "caption_col": "caption",
            "output_folder": str(folder),
            "output_format": "webdataset",
            "processes_count": 1,
            "thread_count": 4,
            # bytes as the server has them
            "resize_mode": "no",
            "skip_reencode": True,
        }
        ran = subprocess.run(
            [python, "-c", _DOWNLOAD, json.dumps(given | options)],
            env=os.environ | {"NO_ALBUMENTATIONS_UPDATE": "1", "NO_PROXY": "127.0.0.1"},
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
        )
    table.unlink()
    assert ran.returncode == 0, ran.stderr[-2000:]


@contextmanager
def _serving(files: Mapping[str, bytes]) -> Iterator[str]:
    """A web server on this machine alone; its URL, without a slash at the end."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data = files.get(self.path)
            if data is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
