"""Notice when another program deletes our rules or bridges.

Two netlink sockets report changes; what is lost when one overflows is found by asking, because the
repairing functions look at the kernel before they do anything.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable, Collection
from functools import partial

from sampan.linux import nftables, rtnetlink
from sampan.linux.netlink import NETLINK_ROUTE, Received, Socket
from sampan.linux.rtnetlink import Link

log = logging.getLogger(__name__)

_AF_UNSPEC = 0


class Watch:
    """Calls ``rules_gone()`` when a table was deleted, ``policy_changed()`` when one of the
    ``chains`` was made or changed, ``link_gone(link)`` when a link was deleted and
    ``link_changed(payload)`` (for :func:`~sampan.linux.rtnetlink.parse_link`: most notices are of
    no interest) when one was made or changed; ``overflow()`` when notices were lost."""

    def __init__(
        self,
        rules_gone: Callable[[], None],
        policy_changed: Callable[[], None],
        link_gone: Callable[[Link], None],
        link_changed: Callable[[bytes], None],
        overflow: Callable[[], None],
        chains: Collection[str],
    ) -> None:
        self._rules_gone = rules_gone
        self._policy_changed = policy_changed
        self._chains = chains
        self._link_gone = link_gone
        self._link_changed = link_changed
        self._overflow = overflow
        self._sockets: list[Socket] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        watches = (
            (nftables.open_socket(watch=True), self._on_rules),
            (Socket(NETLINK_ROUTE, (rtnetlink.RTNLGRP_LINK,)), self._on_links),
        )
        for watched, handler in watches:
            watched.set_blocking(False)
            loop.add_reader(watched.fileno(), self._read, watched, handler)
            self._sockets.append(watched)

    def stop(self) -> None:
        for watched in self._sockets:
            if self._loop is not None:
                self._loop.remove_reader(watched.fileno())
            watched.close()
        self._sockets.clear()

    def _read(self, watched: Socket, handler: Callable[[list[Received]], None]) -> None:
        try:
            received = watched.receive()
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            self._guard(self._rules_gone)
            self._guard(self._policy_changed)
            self._guard(self._overflow)
            return
        handler(received)

    def _on_rules(self, received: list[Received]) -> None:
        if any(nftables.deleted_table(message) for message in received):
            self._guard(self._rules_gone)
        if any(nftables.new_chain(message) in self._chains for message in received):
            self._guard(self._policy_changed)

    def _on_links(self, received: list[Received]) -> None:
        for message in received:
            # The family of a bridge's notice that a port has left it is AF_BRIDGE.
            if message.payload[0] != _AF_UNSPEC:
                continue
            if message.kind == rtnetlink.RTM_DELLINK:
                link = rtnetlink.parse_link(message.payload)
                self._guard(partial(self._link_gone, link))
            elif message.kind == rtnetlink.RTM_NEWLINK:
                self._guard(partial(self._link_changed, message.payload))

    def _guard(self, repair: Callable[[], None]) -> None:
        try:
            repair()
        except Exception:
            log.exception("repairing the network failed")
