"""Which snapshotter a state directory gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from sampan.errors import Unsupported
from sampan.store import probe
from sampan.store.metadata import Metadata


def test_a_state_directory_keeps_its_driver(tmp_path: Path) -> None:
    metadata = Metadata(tmp_path / "meta.db")
    run = tmp_path / "run"
    first, why = probe.choose(tmp_path, run, metadata, "plain")
    assert (first.driver, why) == ("plain", "it was asked for")
    first.prepare("container", None)
    first.close()
    second, why = probe.choose(tmp_path, run, metadata)
    assert (second.driver, why) == ("plain", "it made what is stored here")
    second.close()


def test_an_unknown_driver_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="no such storage driver: aufs"):
        probe.choose(tmp_path, tmp_path, Metadata(tmp_path / "meta.db"), "aufs")
