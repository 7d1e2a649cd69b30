"""Live beside firewalld, which rejects what is forwarded between interfaces that it does not know.

A packet must be accepted by every table that has a say, so that bridges have to be firewalld's own:
each is put into its zone ``trusted`` unless the administrator has put it into another.  That is
part of firewalld's state of the moment, which ends with it; its chains being made tells that it has
begun again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from sampan.network.dbus import Bus, BusError

log = logging.getLogger(__name__)

# A chain that firewalld makes, last among those that matter.
WATCHED_CHAIN = "filter_FORWARD"

_SERVICE = "org.fedoraproject.FirewallD1"
_PATH = "/org/fedoraproject/FirewallD1"
_ZONES = _SERVICE + ".zone"
_ZONE = "trusted"
_ABSENT = (
    "org.freedesktop.DBus.Error.ServiceUnknown",
    "org.freedesktop.DBus.Error.NameHasNoOwner",
)
# Of a firewalld that is just starting.
_ANSWER_SECONDS = 60.0
_PATIENCE_SECONDS = 5.0


class Firewalld:
    """The zones of one daemon's bridges.  ``bus`` is the socket of the system bus; empty: none.
    ``bridges`` gives the names of the bridges that there are."""

    def __init__(self, bus: str, bridges: Callable[[], Sequence[str]]) -> None:
        self._bus = bus
        self._bridges = bridges
        self._ours: set[str] = set()
        self._pass: asyncio.Task[None] | None = None
        self._again = False

    def close(self) -> None:
        if self._pass is not None:
            self._pass.cancel()

    def refresh(self) -> None:
        """Begin to look at all bridges' zones (again, if that is being done)."""
        if not self._bus or not Path(self._bus).exists():
            return
        self._again = True
        if self._pass is None:
            self._pass = asyncio.get_running_loop().create_task(self._refresh())

    async def settled(self) -> None:
        """After a :meth:`refresh`: when all bridges are in their zones, or firewalld takes long."""
        if self._pass is not None:
            await asyncio.wait([self._pass], timeout=_PATIENCE_SECONDS)

    async def _refresh(self) -> None:
        try:
            while self._again:
                self._again = False
                await asyncio.to_thread(self._exchange, set(self._bridges()))
        except BusError as error:
            if error.name not in _ABSENT:
                log.error("firewalld may keep containers from reaching others: %s", error)
        except OSError as error:
            log.warning("firewalld cannot be asked: %s", error)
        finally:
            self._pass = None

    def _exchange(self, wanted: set[str]) -> None:
        with Bus(self._bus, _ANSWER_SECONDS) as bus:
            for name in sorted(wanted):
                zone = self._call(bus, "getZoneOfInterface", name)
                if not zone:
                    self._call(bus, "addInterface", _ZONE, name)
                    log.info("put %s into the zone %s of firewalld", name, _ZONE)
                if zone in ("", _ZONE):
                    self._ours.add(name)
                else:
                    log.info("%s is in the zone %s of firewalld: leaving it there", name, zone)
            for name in sorted(self._ours - wanted):
                self._ours.discard(name)
                if self._call(bus, "getZoneOfInterface", name) == _ZONE:
                    self._call(bus, "removeInterface", _ZONE, name)

    def _call(self, bus: Bus, member: str, *words: str) -> str:
        return bus.call(_SERVICE, _PATH, _ZONES, member, *words)
