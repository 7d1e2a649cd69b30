"""Who may do what: accounts, tokens, teams, and attempts to get around them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from sampan.errors import Conflict, InvalidParameter, NotFound, Unauthorized
from sampan.hub.config import HubConfig
from sampan.image.manifest import OCI_MANIFEST
from sampan.image.reference import Reference
from sampan.progress import ignore
from sampan.registry.auth import Auth
from sampan.registry.client import RegistryClient
from sampan.store.content import ContentStore
from tests.hub.conftest import Hubs, Running, basic
from tests.hub.test_hub_registry import code, manifest, sha
from tests.registry.images import make_image


async def token(hub: Running, scope: str, user: str = "", password: str = "") -> str:
    headers = basic(user, password) if user else {}
    params = {"service": "x", "scope": scope}
    answer = await hub.http.get("/token", params=params, headers=headers)
    assert answer.status == 200, await answer.text()
    return str((await answer.json())["token"])


async def begin(hub: Running, repository: str, bearer: str) -> Any:
    return await hub.http.post(
        f"/v2/{repository}/blobs/uploads/", headers={"Authorization": f"Bearer {bearer}"}
    )


async def test_anybody_pulls_and_accounts_push(
    closed_hub: Running, client: RegistryClient, source: ContentStore, target: ContentStore
) -> None:
    hub = closed_hub
    made = make_image(source, [5000], seed=1)
    ref = Reference.parse(f"{hub.host}/team/app:1")
    with pytest.raises(Unauthorized, match="push access denied for team/app"):
        await client.push(
            ref, auth=None, manifest_bytes=made.manifest, content=source, report=ignore
        )
    with pytest.raises(Unauthorized, match="incorrect username or password"):
        await client.check_auth(hub.host, Auth("admin", "wrong"))
    assert await client.check_auth(hub.host, hub.admin) == ""
    await client.push(
        ref, auth=hub.admin, manifest_bytes=made.manifest, content=source, report=ignore
    )
    await client.pull(ref, auth=None, platform=None, content=target, report=ignore)


async def test_a_private_repository_is_hidden_from_others(closed_hub: Running) -> None:
    hub = closed_hub
    await hub.hub.accounts.create("ann", "password1")
    await hub.hub.accounts.create("bob", "password2")
    ann = basic("ann", "password1")
    url = f"/v2/ann/secret/blobs/uploads/?digest={sha(b'{}')}"
    assert (await hub.http.post(url, data=b"{}", headers=ann)).status == 201
    done = await hub.http.put(
        "/v2/ann/secret/manifests/1",
        data=manifest(b"{}"),
        headers={"Content-Type": OCI_MANIFEST, **ann},
    )
    assert done.status == 201
    await hub.hub.records.describe("ann/secret", description="", readme="", private=True)
    assert (await hub.http.get("/v2/ann/secret/manifests/1", headers=ann)).status == 200
    assert (await hub.http.get("/v2/ann/secret/manifests/1")).status == 401
    bob = basic("bob", "password2")
    assert (await hub.http.get("/v2/ann/secret/manifests/1", headers=bob)).status == 403
    assert (await hub.http.get("/r/ann/secret")).status == 404
    found = await (await hub.http.get("/v1/search?q=secret")).json()
    assert found["results"] == []
    # Its blobs cannot be mounted out of it.
    answer = await hub.http.post(
        f"/v2/bob/x/blobs/uploads/?mount={sha(b'{}')}&from=ann/secret", headers=bob
    )
    assert answer.status == 202
    assert (await hub.http.head(f"/v2/bob/x/blobs/{sha(b'{}')}", headers=bob)).status == 404


async def test_a_bearer_token_is_good_for_its_repository_and_actions_only(
    closed_hub: Running,
) -> None:
    hub = closed_hub
    await hub.hub.accounts.create("ann", "password1")
    good = await token(hub, "repository:ann/a:pull,push", "ann", "password1")
    assert (await begin(hub, "ann/a", good)).status == 202
    other = await begin(hub, "ann/b", good)
    assert (
        other.status == 401
        and 'scope="repository:ann/b:pull,push"' in (other.headers["WWW-Authenticate"])
    )
    reading = await token(hub, "repository:ann/a:pull", "ann", "password1")
    assert (await begin(hub, "ann/a", reading)).status == 401
    # More than the account may do is not granted, and neither is anything to strangers.
    greedy = await token(hub, "repository:bob/a:pull,push,delete", "ann", "password1")
    assert (await begin(hub, "bob/a", greedy)).status == 401
    nobody = await token(hub, "repository:ann/a:pull,push")
    assert (await begin(hub, "ann/a", nobody)).status == 401
    head, body, signature = good.split(".")
    for forged in (f"{head}.{body}.{signature[:-4]}AAAA", f"{head}.{body}.", "x", good[:-1]):
        assert (await begin(hub, "ann/a", forged)).status == 401
    session = hub.hub.signer.session("admin", "x")
    assert (await begin(hub, "ann/a", session)).status == 401


async def test_access_tokens_are_limited_and_expire(closed_hub: Running) -> None:
    hub = closed_hub
    await hub.hub.accounts.create("ann", "password1")
    secret = await hub.hub.accounts.create_token("ann", "ci", "ann/app*", "pull,push", 1)
    bearer = await token(hub, "repository:ann/app1:pull,push,delete", "ann", secret)
    assert (await begin(hub, "ann/app1", bearer)).status == 202
    grant = hub.hub.signer.grant(bearer)
    assert grant and grant.actions["ann/app1"] == {"pull", "push"}
    elsewhere = await token(hub, "repository:ann/other:pull,push", "ann", secret)
    assert (await begin(hub, "ann/other", elsewhere)).status == 401
    assert await hub.hub.accounts.verify("bob", secret) is None
    await hub.hub.database.write(
        lambda sql: sql.run("UPDATE tokens SET expires = ?", int(time.time()) - 1)
    )
    assert await hub.hub.accounts.verify("ann", secret) is None
    with pytest.raises(InvalidParameter, match="actions"):
        await hub.hub.accounts.create_token("ann", "", "*", "fly", 1)


async def test_teams_share_rights(closed_hub: Running) -> None:
    hub = closed_hub
    accounts = hub.hub.accounts
    await accounts.create("ann", "password1")
    with pytest.raises(NotFound, match="no user bob"):
        await accounts.add_member("dev", "bob")
    await accounts.add_member("dev", "ann")
    await accounts.grant("@dev", "shop/*", "write")
    ann = basic("ann", "password1")
    assert (await hub.http.post("/v2/shop/web/blobs/uploads/", headers=ann)).status == 202
    refused = await hub.http.delete(f"/v2/shop/web/blobs/{sha(b'')}", headers=ann)
    assert refused.status == 403 and await code(refused) == "DENIED"
    assert (await hub.http.post("/v2/other/web/blobs/uploads/", headers=ann)).status == 403
    await accounts.remove_member("dev", "ann")
    assert (await hub.http.post("/v2/shop/web/blobs/uploads/", headers=ann)).status == 403
    with pytest.raises(Conflict, match="last administrator"):
        await accounts.delete("admin")


async def test_uploads_belong_to_who_began_them(closed_hub: Running) -> None:
    hub = closed_hub
    await hub.hub.accounts.create("ann", "password1")
    await hub.hub.accounts.grant("ann", "*", "write")
    begun = await hub.http.post("/v2/a/blobs/uploads/", headers=hub.basic)
    ann = basic("ann", "password1")
    stolen = await hub.http.patch(begun.headers["Location"], data=b"x", headers=ann)
    assert stolen.status == 404 and await code(stolen) == "BLOB_UPLOAD_UNKNOWN"


async def test_failed_logins_are_slowed_down(hubs: Hubs, tmp_path: Path) -> None:
    hub = await hubs.start(HubConfig(root=tmp_path / "hub", logins_per_minute=3))
    for _ in range(3):
        answer = await hub.http.get("/v2/", headers=basic("admin", "wrong"))
        assert answer.status == 401
    limited = await hub.http.get("/v2/", headers=hub.basic)
    assert limited.status == 429 and int(limited.headers["Retry-After"]) > 0


async def test_htpasswd_users_and_a_hub_without_anonymous_pulls(hubs: Hubs, tmp_path: Path) -> None:
    import bcrypt

    hashed = bcrypt.hashpw(b"secret12", bcrypt.gensalt(4)).decode()
    (tmp_path / "htpasswd").write_text(f"# people\nzoe:{hashed}\n")
    hub = await hubs.start(
        HubConfig(root=tmp_path / "hub", anonymous="none", htpasswd=tmp_path / "htpasswd")
    )
    zoe = basic("zoe", "secret12")
    assert (await hub.http.get("/v2/", headers=zoe)).status == 200
    assert (await hub.http.post("/v2/zoe/a/blobs/uploads/", headers=zoe)).status == 202
    assert (await hub.http.get("/v2/_catalog")).status == 401
    assert (await hub.http.get("/v1/search?q=a")).status == 401
    page = await hub.http.get("/", allow_redirects=False)
    assert page.status == 302 and page.headers["Location"] == "/login?to=/"


async def test_the_oauth_way(closed_hub: Running) -> None:
    hub = closed_hub
    secret = await hub.hub.accounts.create_token("admin", "", "*", "pull", 1)
    form = {"grant_type": "refresh_token", "refresh_token": secret, "service": "x"}
    answer = await hub.http.post("/token", data={**form, "scope": "repository:a:pull,push"})
    grant = hub.hub.signer.grant((await answer.json())["access_token"])
    assert grant and grant.actions == {"a": {"pull"}}
    assert (await hub.http.post("/token", data={**form, "refresh_token": "no"})).status == 401
    assert (await hub.http.post("/token", data={"grant_type": "x"})).status == 400
