"""The page in a real Chromium: search while typing, copying, narrow screens, the policy."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sampan.image.reference import Reference
from sampan.progress import ignore
from sampan.registry.client import RegistryClient
from sampan.store.content import ContentStore
from tests.hub.conftest import Running
from tests.registry.images import make_image

async_api = pytest.importorskip("playwright.async_api")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is not installed")
PAGES = ("/", "/search?q=app", "/r/team/app", "/r/team/app/-/tags/1", "/login", "/nothing")


async def test_the_page_in_a_browser(
    closed_hub: Running, client: RegistryClient, source: ContentStore, tmp_path: Path
) -> None:
    hub = closed_hub
    for name in ("team/app", "team/other", "library/redis"):
        made = make_image(source, [2000], seed=1)
        await client.push(
            Reference.parse(f"{hub.host}/{name}:1"),
            auth=hub.admin,
            manifest_bytes=made.manifest,
            content=source,
            report=ignore,
        )
    problems: list[str] = []
    async with async_api.async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            context = await browser.new_context(
                base_url=f"http://{hub.host}",
                viewport={"width": 360, "height": 740},
                color_scheme=scheme,
            )
            page = await context.new_page()
            page.on(
                "console",
                lambda m: (
                    problems.append(m.text) if m.type == "error" and "404" not in m.text else None
                ),
            )
            for path in PAGES:
                await page.goto(path)
                width = await page.evaluate("document.documentElement.scrollWidth")
                assert width == 360, f"{path} is {width} px wide"
                assert await page.evaluate("document.querySelectorAll('h1').length") == 1
            await page.goto("/")
            await page.fill("main input[name=q]", "redi")
            await page.wait_for_url("**/search?q=redi")
            assert await page.locator(".card").count() == 1
            await context.close()
        context = await browser.new_context(
            base_url=f"http://{hub.host}",
            java_script_enabled=False,
        )
        page = await context.new_page()
        await page.goto("/")
        await page.fill("main input[name=q]", "team")
        await page.click("main form.find button")
        assert await page.locator(".card").count() == 2
        await page.goto("/login")
        await page.fill("[name=name]", "admin")
        await page.fill("[name=password]", hub.password)
        await page.click("main button")
        await page.goto("/account")
        await page.fill("main [name=label]", "ci")
        await page.click("text=Make a token")
        assert "spt_" in await page.inner_text("main")
        await browser.close()
    assert problems == []
