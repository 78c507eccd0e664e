"""What the pages point at is there, and what they list is complete."""

from __future__ import annotations

import ast
import dataclasses
import doctest
import math
import re
import tomllib
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sscd_ops.config import load_settings
from sscd_ops.descriptors.models import MODELS
from sscd_ops.model import Fault
from sscd_ops.options import (
    COSINE,
    STEPS,
    AirflowOptions,
    AirflowStepOptions,
    CatalogOptions,
    DatasetOptions,
    ModelName,
    Range,
    SourceOptions,
    StorageOptions,
)
from sscd_ops.toml_tables import read_section
from tests.docs.cli_page import page
from tests.docs.pages import PAGES, ROOT, blocks, name_of
from tests.docs.printed import printed

_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_FULL = ROOT / "examples" / "full.toml"


@pytest.mark.parametrize("file", PAGES, ids=name_of)
def test_links_lead_somewhere(file: Path) -> None:
    for target in _LINK.findall(re.sub(r"```.*?```", "", file.read_text(), flags=re.DOTALL)):
        if "://" not in target and not target.startswith("#"):
            assert (file.parent / target.partition("#")[0]).exists(), target


def test_the_readme_leads_to_every_page() -> None:
    readme = (ROOT / "README.md").read_text()
    for file in (ROOT / "docs").glob("*.md"):
        assert f"docs/{file.name}" in readme, file


def test_files_named_in_the_architecture_are_there() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    for name in re.findall(r"`([a-z_]+/(?:[a-z_0-9]+\.py)?|[a-z_]+\.py)`", text):
        assert (ROOT / "sscd_ops" / name).exists(), name


def test_decisions_are_numbered_without_gaps() -> None:
    names = sorted(file.name for file in (ROOT / "docs" / "decisions").glob("*.md"))
    assert [int(name[:4]) for name in names] == list(range(1, len(names) + 1))


def test_the_command_line_page_is_what_the_commands_say(tmp_path: Path, catalog_url: str) -> None:
    written = (ROOT / "docs" / "cli.md").read_text()

    shown = printed(tmp_path, catalog_url)

    assert written == page(shown), "python -m tests.docs.cli_page > docs/cli.md"


def test_commands_and_options_in_shell_blocks_exist() -> None:
    known = page({})
    for file in PAGES:
        for line in "".join(blocks(file, "sh")).splitlines():
            called = re.match(r"sscd-ops ([a-z]+(?: [a-z]+)?)(.*)", line.partition("#")[0])
            if not called:
                continue
            words = called[1].split()
            group = f"## sscd-ops {words[0]}\n"
            assert group in known, line
            section = (
                group if f"## sscd-ops {words[0]} " not in known else f"## sscd-ops {called[1]}\n"
            )
            assert section in known, line
            helped = known.partition(section)[2].partition("\n## ")[0]
            for option in re.findall(r"--[a-z-]+", called[2]):
                assert option in helped, line


# ---------------------------------------------------------------- settings

SECTIONS: dict[str, type[Any]] = {
    "storage": StorageOptions,
    "catalog": CatalogOptions,
    "datasets.NAME": DatasetOptions,
    "datasets.NAME.sources": SourceOptions,
    "datasets.NAME.airflow": AirflowOptions,
    **{
        f"datasets.NAME.{item.name}": type(item.default)
        for item in dataclasses.fields(DatasetOptions)
        if dataclasses.is_dataclass(item.default) and item.name != "airflow"
    },
}


def keys(kind: type[Any]) -> set[str]:
    """Its keys, without those that are sections of their own."""
    return {
        item.name
        for item in dataclasses.fields(kind)
        if not dataclasses.is_dataclass(item.default)
        and not (kind is DatasetOptions and item.name in ("name", "sources"))
    }


def part_of_configuration(section: str) -> str:
    """What the page says of one table, without what it says of the steps' own."""
    text = (ROOT / "docs" / "configuration.md").read_text()
    heading = rf"^## \[+{re.escape(section)}\]+\n(.*?)(?=^## |\Z)"
    found = re.search(heading, text, re.MULTILINE | re.DOTALL)
    assert found, section
    return found[1].partition("`[datasets.NAME.airflow.STEP]`")[0]


@pytest.mark.parametrize("section", SECTIONS)
def test_the_configuration_page_has_every_key(section: str) -> None:
    listed = re.findall(r"^\| `(\w+)` \|", part_of_configuration(section), re.MULTILINE)
    assert sorted(listed) == sorted(keys(SECTIONS[section]))


def test_the_configuration_page_has_every_key_of_a_step() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    steps = text.partition("`[datasets.NAME.airflow.STEP]`")[2]
    assert re.findall(r"`(\w+)`", steps.partition(":\n")[0]) == list(STEPS)
    named = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| ([^|]*)\|", steps, re.MULTILINE)))
    assert set(named) == keys(AirflowStepOptions)


def read(kind: type[Any], key: str, literal: str) -> Any:
    """What a key has where the file says so."""
    named = {"name": "x"} if "name" in {item.name for item in dataclasses.fields(kind)} else {}
    table = tomllib.loads(f"{key} = {literal}")
    return getattr(read_section(kind, table, "x", **named), key)


def test_defaults_in_the_configuration_page_are_the_defaults() -> None:
    """Each literal default of a plain key loads as what the key has without it."""
    for section, kind in SECTIONS.items():
        part = part_of_configuration(section)
        for key, said in re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", part, re.MULTILINE):
            default = {item.name: item.default for item in dataclasses.fields(kind)}[key]
            assert read(kind, key, said) == default, (section, key)


def test_ranges_in_the_configuration_page_are_the_ranges() -> None:
    steps = (ROOT / "docs" / "configuration.md").read_text().partition("airflow.STEP]`")[2]
    parts = [(part_of_configuration(name), kind) for name, kind in SECTIONS.items()]
    for part, kind in [*parts, (steps, AirflowStepOptions)]:
        declared = {
            key: allowed
            for key, hint in typing.get_type_hints(kind, include_extras=True).items()
            for allowed in _metadata(hint)
            if isinstance(allowed, Range)
        }
        rows = re.findall(r"^\| `(\w+)` \| [^|]*\| ([^|]*) \| [^|]*\|$", part, re.MULTILINE)
        said = {key: cell.replace("`", "") for key, cell in rows if cell.strip()}
        assert said.keys() == declared.keys()
        for key, cell in said.items():
            if key == "threshold":  # a range that is open below: its one value is no number to say
                assert (cell, declared[key]) == ("above 0, to 1", COSINE)
                continue
            least, _, most = cell.removesuffix(" or more").partition(" to ")
            assert read(kind, key, least) == declared[key].least, key
            assert (read(kind, key, most) if most else math.inf) == declared[key].most, key


def _metadata(hint: Any) -> Iterator[Any]:
    """What stands in ``Annotated``, of an optional type too."""
    yield from getattr(hint, "__metadata__", ())
    for one in typing.get_args(hint):
        yield from getattr(one, "__metadata__", ())


def test_examples_load_and_the_full_one_says_every_key() -> None:
    load_settings(ROOT / "examples" / "curation.toml")
    dataset = load_settings(_FULL).datasets["web"]
    raw = tomllib.loads(_FULL.read_text())
    table = raw["datasets"]["web"]
    assert set(raw["storage"]) == keys(StorageOptions)
    assert set(raw["catalog"]) == keys(CatalogOptions)
    for name in SECTIONS:
        section = name.rpartition(".")[2]
        if name.count(".") == 2 and section != "sources":
            said = set(table[section]) - set(STEPS)
            assert said == keys(SECTIONS[name]), section
    assert keys(DatasetOptions) <= set(table)
    assert {key for source in table["sources"] for key in source} == keys(SourceOptions)
    assert set(table["airflow"]["embed"]) == keys(AirflowStepOptions)
    default = DatasetOptions("web")
    for section in ("guard", "limits", "publish", "turn", "retention"):
        assert getattr(dataset, section) == getattr(default, section)


def test_toml_blocks_are_good_settings(tmp_path: Path) -> None:
    for file in PAGES:
        for block in blocks(file, "toml"):
            text = block
            if "[[datasets.web.sources]]" not in text:
                text += '[[datasets.web.sources]]\nurls = ["in/{date}/*.tar"]\n'
            if "[storage]" not in text:
                text += '[storage]\nroot = "out"\n'
            written = tmp_path / "x.toml"
            written.write_text(text)
            load_settings(written)


# ---------------------------------------------------------------- models, codes, Python


def test_the_table_of_models_says_what_they_are() -> None:
    text = (ROOT / "docs" / "descriptors.md").read_text()
    rows = re.findall(
        r"^\| (`\w+`[^|]*)\|[^|]*\| (\d+) \| `([\w-]+)` \| ([\d.]+)", text, re.MULTILINE
    )
    said = {}
    for names, dimensions, preprocessing, threshold in rows:
        full, *suffixes = re.findall(r"`(\w+)`", names)
        for name in (full, *(full.rpartition("_")[0] + suffix for suffix in suffixes)):
            said[name] = (int(dimensions), preprocessing, float(threshold))
    assert said == {
        name: (model.dimensions, model.preprocessing, model.threshold)
        for name, model in MODELS.items()
    }


def test_every_model_is_one_that_may_be_configured() -> None:
    assert ("", *MODELS) == typing.get_args(ModelName)


def test_every_quarantine_code_is_explained() -> None:
    text = (ROOT / "docs" / "sources.md").read_text()
    first_columns = "".join(re.findall(r"^\| (`[^|]*)\|", text, re.MULTILINE))
    named = set(re.findall(r"`(\w+)`", first_columns))
    assert {str(code) for code in Fault} <= named
    for code in Fault:
        line = next(line for line in text.splitlines() if f"`{code}`" in line)
        assert ("get it too" in line) == code.follows_bytes, code


@pytest.mark.parametrize("file", PAGES, ids=name_of)
def test_python_blocks_are_python(file: Path) -> None:
    for block in blocks(file, "python"):
        if ">>>" not in block:
            ast.parse(block)


def test_the_dags_the_docs_show_are_the_example_files_that_the_tests_run() -> None:
    shown = blocks(ROOT / "docs" / "airflow.md", "python")
    files = sorted((ROOT / "examples" / "dags").glob("*.py"))
    assert sorted(shown) == sorted(file.read_text() for file in files)


def test_the_example_of_a_sample_id() -> None:
    example = "".join(blocks(ROOT / "docs" / "identities.md", "python"))
    test = doctest.DocTestParser().get_doctest(example, {}, "identities.md", None, None)
    result = doctest.DocTestRunner().run(test)
    assert result.attempted == 3
    assert not result.failed
