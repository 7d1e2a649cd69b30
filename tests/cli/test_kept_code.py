"""The code of commands that are used all day is kept together in a file each."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parents[2]


def test_a_command_runs_the_code_that_it_kept(tmp_path: Path) -> None:
    shutil.copytree(
        SOURCE / "sampan", tmp_path / "sampan", ignore=shutil.ignore_patterns("__pycache__")
    )
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment.update(PYTHONPATH=str(tmp_path), PYTHONPROFILEIMPORTTIME="1")

    def imported(*words: str) -> list[str]:
        """The modules of ours that a command line has the import system find."""
        done = subprocess.run(
            [sys.executable, SOURCE / "scripts/sampan", "-H", "unix:///nowhere", *words],
            capture_output=True,
            text=True,
            env=environment,
        )
        assert done.returncode == 1 and "Cannot connect" in done.stderr
        names = [line.rpartition("|")[2].strip() for line in done.stderr.splitlines()]
        return [name for name in names if name.startswith("sampan.")]

    def kept() -> list[str]:
        found = (tmp_path / "sampan/__pycache__").glob("*.together")
        return sorted(path.name.partition(".")[0] for path in found)

    first = imported("ps")
    assert {"sampan.cli.main", "sampan.cli.ps", "sampan.client.api"} <= set(first)
    assert kept() == ["cli-ps"]
    assert not {"sampan.cli.main", "sampan.cli.ps"} & set(imported("ps"))
    # Commands of a group would take each other's places, and rare ones would only take space.
    imported("image", "ls")
    imported("top", "it")
    assert kept() == ["cli-ps"]
