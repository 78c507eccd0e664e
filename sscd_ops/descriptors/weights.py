"""Weights files: found or fetched, hashed, and read in each released format.

Three formats are released (reference README, facebookresearch/sscd-copy-detection): ``classy`` and
``torchvision`` are plain state dicts with other names, ``torchscript`` is a traced module of either
structure. All become the names of ``descriptors.networks``, which are torchvision's. What
``sscd-ops train`` writes is ``safetensors`` with those names.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import logging
import re
import shutil
import urllib.parse
import urllib.request
import uuid
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec

from sscd_ops.errors import ConfigError, WeightsUnavailable
from sscd_ops.options import Model

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

log = logging.getLogger(__name__)

_TIMEOUT = 60
"""Seconds a download may stand still."""


@dataclass(frozen=True)
class Weights:
    """A weights file on this machine."""

    path: Path
    sha256: str


def find_weights(model: Model, location: str, cache: Path) -> Weights:
    """The model's weights file, downloaded into ``cache`` once where it is remote.

    Args:
        model: whose; its published location is taken where none is given.
        location: a path or URL, or empty.
        cache: a local folder.

    Raises:
        WeightsUnavailable: there is no such file, or it cannot be fetched; says where to put it.
    """
    if not (location or model.weights):
        raise WeightsUnavailable(
            f"fingerprint.weights is empty, and {model.name} has no published weights: train some"
            " (`sscd-ops train`) and set it to the file"
        )
    path = find_file(
        location or model.weights,
        cache,
        what=f"weights of {model.name}",
        setting="fingerprint.weights",
        hint=f"; {model.name} is published at {model.weights}" if model.weights else "",
    )
    return Weights(path, _sha256(path, cache))


def find_file(where: str, cache: Path, *, what: str, setting: str, hint: str = "") -> Path:
    """A file on this machine, downloaded into ``cache`` once where it is remote.

    Args:
        where: a path or URL.
        cache: a local folder.
        what: what the file is, for messages.
        setting: the key that names it, for messages.
        hint: what else to say where a path leads nowhere.

    Raises:
        WeightsUnavailable: there is no such file, or it cannot be fetched; says where to put it.
    """
    if "://" not in where:
        path = Path(where).expanduser()
        if not path.is_file():
            raise WeightsUnavailable(f"{setting}: no file {path}{hint}")
        return path
    path = cache / _cache_name(where)
    if not path.is_file():
        _download(where, path, what, setting)
    return path


def _cache_name(url: str) -> str:
    """A name of the URL's own: many places call their file ``model.pt``."""
    base = urllib.parse.urlsplit(url).path.rstrip("/").rpartition("/")[2]
    return f"{hashlib.sha256(url.encode()).hexdigest()[:8]}-{base or 'weights'}"


@contextlib.contextmanager
def _opened(url: str) -> Iterator[tuple[Any, int | None]]:
    """A URL's stream and, where the other side says it, how many bytes will come."""
    if url.startswith(("http://", "https://")):
        request = urllib.request.Request(url, headers={"User-Agent": "sscd-ops"})  # noqa: S310
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:  # noqa: S310
            promised = answer.headers.get("Content-Length")
            yield answer, int(promised) if promised else None
    else:
        with fsspec.open(url, "rb") as stream:
            yield stream, getattr(stream, "size", None)


def _download(url: str, path: Path, what: str, setting: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    log.info("downloading %s url=%s to=%s", what, url, path)
    try:
        with _opened(url) as (source, promised), temporary.open("wb") as out:
            shutil.copyfileobj(source, out)
            # a connection that breaks looks like an end to copyfileobj
            if promised is not None and out.tell() != promised:
                raise OSError(f"{out.tell()} of {promised} bytes came")
        temporary.replace(path)
    except (OSError, http.client.HTTPException, ValueError, ImportError) as error:
        raise WeightsUnavailable(
            f"{what} could not be fetched from {url} ({error}): put the file at {path}, or set"
            f" {setting} to where it is"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _sha256(path: Path, cache: Path) -> str:
    """The file's sha256, remembered by path, size, times and inode: hashing 100 MB takes a while.

    Images built to be reproducible have one mtime for all files, and trained weights one size; the
    time of the last change to the inode can't be set.
    """
    found = path.stat()
    facts = (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_dev, found.st_ino)
    key = hashlib.sha256(f"{path.absolute()} {facts}".encode())
    note = cache / ".sha256" / key.hexdigest()
    with contextlib.suppress(OSError):
        remembered = note.read_text()
        if len(remembered) == 64:
            return remembered
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    with contextlib.suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        temporary = note.with_name(f".{uuid.uuid4().hex}")
        temporary.write_text(digest)
        temporary.replace(note)
    return digest


# ---------------------------------------------------------------- formats


def read_state(path: Path, setting: str = "fingerprint.weights") -> dict[str, Tensor]:
    """The state dict of a weights file, by torchvision's names (``conv1.weight``, ``fc.bias``).

    Args:
        path: of the file.
        setting: that named it, for complaints.

    Raises:
        ConfigError: the file is none of the known formats, or names a parameter twice.
    """
    return torchvision_names(_raw_state(path, setting), setting)


def _raw_state(path: Path, setting: str) -> dict[str, Tensor]:
    import torch

    if _is_safetensors(path):
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return dict(load_file(path))
        except SafetensorError as error:
            raise ConfigError(f"{setting}: {path} is no whole safetensors file: {error}") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # the released files are what they are
            module = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    except RuntimeError:
        pass
    else:
        return dict(module.state_dict())
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ConfigError(
            f"{setting}: {path} is no file of weights (neither safetensors, a state dict nor"
            f" TorchScript: {type(error).__name__}): name one; if it was downloaded, delete it and"
            " try again"
        ) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = {name.removeprefix("model."): value for name, value in state["state_dict"].items()}
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise ConfigError(f"{setting}: {path} holds no state dict of tensors")
    return dict(state)


def _is_safetensors(path: Path) -> bool:
    """Whether the file begins as that format does: the header's length, then JSON."""
    with path.open("rb") as stream:
        start = stream.read(9)
    return len(start) == 9 and start[8:] == b"{"


_CLASSY_BLOCK = re.compile(
    r"blocks\.(?P<stage>\d)\.(?:block\d-(?P<block>\d+)|(?P<old>\d+)\._module)\.(?P<rest>.+)"
)
_CLASSY_PART = {
    "convolutional_block.0": "conv1",
    "convolutional_block.1": "bn1",
    "convolutional_block.3": "conv2",
    "convolutional_block.4": "bn2",
    "convolutional_block.6": "conv3",
    "bn": "bn3",
    "downsample.0": "downsample.0",
    "downsample.1": "downsample.1",
}
_CLASSY_STEM = {
    "initial_block._module.0": "conv1",
    "initial_block._module.1": "bn1",
}


def torchvision_names(
    state: Mapping[str, Tensor], setting: str = "fingerprint.weights"
) -> dict[str, Tensor]:
    """Rename parameters of any released format to torchvision's names.

    Raises:
        ConfigError: two parameters are the same one by other names; a plain renaming would lose
            one of them in silence.
    """
    names: dict[str, str] = {}
    for name in state:
        ours = _renamed(name)
        if ours in names:
            raise ConfigError(
                f"{setting}: extra: {name}, which is {ours} like {names[ours]}:"
                " the file mixes two formats"
            )
        names[ours] = name
    return {ours: state[name] for ours, name in names.items()}


def _renamed(name: str) -> str:
    name = name.removeprefix("backbone.")
    if name.startswith("embeddings.1."):
        return "fc." + name.removeprefix("embeddings.1.")
    for classy, ours in _CLASSY_STEM.items():
        if name.startswith(f"{classy}."):
            return ours + name.removeprefix(classy)
    match = _CLASSY_BLOCK.fullmatch(name)
    if match is None:
        return name
    block = match["block"] or match["old"]
    part, _, leaf = match["rest"].rpartition(".")
    return f"layer{int(match['stage']) + 1}.{block}.{_CLASSY_PART.get(part, part)}.{leaf}"
