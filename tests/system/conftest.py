"""Fixtures: a daemon that tests share, and one that a test may kill."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Daemon, running


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="needs root"))


@pytest.fixture(scope="session")
def shared_daemon() -> Iterator[Daemon]:
    yield from running()


@pytest.fixture
def daemon(shared_daemon: Daemon) -> Iterator[Daemon]:
    """A daemon that other tests use too; its containers are removed afterwards."""
    yield shared_daemon
    shared_daemon.remove_containers()


@pytest.fixture
def own_daemon() -> Iterator[Daemon]:
    """A daemon for a test that kills it."""
    yield from running()
