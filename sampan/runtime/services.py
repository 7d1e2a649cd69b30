"""Services that a keeper runs beside its container (the embedded DNS, for one).

A service is named ``module:attribute`` in :class:`~sampan.runtime.types.ServiceRequest`; the
module is among those that the spawner preloads.  The attribute is a callable with the signature
of :class:`KeeperService`.  It makes its sockets, registers their descriptors with the keeper's
event loop and returns an object that the keeper holds until the container ends.  It must not
block: one keeper is one thread.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, Protocol

Register = Callable[[int, Callable[[], None]], None]


class KeeperService(Protocol):
    """The callable that a service's name points to."""

    def __call__(self, config: dict[str, Any], netns_fd: int | None, register: Register) -> object:
        """Start the service for the network namespace ``netns_fd`` (None: the host's)."""
        ...


def socket_in_netns(
    netns_fd: int | None, family: int, kind: int, address: tuple[str, int] | None = None
) -> socket.socket:
    """Make a non-blocking socket in another network namespace, bound to ``address`` if given.

    Called in a keeper, which has one thread: it enters the namespace and returns from it.
    Raises OSError if the namespace cannot be entered or the address not bound.
    """
    raise NotImplementedError
