"""Services that a keeper runs beside its container (the embedded DNS, for one).

A service is named ``module:attribute`` in :class:`~sampan.runtime.types.ServiceRequest`; the
module is among those that the spawner preloads.  The attribute is a callable with the signature
of :class:`KeeperService`.  It makes its sockets, registers their descriptors with the keeper's
event loop and returns an object that the keeper holds until the container ends; then its
``close`` is called, if it has one.  It must not block: one keeper is one thread.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from sampan.linux.namespaces import CLONE_NEWNET, setns
from sampan.runtime.loop import IN, Loop
from sampan.runtime.types import ServiceRequest

Register = Callable[[int, Callable[[], None]], None]


class KeeperService(Protocol):
    """The callable that a service's name points to."""

    def __call__(self, config: dict[str, Any], netns_fd: int | None, register: Register) -> object:
        """Start the service for the network namespace ``netns_fd`` (None: the host's).

        The keeper adds ``hold_fds`` to the configuration: the descriptors that it holds open.
        """
        ...


def find_service(name: str) -> KeeperService:
    """The callable that ``module:attribute`` names.  Raises ValueError if it is not preloaded."""
    module_name, _, attribute = name.partition(":")
    found = getattr(sys.modules.get(module_name), attribute, None)
    if found is None:
        raise ValueError(f"keeper service {name!r} is not preloaded")
    return found  # type: ignore[no-any-return]


def socket_in_netns(
    netns_fd: int | None, family: int, kind: int, address: tuple[str, int] | None = None
) -> socket.socket:
    """Make a non-blocking socket in another network namespace, bound to ``address`` if given.

    Called in a keeper, which has one thread: it enters the namespace and returns from it.
    Raises OSError if the namespace cannot be entered or the address not bound.
    """
    if netns_fd is None:
        return _make(family, kind, address)
    own = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        setns(netns_fd, CLONE_NEWNET)
        try:
            return _make(family, kind, address)
        finally:
            setns(own, CLONE_NEWNET)
    finally:
        os.close(own)


def _make(family: int, kind: int, address: tuple[str, int] | None) -> socket.socket:
    made = socket.socket(family, kind)
    try:
        made.setblocking(False)
        if address is not None:
            made.bind(address)
    except OSError:
        made.close()
        raise
    return made


class Services:
    """The services of one container that run."""

    def __init__(self, loop: Loop) -> None:
        self.held: list[int] = []
        """The descriptors that the keeper holds open for the container."""
        self._loop = loop
        self._running: list[_Service] = []

    def start(self, requests: Iterable[ServiceRequest], network: int) -> None:
        for request in requests:
            service = _Service(self._loop)
            self._running.append(service)
            service.start(request, {**request.config, "hold_fds": self.held}, network)

    def stop(self) -> None:
        for service in self._running:
            service.stop()
        self._running = []

    def let_go(self) -> None:
        """Close the descriptors that are held."""
        held, self.held = self.held, []
        for fd in held:
            os.close(fd)


class _Service:
    """One service and the descriptors that it has registered."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._fds: list[int] = []
        self._running: object = None

    def start(self, request: ServiceRequest, config: dict[str, Any], network: int) -> None:
        self._running = find_service(request.name)(config, network, self._register)

    def _register(self, fd: int, callback: Callable[[], None]) -> None:
        self._fds.append(fd)
        self._loop.add(fd, IN, lambda _: callback())

    def stop(self) -> None:
        for fd in self._fds:
            self._loop.remove(fd)
        close = getattr(self._running, "close", None)
        if close:
            close()
