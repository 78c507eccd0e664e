"""docs/cli.md from the commands themselves. Run: python -m tests.docs.cli_page > docs/cli.md"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import click
from click.testing import CliRunner

from sscd_ops.catalog.embedded import ensure_running, stop
from sscd_ops.catalog.migrate import upgrade
from sscd_ops.cli.main import main
from tests.docs.printed import printed

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

What follows is each command's own `--help`, and what some of them print of two small nights: the
first brought a barn, a lake and a web page, the second the same lake, the barn at half its size and
a street. `...` stands for fields that are left out here; ids and times are masked.
"""


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command's words, groups before what is in them."""
    yield path
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name)


def page(printed: Mapping[str, str]) -> str:
    """The page.

    Args:
        printed: what commands print, by their words and options; each stands under its command.
    """
    parts = [INTRODUCTION]
    for path in commands(main):
        asked = CliRunner().invoke(
            main, [*path, "--help"], prog_name="sscd-ops", terminal_width=88, max_content_width=88
        )
        assert asked.exit_code == 0, asked.output
        parts.append(f"## {' '.join(('sscd-ops', *path))}\n\n```\n{asked.output.strip()}\n```\n")
        parts += [
            f"```\n$ sscd-ops {command}\n{text}\n```\n"
            for command, text in printed.items()
            if is_of(command, path)
        ]
    return "\n".join(parts)


def is_of(command: str, path: tuple[str, ...]) -> bool:
    """Whether a command line is one of this command, not of a group that it is in."""
    found: click.Command = main
    for word in path:
        assert isinstance(found, click.Group)
        found = found.commands[word]
    return not isinstance(found, click.Group) and command.split()[: len(path)] == list(path)


def main_program() -> None:
    """Print the page, of nights in a server and a folder of their own."""
    with tempfile.TemporaryDirectory(prefix="sscd-ops-page-") as made:
        folder = Path(made)
        folder.chmod(0o755)  # as root the server is `nobody`
        try:
            url = ensure_running(folder / "postgres", ("page",))["page"]
            upgrade(url)
            text = page(printed(folder / "site", url))
        finally:
            stop(folder / "postgres")
    print(text, end="")


if __name__ == "__main__":
    main_program()
