"""The web page: what it shows, what it hides, and what it cannot be tricked into."""

from __future__ import annotations

import json
import re

import pytest

from sampan.hub.inspection import instruction
from sampan.hub.layerindex import Entry, LayerIndex, merge
from sampan.hub.routes.pages import list_folder
from sampan.hub.web.messages import _CHINESE, choose
from sampan.hub.web.rendering import human_size, markdown
from sampan.image.reference import Reference
from sampan.progress import ignore
from sampan.registry.client import RegistryClient
from sampan.store.content import ContentStore
from tests.hub.conftest import Running, new_session
from tests.registry.images import make_image

EVIL = "<script>alert(1)</script>"


async def login(hub: Running, name: str, password: str) -> str:
    """Log the session in; returns the CSRF token of its pages."""
    answer = await hub.http.post(
        "/login", data={"name": name, "password": password}, allow_redirects=False
    )
    assert answer.status == 303, await answer.text()
    text = await (await hub.http.get("/account")).text()
    match = re.search(r'name="csrf" value="([^"]+)"', text)
    assert match
    return match[1]


@pytest.fixture
async def filled(closed_hub: Running, client: RegistryClient, source: ContentStore) -> Running:
    for tag, seed in (("1", 1), ("2", 2)):
        made = make_image(source, [3000], seed=seed)
        await client.push(
            Reference.parse(f"{closed_hub.host}/team/app:{tag}"),
            auth=closed_hub.admin,
            manifest_bytes=made.manifest,
            content=source,
            report=ignore,
        )
    return closed_hub


async def test_pages_answer_with_a_strict_policy(filled: Running) -> None:
    layer = await filled.hub.records.manifest("team/app", "1")
    assert layer
    digest = json.loads(layer.content)["layers"][0]["digest"]
    for path in (
        "/",
        "/search?q=app",
        "/search/results?q=zzz",
        "/r/team/app",
        "/r/team/app/-/tags/1",
        f"/r/team/app/-/files/{digest}",
        "/r/team/app/-/diff?from=1&to=2",
        "/login",
    ):
        answer = await filled.http.get(path)
        assert answer.status == 200, path
        assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
        assert "unsafe" not in answer.headers["Content-Security-Policy"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        text = await answer.text()
        assert "style=" not in text and "onclick" not in text
        for asset in re.findall(r'(?:href|src)="(/static/[^"]+)"', text):
            assert (await filled.http.get(asset)).status == 200
    assert "file-1000" in await (await filled.http.get(f"/r/team/app/-/files/{digest}")).text()
    for path in ("/nothing", "/r/none", "/r/team/app/-/tags/none", "/static/x/../hub.css"):
        assert (await filled.http.get(path)).status == 404, path


async def test_nothing_that_people_write_becomes_markup(filled: Running) -> None:
    await filled.hub.records.describe(
        "team/app",
        description=EVIL,
        readme=f"# Hello\n{EVIL}\n[x](javascript:alert(1)) <img src=x onerror=alert(1)>\n"
        f'![{EVIL}]("onload=alert(1))',
        private=False,
    )
    for path in ("/", "/r/team/app", f"/search?q={EVIL}", "/r/team/app/-/settings"):
        text = await (await filled.http.get(path)).text()
        assert EVIL not in text, path
        assert "<img src=x" not in text and 'href="javascript' not in text
    assert "<h2>Hello</h2>" in await (await filled.http.get("/r/team/app")).text()


async def test_forms_need_the_session_and_its_token(filled: Running) -> None:
    csrf = await login(filled, "admin", filled.password)
    form = {"description": "new", "readme": "", "csrf": csrf}
    url = "/r/team/app/-/settings"
    for wrong in ({**form, "csrf": ""}, {**form, "csrf": "x" * 22}, {"description": "new"}):
        assert (await filled.http.post(url, data=wrong)).status == 403
    evil = {"Origin": "http://evil.test"}
    assert (await filled.http.post(url, data=form, headers=evil)).status == 403
    assert (await filled.http.post(url, data=form)).status == 200
    found = await filled.hub.records.repository("team/app")
    assert found and found.description == "new"
    answer = await filled.http.post("/r/team/app/-/delete", data={"csrf": csrf, "name": "no"})
    assert await filled.hub.records.repository("team/app")
    answer = await filled.http.post("/r/team/app/-/delete", data={"csrf": csrf, "name": "team/app"})
    assert answer.status == 200 and not await filled.hub.records.repository("team/app")
    await filled.http.post("/logout", data={"csrf": csrf})
    assert (await filled.http.get("/admin", allow_redirects=False)).status == 302


async def test_accounts_are_managed_on_the_page(filled: Running) -> None:
    csrf = await login(filled, "admin", filled.password)
    user = {"csrf": csrf, "name": "ann", "password": "password1", "admin": "0"}
    assert "ann" in await (await filled.http.post("/admin/user", data=user)).text()
    again = await filled.http.post("/admin/user", data=user)
    assert again.status == 400 and "exists already" in await again.text()
    await filled.http.post("/admin/member", data={"csrf": csrf, "team": "dev", "name": "ann"})
    grant = {"csrf": csrf, "holder": "@dev", "pattern": "team/*", "level": "write"}
    text = await (await filled.http.post("/admin/grant", data=grant)).text()
    assert "@dev" in text and "team/*" in text and "grant" in text
    async with new_session(filled.port) as other:
        theirs = Running(filled.hub, filled.port, "", other)
        csrf = await login(theirs, "ann", "password1")
        assert (await other.get("/admin")).status == 403
        assert (await other.post("/admin/user", data={"csrf": csrf})).status == 403
        form = {"csrf": csrf, "label": "ci", "repositories": "*", "actions": "pull", "days": "9"}
        text = await (await other.post("/account/token", data=form)).text()
        match = re.search(r"spt_[\w-]+", text)
        assert match and await filled.hub.accounts.verify("ann", match[0])
        change = {"csrf": csrf, "old": "password1", "new": "password2"}
        (old_session,) = [c.value for c in other.cookie_jar if c.key == "sampan_session"]
        assert (await other.post("/account/password", data=change)).status == 200
        assert (await other.get("/account", allow_redirects=False)).status == 200
    async with new_session(filled.port, {"sampan_session": old_session}) as stale:
        assert (await stale.get("/account", allow_redirects=False)).status == 302


ELSEWHERE = [
    "//evil.test",
    "/\\evil.test",
    "/\t/evil.test",
    "\t//evil.test",
    "http://evil.test",
    "",
]


@pytest.mark.parametrize("target", ELSEWHERE)
async def test_nobody_is_sent_to_another_site(filled: Running, target: str) -> None:
    answer = await filled.http.get("/language/en", params={"to": target}, allow_redirects=False)
    assert answer.headers["Location"] == "/"
    form = {"name": "admin", "password": filled.password, "to": target}
    answer = await filled.http.post("/login", data=form, allow_redirects=False)
    assert (answer.status, answer.headers["Location"]) == (303, "/")


async def test_the_login_leads_back(filled: Running) -> None:
    answer = await filled.http.get("/admin?x=1&y=%C3%BC", allow_redirects=False)
    assert answer.headers["Location"] == "/login?to=/admin?x%3D1%26y%3D%25C3%25BC"
    text = await (await filled.http.get("/r/team/app")).text()
    assert 'href="/login?to=%2Fr%2Fteam%2Fapp"' in text
    form = {"name": "admin", "password": "wrong", "to": "/r/team/app?page=1"}
    answer = await filled.http.post("/login", data=form)
    assert answer.status == 401
    assert 'name="to" value="/r/team/app?page=1"' in await answer.text()
    form["password"] = filled.password
    answer = await filled.http.post("/login", data=form, allow_redirects=False)
    assert answer.headers["Location"] == "/r/team/app?page=1"


async def test_what_cannot_be_undone_is_asked_for_twice(filled: Running) -> None:
    csrf = await login(filled, "admin", filled.password)
    records = filled.hub.records
    form = {"csrf": csrf, "tag": "1"}
    text = await (await filled.http.post("/r/team/app/-/untag", data=form)).text()
    assert "Delete the tag 1 of team/app?" in text and 'name="sure"' in text
    assert len(await records.tags("team/app")) == 2
    await filled.http.post("/r/team/app/-/untag", data={**form, "sure": "1"})
    assert [tag.name for tag in await records.tags("team/app")] == ["2"]
    user = {"csrf": csrf, "name": "ann", "password": "password1", "admin": "0"}
    await filled.http.post("/admin/user", data=user)
    text = await (await filled.http.post("/admin/user/delete", data=user)).text()
    assert "Delete the user ann?" in text and await filled.hub.accounts.identity("ann")
    await filled.http.post("/admin/user/delete", data={**user, "sure": "1"})
    assert not await filled.hub.accounts.identity("ann")
    wrong = {"csrf": csrf, "name": "team/ap"}
    answer = await filled.http.post("/r/team/app/-/delete", data=wrong)
    assert answer.status == 400
    assert "This is not the name of the repository." in await answer.text()


async def test_languages(filled: Running) -> None:
    headers = {"Accept-Language": "zh-CN,zh;q=0.9,en;q=0.8"}
    text = await (await filled.http.get("/", headers=headers)).text()
    assert 'lang="zh-Hans"' in text and "搜索镜像" in text
    answer = await filled.http.get(
        "/language/en", params={"to": "/search?q=a%20b&page=2"}, allow_redirects=False
    )
    assert answer.headers["Location"] == "/search?q=a%20b&page=2"
    assert choose("fr, en;q=0.5", "") == "en" and choose("en", "zh") == "zh"


def test_every_text_of_the_templates_is_translated() -> None:
    from pathlib import Path

    import sampan.hub.web

    folder = Path(sampan.hub.web.__file__).parent / "templates"
    used = {
        text
        for path in folder.iterdir()
        for text in re.findall(r'_\(\s*["\']((?:[^"\'\\]|(?<=\w)\'(?=\w))+)["\']', path.read_text())
    }
    assert used - _CHINESE.keys() == set()


def _entry(path: str, content: bytes = b"") -> Entry:
    return Entry(path, "d" if path.endswith("/") else "-", 1, 0o644, "0:0", 0, "", content)


def test_layers_are_merged_with_their_whiteouts() -> None:
    lower = LayerIndex([_entry("a/x"), _entry("a/y"), _entry("b/z"), _entry("c")])
    upper = LayerIndex([_entry("a/.wh..wh..opq"), _entry("a/new"), _entry(".wh.c")])
    assert sorted(merge([lower, upper])) == ["a/new", "b/z"]


def test_folders_are_listed_also_when_only_implied() -> None:
    index = LayerIndex([_entry("a/b/c"), _entry("a/x"), _entry("top")])
    assert [(r.name, r.kind) for r in list_folder(index, "")] == [("a", "d"), ("top", "-")]
    assert [(r.name, r.path) for r in list_folder(index, "a")] == [("b", "a/b"), ("x", "a/x")]
    assert list_folder(index, "a/nothing") == []


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ('/bin/sh -c #(nop)  CMD ["sh"]', 'CMD ["sh"]'),
        ("/bin/sh -c apt-get update", "RUN apt-get update"),
        ("RUN /bin/sh -c make # buildkit", "RUN make"),
        ("COPY . . # buildkit", "COPY . ."),
    ],
)
def test_history_reads_as_a_dockerfile(line: str, shown: str) -> None:
    assert instruction(line) == shown


def test_small_renderers() -> None:
    assert [human_size(n) for n in (0, 999, 1500, 184_000_000, -5000)] == [
        "0 B",
        "999 B",
        "1.5 kB",
        "184 MB",
        "-5 kB",
    ]
    assert "<h2>" in markdown("# x") and "<script" not in markdown("<script>")
