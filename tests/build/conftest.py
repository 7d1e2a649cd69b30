"""The workshop in all its kinds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from build_workshop import Workshop, opened

KINDS = ("folder-overlay", "archive-erofs", "folder-plain")


@pytest.fixture(params=KINDS)
async def workshop(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Workshop]:
    async with opened(tmp_path, request.param) as workshop:
        yield workshop
