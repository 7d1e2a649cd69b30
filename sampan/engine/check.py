"""A look at everything that has a record: does the machine agree with it?  And repair.

What is compared: the kernel's links, addresses and packet filter with the networks and the running
containers; every blob with its digest; images, layers and snapshots with their files; the metadata
database with itself.
"""

from __future__ import annotations

import asyncio

import msgspec

from sampan.engine.containers import Containers
from sampan.errors import Conflict
from sampan.network.manager import NetworkManager
from sampan.store import check
from sampan.store.images import ImageStore
from sampan.store.metadata import Metadata

# A container that is being started has an address before it has an interface.
_PATIENCE_SECONDS = 0.5


class Finding(msgspec.Struct, frozen=True, rename="pascal"):
    """What is wrong, in a sentence; ``area`` is ``network`` or ``store``; ``repaired``: no more."""

    area: str
    text: str
    repaired: bool = False


Findings = list[Finding]


class Check:
    """``system check``."""

    def __init__(
        self,
        metadata: Metadata,
        images: ImageStore,
        networks: NetworkManager,
        containers: Containers,
    ) -> None:
        self._metadata = metadata
        self._images = images
        self._networks = networks
        self._containers = containers
        self._lock = asyncio.Lock()

    async def run(self, repair: bool = False) -> Findings:
        """Everything that is wrong.  Reads all blobs: it may take a while, in a thread.

        With ``repair`` what can be mended is; raises Conflict when a pull, a load or a build is
        under way then.
        """
        async with self._lock:
            return [*await self._network(repair), *await self._store(repair)]

    async def _network(self, repair: bool) -> Findings:
        found = self._differences()
        if found:
            await asyncio.sleep(_PATIENCE_SECONDS)
            found &= self._differences()
        if not found:
            return []
        if repair:
            for container in self._containers.all():
                if not container.running and not container.lock.locked():
                    await self._networks.release(container.id)
            self._networks.repair()
        left = self._differences() if repair else found
        return [Finding("network", text, text not in left) for text in sorted(found)]

    def _differences(self) -> set[str]:
        ended = {container.id for container in self._containers.all() if not container.running}
        holding = {
            f"the container {id} does not run and holds addresses"
            for id in ended
            if self._networks.container_endpoints(id)
        }
        return {*self._networks.check(), *holding}

    async def _store(self, repair: bool) -> Findings:
        problems = await asyncio.to_thread(check.check, self._metadata, self._images)
        if problems and repair:
            if self._images.content.leases.held():
                raise Conflict(
                    "the store cannot be repaired now: a pull, a load or a build is under way"
                )
            # On the event loop, so that nothing else changes the store meanwhile.
            problems = check.check(self._metadata, self._images, repair=True)
        return [Finding("store", problem.text, problem.repaired) for problem in problems]
