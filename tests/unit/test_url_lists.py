"""Lists of URLs as people keep them."""

from __future__ import annotations

from pathlib import Path

import pytest

from sscd_ops.errors import UsageError
from sscd_ops.steps.orders.asked import read_url_list

ONE, TWO = "https://photos.example.org/1.jpg", "https://photos.example.org/2,small.jpg"


def listed(folder: Path, name: str, text: str) -> list[str]:
    path = folder / name
    path.write_text(text, "utf-8")
    return read_url_list(path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.txt", f"{ONE}\n\n# a note\n{TWO}\n"),
        ("list.csv", f'asked,URL\n2026-11-02,{ONE}\n,"{TWO}"\n'),
        ("list.csv", f'\ufeffurl\n{ONE}\n"{TWO}"\n'),
    ],
)
def test_one_a_line_or_the_column_of_a_csv(tmp_path: Path, name: str, text: str) -> None:
    assert listed(tmp_path, name, text) == [ONE, TWO]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        (f"{ONE},2026-11-02\n", "names no columns"),
        ("picture,asked\n1,2\n", "a csv whose header has a column url"),
        ("url,asked\n,2\n", "no URL in its column url"),
        (f"asked,url\n2,{ONE}\n3\n", "line 3 has no column url"),
    ],
)
def test_what_names_no_urls_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        listed(tmp_path, "list.csv", text)
