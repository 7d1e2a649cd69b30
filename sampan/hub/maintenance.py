"""What an operator does to a hub from the command line, beside the serving process or without."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from sampan.errors import NotFound
from sampan.hub.checker import Checked
from sampan.hub.config import HubConfig
from sampan.hub.core import Hub, open_hub


@asynccontextmanager
async def opened(config: HubConfig) -> AsyncIterator[Hub]:
    """The hub's nouns, without its background work.

    Raises NotFound when there is no hub in ``config.root``, and what ``open_hub`` raises.
    """
    if not config.database_url and not (config.root / "hub.db").exists():
        raise NotFound(f"there is no hub in {config.root}: it has no hub.db")
    hub = open_hub(config)
    try:
        yield hub
    finally:
        await hub.close()


async def check(config: HubConfig, *, repair: bool, say: Callable[[str], None]) -> bool:
    """Check all that a hub keeps, and say what is wrong; whether all is well now."""
    seen = Checked()
    found = left = 0
    async with opened(config) as hub:
        async for fault in hub.checker.faults(seen, repair=repair):
            found += 1
            left += not fault.repaired
            say(f"{fault.subject}: {fault.reason}" + (" (removed)" if fault.repaired else ""))
    say(
        f"checked {seen.blobs} blobs of {seen.size} bytes and {seen.manifests} manifests: "
        f"{found} faults, {found - left} removed"
    )
    return not left


async def reset_password(config: HubConfig, name: str) -> str:
    """Give a user a new random password, and return it.  Raises NotFound."""
    password = secrets.token_urlsafe(12)
    async with opened(config) as hub:
        await hub.accounts.set_password(name, password)
        await hub.activity.audit("operator", "reset password", name, "")
    return password
