"""Calls to services on the system bus: strings in, strings out, one connection a series of calls.

Every method blocks, for at most the time that is given to :class:`Bus`.
"""

from __future__ import annotations

from sampan.linux.dbus import CallError, Connection, Method

_BUS = "org.freedesktop.DBus"


class BusError(Exception):
    """A service's refusal: its ``name`` (``org.freedesktop.DBus.Error.…``) and its words."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name}: {text}" if text else name)
        self.name = name


class Bus:
    """A connection to the bus at the socket ``path``.  Raises :class:`OSError`."""

    def __init__(self, path: str, timeout: float) -> None:
        self._connection = Connection(path, timeout)
        try:
            self.call(_BUS, "/org/freedesktop/DBus", _BUS, "Hello")
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> Bus:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def call(self, service: str, path: str, interface: str, member: str, *words: str) -> str:
        """Call a method with strings; its answer if that is a string, otherwise nothing.

        The service is not started for it.  Raises :class:`BusError`, :class:`OSError`.
        """
        method = Method(service, path, interface, member, "s" * len(words))
        try:
            values = self._connection.call(method, *words)
        except CallError as failure:
            raise BusError(failure.name, failure.text) from None
        return values[0] if values and isinstance(values[0], str) else ""
