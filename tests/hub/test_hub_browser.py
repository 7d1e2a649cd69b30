"""The pages in a real Chromium: every page by axe, search while typing, narrow screens, the
policy, and all of it without JavaScript."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sampan.hub.config import HubConfig
from tests.hub.conftest import Hubs, Running
from tests.hub.showcase import Showcase, fill, write_key

async_api = pytest.importorskip("playwright.async_api")
CHROMIUM = shutil.which("chromium")
AXE = Path(__file__).parents[2] / "scripts/axe-core"
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is not installed")


@dataclass
class Shop:
    """A filled hub, what is in it, and a browser."""

    hub: Running
    made: Showcase
    browser: Any

    async def open(self, **settings: Any) -> Any:
        context = await self.browser.new_context(base_url=f"http://{self.hub.host}", **settings)
        return await context.new_page()

    async def login(self, page: Any) -> None:
        await page.goto("/login")
        await page.fill("[name=name]", self.made.name)
        await page.fill("[name=password]", self.made.password)
        await page.click("main button")


@pytest.fixture
async def shop(hubs: Hubs, tmp_path: Path) -> AsyncIterator[Shop]:
    key = await asyncio.to_thread(write_key, tmp_path)
    keys = (tmp_path / "release.pem",)
    hub = await hubs.start(HubConfig(root=tmp_path / "hub", trusted_keys=keys))
    made = await fill(hub, key)
    async with async_api.async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield Shop(hub, made, browser)
        await browser.close()


@pytest.fixture(scope="session")
def axe() -> str:
    """The script of axe-core."""
    if shutil.which("npm") is None:
        pytest.skip("npm, which fetches axe-core, is not installed")
    found = subprocess.run([AXE], capture_output=True, text=True)
    if found.returncode:
        pytest.skip(f"axe-core cannot be had: {found.stderr.strip()[-200:]}")
    return Path(found.stdout.strip()).read_text()


def watch(page: Any) -> list[str]:
    """What the browser complains of from now on: violated policies, broken scripts."""
    problems: list[str] = []

    def note(message: Any) -> None:
        if message.type == "error" and "404" not in message.text:
            problems.append(message.text)

    page.on("console", note)
    page.on("pageerror", lambda error: problems.append(str(error)))
    return problems


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1000, "light")])
async def test_no_page_has_a_serious_finding(shop: Shop, axe: str, width: int, scheme: str) -> None:
    locale = "zh-CN" if scheme == "dark" else "en"
    page = await shop.open(
        viewport={"width": width, "height": 740}, color_scheme=scheme, locale=locale
    )
    problems = watch(page)
    found = []
    await shop.login(page)
    for path in (*shop.made.paths, *shop.made.private_paths):
        await page.goto(path)
        assert await page.evaluate("document.documentElement.scrollWidth") == width, path
        assert await page.locator("h1").count() == 1, path
        # Evaluated by the debugger, which the page's policy does not bind.
        await page.evaluate(axe)
        result = await page.evaluate("axe.run({resultTypes: ['violations']})")
        for violation in result["violations"]:
            nodes = [node["html"][:100] for node in violation["nodes"][:3]]
            found.append((path, violation["impact"], violation["id"], nodes))
    assert [f for f in found if f[1] in ("serious", "critical")] == []
    assert found == []
    assert problems == []


async def test_search_while_typing_and_copying(shop: Shop) -> None:
    page = await shop.open()
    problems = watch(page)
    await page.goto("/")
    await page.fill("main input[name=q]", "postgr")
    await page.wait_for_url("**/search?q=postgr")
    assert await page.locator(".card").count() == 1
    await page.goto("/r/team/shop")
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await page.click("button[data-copy]")
    await page.get_by_text("Copied").wait_for()
    copied = await page.evaluate("navigator.clipboard.readText()")
    assert copied == f"sampan run {shop.hub.host}/team/shop"
    assert problems == []


async def test_all_of_it_by_keyboard(shop: Shop) -> None:
    page = await shop.open()
    await page.goto("/r/team/shop")
    await page.keyboard.press("Tab")
    assert await page.evaluate("document.activeElement.className") == "skip"
    await page.keyboard.press("Enter")
    await page.wait_for_url("**#content")
    # From there every link and field is reached, and shows that it is.
    seen = set()
    for _ in range(40):
        await page.keyboard.press("Tab")
        seen.add(await page.evaluate("document.activeElement.textContent.trim()"))
        outline = "getComputedStyle(document.activeElement).outlineStyle"
        assert await page.evaluate(f"document.activeElement === document.body || {outline}") in (
            True,
            "solid",
        )
    assert {"latest", "1.0", "2.0", "Compare"} <= seen


async def test_without_javascript(shop: Shop) -> None:
    page = await shop.open(java_script_enabled=False)
    await page.goto("/")
    await page.fill("main input[name=q]", "library")
    await page.click("main form.find button")
    assert await page.locator(".card").count() == 3
    await page.goto("/r/team/shop")
    await page.select_option("[name=from]", "1.0")
    await page.select_option("[name=to]", "2.0")
    await page.click("text=Compare >> nth=-1")
    assert "openssl" in await page.inner_text("main")
    assert "3.0.2" in await page.inner_text("main")
    await shop.login(page)
    await page.goto("/account")
    await page.fill("main [name=label]", "ci")
    await page.click('button:has-text("Make a token")')
    assert "spt_" in await page.inner_text("main")
    await page.goto("/r/team/shop")
    rows = await page.locator("tbody tr").count()
    await page.click('button:has-text("Delete") >> nth=0')
    assert "team/shop?" in await page.inner_text("h1")
    await page.click("text=Keep it")
    await page.click('button:has-text("Delete") >> nth=0')
    await page.click("main button.danger")
    assert page.url.endswith("/r/team/shop")
    assert await page.locator("tbody tr").count() == rows - 1
