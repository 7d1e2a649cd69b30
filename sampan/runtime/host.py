"""What every start needs to know of the host, looked up once in the spawner, before any fork."""

from __future__ import annotations

from typing import NamedTuple

from sampan.linux import capabilities
from sampan.runtime import cgroups


class Host(NamedTuple):
    """Capabilities: the last one that the kernel knows, and what we may give away."""

    last_capability: int
    bounding: int


_host: Host | None = None


def get() -> Host:
    """The facts; the first call looks them up."""
    global _host
    if _host is None:
        _host = Host(capabilities.last(), capabilities.bounding())
        cgroups.layout()
    return _host
