"""The composition root: every part of the engine is made here and handed what it needs."""

from __future__ import annotations

import uuid
from contextlib import AsyncExitStack

from sampan.daemon.config import Settings
from sampan.engine import Engine
from sampan.engine.containers import Containers
from sampan.engine.events import Events
from sampan.engine.system import Facts, System


async def compose(settings: Settings, stack: AsyncExitStack) -> Engine:
    """Build the engine; what must be closed at the end is pushed on ``stack``, in order."""
    events = Events()
    containers = Containers()
    system = System(_facts(settings), containers, events, lambda: 0)
    return Engine(events=events, containers=containers, system=system)  # type: ignore[call-arg]


def _facts(settings: Settings) -> Facts:
    """The facts that ``info`` reports; the host's id is made once and kept."""
    identity = settings.state / "engine-id"
    if not identity.exists():
        identity.write_text(str(uuid.uuid4()))
    return Facts(
        state_dir=settings.state_dir,
        storage_driver=settings.storage_driver,
        log_driver=settings.log_driver,
        labels=settings.labels,
        insecure_registries=settings.insecure_registries,
        registry_mirrors=settings.registry_mirrors,
        default_registry=settings.default_registry,
        debug=settings.debug,
        host_id=identity.read_text().strip(),
        default_address_pools=[
            {"Base": pool.base, "Size": pool.size} for pool in settings.default_address_pools
        ],
    )
