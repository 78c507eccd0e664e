"""docs/cli.md from the commands' own help. Run: python -m tests.docs.cli_page > docs/cli.md"""

from __future__ import annotations

from collections.abc import Iterator

import click
from click.testing import CliRunner

from sscd_ops.cli.main import main

INTRODUCTION = """\
# The command line

Every command takes `--config FILE` (or `SSCD_OPS_CONFIG`), save `evaluate`, `try` and `train`,
which need no configuration. Exit codes: 0 done, 1 a finding or a failed run, 2 wrong use or bad
configuration. An error names the thing, the reason and the remedy in a line or two; `sscd-ops
--debug COMMAND ...` shows the traceback. `--format json` prints one JSON array on stdout; what a
person reads beside it goes to stderr. json is exact; in csv and tables control characters of
captions and keys are spaces, and a csv cell of text that begins with `=`, `+`, `-` or `@` gets an
apostrophe before it, so that no spreadsheet runs it (numbers stay numbers). Without a database URL
the commands start an embedded Postgres, and say so; commands that run at the same time share it.

What follows is each command's own `--help`.
"""


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command's words, groups before what is in them."""
    yield path
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name)


def page() -> str:
    """The page."""
    parts = [INTRODUCTION]
    for path in commands(main):
        asked = CliRunner().invoke(
            main, [*path, "--help"], prog_name="sscd-ops", terminal_width=88, max_content_width=88
        )
        assert asked.exit_code == 0, asked.output
        parts.append(f"## {' '.join(('sscd-ops', *path))}\n\n```\n{asked.output.strip()}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    print(page(), end="")
