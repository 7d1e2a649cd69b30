"""The distribution-spec's demands, of the hub on both storages and, to know what the table itself
is worth, of Debian's docker-registry."""

from __future__ import annotations

import shutil
from pathlib import Path

import aiohttp
import pytest

from tests.hub.conformance import CHECKS, Api
from tests.hub.conftest import Running, basic
from tests.registry.servers import docker_registry

# What docker-registry 2.8, which is older than the spec's version 1.1, answers otherwise.
DIFFERENCES = {
    # Ends the connection instead of answering 416.
    "pull: parts of blobs",
    # A page, not an error of the spec's form.
    "pull: names that cannot be",
    # Takes the chunk.
    "push: chunks out of order",
    # Another code.
    "push: a manifest that is none",
    # No page of tags, and no subjects and referrers.
    "discovery: tags in order and in pages",
    "push: a manifest with a subject is told so",
    "discovery: referrers of nothing are an empty index",
    "discovery: referrers and their filter",
    "discovery: referrers of no digest",
    "management: a deleted referrer is listed no more",
    # Deletes by digest only, which the spec lets it.
    "management: tags are deleted",
}


async def failing(http: aiohttp.ClientSession) -> dict[str, str]:
    """The checks that a registry does not pass, and why."""
    found = {}
    for name, check in CHECKS.items():
        try:
            await check(Api(http))
        except (AssertionError, KeyError, ValueError, aiohttp.ClientError) as exc:
            found[name] = repr(exc)
    return found


async def test_the_hub_does_what_the_spec_says(hub: Running) -> None:
    await hub.hub.accounts.create("tester", "password1", admin=True)
    headers = basic("tester", "password1")
    async with aiohttp.ClientSession(f"http://{hub.host}", headers=headers) as http:
        assert await failing(http) == {}


@pytest.mark.skipif(shutil.which("docker-registry") is None, reason="no docker-registry here")
async def test_where_docker_registry_differs(tmp_path: Path) -> None:
    with docker_registry(tmp_path) as theirs:
        async with aiohttp.ClientSession(f"http://{theirs.host}") as http:
            found = await failing(http)
    assert set(found) == DIFFERENCES, found
