from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from sampan.registry.client import RegistryClient
from sampan.registry.config import RegistryConfig
from sampan.store.content import ContentStore
from tests.registry.servers import Registry, docker_registry


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as server:
        yield server


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[RegistryClient]:
    config = RegistryConfig(certs_dir=tmp_path / "certs.d", backoff=0.01)
    async with RegistryClient(config) as value:
        yield value


@pytest.fixture
def source(tmp_path: Path) -> ContentStore:
    return ContentStore(tmp_path / "source")


@pytest.fixture
def target(tmp_path: Path) -> ContentStore:
    return ContentStore(tmp_path / "target")
