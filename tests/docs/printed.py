"""What commands print of two small nights, for docs/cli.md: run for real, ids and times masked."""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path

from click.testing import CliRunner

from sscd_ops.cli.main import main
from sscd_ops.testing import make_tar, picture, plant
from tests.integration.world import pair

CONFIG = """\
[storage]
root = "root"
[datasets.web]
schedule = "0 0 * * *"
start = 2026-11-01
late_days = 0
[[datasets.web.sources]]
name = "crawl"
urls = ["in/{date}/*.tar"]
[datasets.web.fingerprint]
model = "dct"
workers = 1
[datasets.web.duplicates]
search = "flat"
[datasets.web.guard]
first_nights_max = 1.0
"""
NIGHTS = {
    "2026-11-01": [
        pair("barn", picture(1), "a red barn"),
        pair("lake", picture(2), "a lake"),
        pair("page", b"<html>", "a cat"),
    ],
    "2026-11-02": [
        pair("again", picture(2), "a lake in May"),
        pair("small", plant(picture(1), "half_size"), "an old barn"),
        pair("street", picture(3), "a street"),
    ],
}
SHOWN = (
    "audit runs --dataset web",
    "audit removed --dataset web --date 2026-11-02",
    "audit quarantined --dataset web",
    "explain 2026-11-02/a.tar#small",
    "batch list --dataset web",
    "batch show 2",
    "snapshot list --dataset web",
    "snapshot show --dataset web",
    "snapshot verify --dataset web",
    "index compact --dataset web",
    "index info --dataset web",
)
"""What the page shows, each under its command."""
LEFT_OUT = {
    "explain": re.compile(r"dataset|batch_id|night|turn|format|width|height|bytes|image_sha256"),
    "batch show": re.compile(
        r"interval|supplement|withdrawn|known|not_delivered|runner|removed_perceptual|night"
        r"|kept_plain"
    ),
}
"""Lines of fields that the page has no room for; it says ``...`` for them."""


def printed(folder: Path, url: str) -> dict[str, str]:
    """What each of ``SHOWN`` prints, as the page has it.

    Args:
        folder: an empty one, for sources and storage.
        url: of an empty catalog.
    """
    folder.mkdir(exist_ok=True)
    config = folder / "curation.toml"
    config.write_text(CONFIG)
    env = {"SSCD_OPS_CONFIG": str(config), "SSCD_OPS_DATABASE_URL": url}
    for day, samples in NIGHTS.items():
        make_tar(folder / "in" / day / "a.tar", samples)
        _called(f"run --dataset web --date {day}", env)
    masked = _masked({command: _called(command, env) for command in SHOWN})
    return {command: _cut(command, text) for command, text in masked.items()}


def _called(command: str, env: dict[str, str]) -> str:
    called = CliRunner().invoke(main, command.split(), env=env)
    assert called.exit_code == 0, called.output
    return called.output.strip()


def _cut(command: str, text: str) -> str:
    """Without the fields of ``LEFT_OUT``, up to the empty line behind the last field."""
    pattern = next((p for name, p in LEFT_OUT.items() if command.startswith(name)), None)
    if pattern is None:
        return text
    fields, gap, rest = text.partition("\n\n")
    lines = ["..." if pattern.match(line) else line for line in fields.splitlines()]
    kept = [line for before, line in zip(["", *lines], lines, strict=False) if before != line]
    return "\n".join(kept) + gap + rest


_ID = re.compile(r"\b([0-9a-f]{8})((?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{56})?\b")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}")
_SECONDS = re.compile(r"^(seconds +)[\d.]+$", re.MULTILINE)


def _masked(texts: dict[str, str]) -> dict[str, str]:
    """With ids and times of the same form that are always the same; equal ones stay equal."""
    times = sorted({time for text in texts.values() for time in _TIME.findall(text)})
    ids: dict[str, str] = {}

    def an_id(found: re.Match[str]) -> str:
        digits = ids.setdefault(found[1], sha256(str(len(ids)).encode()).hexdigest())
        rest = iter(digits[8:])
        return digits[:8] + re.sub("[0-9a-f]", lambda _: next(rest), found[2] or "")

    def masked(text: str) -> str:
        text = _TIME.sub(lambda time: f"2026-11-03T02:00:{times.index(time[0]):02d}.000000", text)
        return _SECONDS.sub(r"\g<1>2.5", _ID.sub(an_id, text))

    return {command: masked(text) for command, text in texts.items()}
