"""Doing what a finding or an error says: its commands, to the letter."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from click.testing import CliRunner, Result

from sscd_ops.cli.main import main
from tests.integration.world import DATASET, World

_COMMAND = re.compile(r"`sscd-ops ([^`]+)`|\(sscd-ops ([^)]+)\)")


def commands_in(said: str) -> list[str]:
    """The commands that a text names, in its order."""
    return [one or other for one, other in _COMMAND.findall(said)]


def run_command(world: World, command: str, dump: Path | None = None, code: int = 0) -> Result:
    """Run a command over a world's root and database; ``FILE`` in it is the dump."""
    config = world.base / "curation.toml"
    config.write_text(
        f'[storage]\nroot = "{world.storage.root}"\n[datasets.{DATASET}]\n'
        f'schedule = "0 0 * * *"\nstart = 2026-11-01\n[[datasets.{DATASET}.sources]]\n'
        f'name = "crawl"\nurls = ["{world.incoming}/{{date}}/*.tar"]\n'
        f'[datasets.{DATASET}.fingerprint]\nmodel = "dct"\nworkers = 1\n'
    )
    words = [str(dump) if word == "FILE" else word for word in shlex.split(command)]
    env = {"SSCD_OPS_CONFIG": str(config), "SSCD_OPS_DATABASE_URL": world.url}
    called = CliRunner().invoke(main, words, env=env)
    if not isinstance(called.exception, (SystemExit, type(None))):
        raise called.exception
    assert called.exit_code == code, called.output
    return called
