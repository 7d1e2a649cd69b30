"""Which containers a daemon starts when it begins, and in which order: Docker's rules.

Those that still run are not touched.  Those that have ended are started again if their restart
policy says so, whether they ended with the host, or long before it by a client's wish: ``always``
holds from the first start to the removal, as Docker documents it.  A container that was never
started stays what it is.
"""

from __future__ import annotations

from collections.abc import Iterable

from sampan.engine import links
from sampan.engine.state import Container, ContainerRecord


def wanted(record: ContainerRecord) -> bool:
    """Whether a container that does not run is to be started."""
    state, policy = record.state, record.host.restart_policy
    if state.status != "exited":
        return False
    match policy.name:
        case "always":
            return True
        case "unless-stopped":
            return not state.manually_stopped
        case "on-failure":
            most = policy.maximum_retry_count
            return state.exit_code != 0 and (not most or state.restart_count < most)
        case _:
            return False


def needed(container: Container, others: Iterable[Container]) -> list[Container]:
    """Those of the others that have to run before the container can start: whose namespaces it
    joins, or that it is linked to.  Only older ones, so that nobody waits in a circle."""
    host = container.record.host
    modes = (host.network_mode, host.ipc_mode, host.pid_mode)
    names = {mode.removeprefix("container:") for mode in modes if mode.startswith("container:")}
    names |= {name for name, _ in links.of(host)}
    created = container.record.created
    return [
        other
        for other in others
        if other.record.created < created and not names.isdisjoint((other.id, other.name))
    ]
