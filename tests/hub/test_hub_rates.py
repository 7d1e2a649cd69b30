"""Rate limits: by account and by address, told in headers, shared by processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st

from sampan.errors import InvalidParameter
from sampan.hub.addresses import client_address, networks
from sampan.hub.config import HubConfig
from sampan.hub.database import SqliteDatabase
from sampan.hub.rates import Rates, network_of
from sampan.hub.schema import MIGRATIONS
from tests.hub.conftest import Hubs, Running, basic
from tests.hub.test_hub_access import token
from tests.hub.test_hub_registry import code, manifest, put_blob, put_manifest


async def fill(hub: Running) -> None:
    await put_blob(hub, "a", b"{}")
    assert (await put_manifest(hub, "a", "1", manifest(b"{}"))).status == 201


async def test_strangers_are_limited_by_address_and_accounts_by_name(
    hubs: Hubs, tmp_path: Path
) -> None:
    hub = await hubs.start(
        HubConfig(root=tmp_path / "hub", anonymous="push", anonymous_rate=6, account_rate=20)
    )
    await fill(hub)
    for left in (3, 2, 1, 0):
        answer = await hub.http.get("/v2/a/manifests/1")
        assert answer.status == 200
        assert answer.headers["RateLimit-Limit"] == "6;w=60"
        assert answer.headers["RateLimit-Remaining"] == f"{left};w=60"
    refused = await hub.http.get("/v2/a/manifests/1")
    assert refused.status == 429 and await code(refused) == "TOOMANYREQUESTS"
    assert 1 <= int(refused.headers["Retry-After"]) <= 11
    assert refused.headers["RateLimit-Remaining"] == "0;w=60"
    assert (await hub.http.get("/v2/_catalog")).status == 429
    assert (await hub.http.get("/token?scope=repository:a:pull")).status == 429
    page = await hub.http.get("/search?q=a")
    assert page.status == 429 and "Too many requests" in await page.text()
    assert int(page.headers["Retry-After"]) >= 1
    assert (await hub.http.get("/healthz")).status == 200
    # An account has a bucket of its own, whether by password or by token.
    answer = await hub.http.get("/v2/a/manifests/1", headers=hub.basic)
    assert answer.status == 200 and answer.headers["RateLimit-Limit"] == "20;w=60"
    bearer = await token(hub, "repository:a:pull", "admin", hub.password)
    headers = {"Authorization": f"Bearer {bearer}"}
    answer = await hub.http.get("/v2/a/manifests/1", headers=headers)
    assert answer.headers["RateLimit-Remaining"] == "17;w=60"
    # A blob's answer, which is streamed, tells it too.
    digest = (
        await (await hub.http.get("/v2/a/manifests/1", headers=headers)).json(content_type=None)
    )["config"]["digest"]
    blob = await hub.http.get(f"/v2/a/blobs/{digest}", headers=headers)
    assert await blob.read() == b"{}" and blob.headers["RateLimit-Remaining"] == "15;w=60"


async def test_without_limits_nothing_is_told(file_hub: Running) -> None:
    await fill(file_hub)
    answer = await file_hub.http.get("/v2/a/manifests/1")
    assert "RateLimit-Limit" not in answer.headers


async def test_processes_share_what_they_counted(
    hubs: Hubs, tmp_path: Path, bucket: dict[str, Any], database: str
) -> None:
    config = {"anonymous": "push", "anonymous_rate": 10, "database_url": database, **bucket}
    first = await hubs.start(HubConfig(root=tmp_path / "one", **config))
    second = await hubs.start(HubConfig(root=tmp_path / "two", **config))
    await fill(first)
    for _ in range(6):
        assert (await first.http.get("/v2/a/manifests/1")).status == 200
    await first.hub.rates.share()
    assert (await second.http.get("/v2/a/manifests/1")).status == 200
    await second.hub.rates.share()
    answer = await second.http.get("/v2/a/manifests/1")
    assert answer.headers["RateLimit-Remaining"] == "0;w=60"
    assert (await second.http.get("/v2/a/manifests/1")).status == 429


async def test_wrong_passwords_are_counted_for_the_address_behind_a_proxy(
    hubs: Hubs, tmp_path: Path
) -> None:
    hub = await hubs.start(
        HubConfig(root=tmp_path / "hub", logins_per_minute=2, trusted_proxies=("127.0.0.0/8",))
    )

    async def status(forwarded: str, password: str) -> int:
        headers = {**basic("admin", password), "X-Forwarded-For": forwarded}
        return (await hub.http.get("/v2/", headers=headers)).status

    assert [await status("192.0.2.1", "wrong") for _ in range(3)] == [401, 401, 429]
    # What the client itself wrote before the proxy's entry is not believed.
    assert await status("198.51.100.9, 192.0.2.1", hub.password) == 429
    assert await status("198.51.100.9", hub.password) == 200


@given(st.lists(st.integers(0, 3), max_size=60), st.integers(1, 30))
def test_no_more_than_the_limit_is_allowed_at_once(pattern: list[int], limit: int) -> None:
    rates = Rates(None)  # type: ignore[arg-type]
    for key in range(4):
        allowed = sum(not rates.take(str(n), limit).wait for n in pattern if n == key)
        # A request more may leak out while the test runs.
        assert allowed <= min(pattern.count(key), limit + 1)
        assert allowed >= min(pattern.count(key), limit)


async def test_counts_survive_a_database_that_fails(tmp_path: Path) -> None:
    database = SqliteDatabase(tmp_path / "db", MIGRATIONS)
    rates = Rates(database)
    rates.take("x", 5)
    await rates.share()
    await rates.share()
    rows = await database.read(lambda sql: sql.all("SELECT holder, level FROM rates"))
    assert rows == [("x", 1000)]
    await database.close()


@pytest.mark.parametrize(
    ("remote", "forwarded", "expected"),
    [
        ("203.0.113.5", "1.2.3.4", "203.0.113.5"),
        ("10.0.0.1", "1.2.3.4", "1.2.3.4"),
        ("10.0.0.1", "6.6.6.6, 1.2.3.4, 10.0.0.2", "1.2.3.4"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "not an address", "10.0.0.1"),
        ("10.0.0.1", "10.0.0.3", "10.0.0.3"),
        ("10.0.0.1", "2001:db8::5", "2001:db8::5"),
    ],
)
def test_only_trusted_proxies_say_who_the_client_is(
    remote: str, forwarded: str, expected: str
) -> None:
    headers = {"X-Forwarded-For": forwarded} if forwarded else {}
    request = make_mocked_request("GET", "/", headers=headers).clone(remote=remote)
    assert client_address(request, networks(("10.0.0.0/8",))) == expected


def test_addresses_are_grouped_and_checked() -> None:
    assert network_of("192.0.2.1") == "192.0.2.1"
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff") == "2001:db8::/64"
    assert network_of("::ffff:192.0.2.1") == "192.0.2.1"
    with pytest.raises(InvalidParameter, match="trusted proxy"):
        networks(("nowhere",))
