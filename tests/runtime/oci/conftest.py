"""A bundle, and each runtime that is here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sidebyside import PEERS, Bundle, Runtime


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    (tmp_path / "b").mkdir()
    return Bundle(tmp_path / "b")


@pytest.fixture(params=["sampan-oci", *PEERS])
def runtime(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Runtime]:
    found = Runtime(request.param, tmp_path / request.param)
    yield found
    for identity in found("list", "-q").stdout.split():
        found("delete", "--force", identity)
