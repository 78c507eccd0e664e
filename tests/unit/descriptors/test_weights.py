"""Weights come from a URL once, whole, under a name of their own, or an error says what to do."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sscd_ops.descriptors.models import find_model
from sscd_ops.descriptors.weights import find_weights, read_state
from sscd_ops.errors import ConfigError, WeightsUnavailable

MIXUP = find_model("sscd_disc_mixup")


class Shelf(BaseHTTPRequestHandler):
    """Answers a path with itself; below /short it promises more than it sends."""

    def do_GET(self) -> None:
        body = self.path.encode()
        if self.path.startswith("/gone"):
            self.send_error(404)
            return
        self.send_response(200)
        promised = 1000 if self.path.startswith("/short") else len(body)
        self.send_header("Content-Length", str(promised))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@pytest.fixture(scope="module")
def shelf() -> Iterator[str]:
    """The URL of a server of files."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Shelf) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_two_urls_of_one_file_name_are_two_files(shelf: str, tmp_path: Path) -> None:
    found = [find_weights(MIXUP, f"{shelf}/{folder}/w.pt", tmp_path) for folder in "aba"]

    assert [one.path.read_bytes() for one in found] == [b"/a/w.pt", b"/b/w.pt", b"/a/w.pt"]
    assert [one.sha256 for one in found] == [
        hashlib.sha256(one.path.read_bytes()).hexdigest() for one in found
    ]
    assert all(one.path.name.endswith("-w.pt") for one in found)


def test_a_url_is_asked_once(shelf: str, tmp_path: Path) -> None:
    first = find_weights(MIXUP, f"{shelf}/once.pt?signed=1/2", tmp_path)
    first.path.write_bytes(b"mark")

    again = find_weights(MIXUP, f"{shelf}/once.pt?signed=1/2", tmp_path)

    assert again.path.read_bytes() == b"mark"
    assert again.path.name.endswith("-once.pt")


@pytest.mark.parametrize("what", ["short", "gone"])
def test_what_does_not_arrive_whole_is_not_kept(shelf: str, tmp_path: Path, what: str) -> None:
    url = f"{shelf}/{what}/w.pt"

    with pytest.raises(WeightsUnavailable) as error:
        find_weights(MIXUP, url, tmp_path)

    message = str(error.value)
    assert url in message
    assert str(tmp_path) in message
    assert {"short": "11 of 1000 bytes", "gone": "404"}[what] in message
    assert "\n" not in message
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_file_put_where_the_error_says_is_taken(tmp_path: Path) -> None:
    url = "http://127.0.0.1:9/none/w.pt"
    with pytest.raises(WeightsUnavailable) as error:
        find_weights(MIXUP, url, tmp_path)
    place = str(error.value).partition("put the file at ")[2].partition(", or")[0]

    Path(place).write_bytes(b"by hand")

    assert find_weights(MIXUP, url, tmp_path).path == Path(place)


@pytest.mark.parametrize("data", [b"", b"<html>not found</html>", b"PK\x03\x04 cut"])
def test_a_file_of_no_known_format_says_what_to_do_in_one_line(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    path.write_bytes(data)

    with pytest.raises(ConfigError) as error:
        read_state(path)

    message = str(error.value)
    assert str(path) in message
    assert "delete it" in message
    assert "\n" not in message
    assert "weights_only" not in message


def test_half_a_safetensors_file_says_so(tmp_path: Path) -> None:
    whole = Path(find_model("sscd_small").weights).read_bytes()
    path = tmp_path / "w.safetensors"
    path.write_bytes(whole[: len(whole) // 2])

    with pytest.raises(ConfigError, match="no whole safetensors file") as error:
        read_state(path)

    assert str(path) in str(error.value)


def test_other_weights_of_the_same_size_and_time_have_their_own_digest(tmp_path: Path) -> None:
    path, new = tmp_path / "w.pt", tmp_path / "new.pt"
    digests = []
    for letter in (b"a", b"b"):
        new.write_bytes(letter * 1000)
        os.utime(new, (0, 0))
        new.replace(path)
        digests.append(find_weights(MIXUP, str(path), tmp_path).sha256)
    assert digests == [hashlib.sha256(letter * 1000).hexdigest() for letter in (b"a", b"b")]
