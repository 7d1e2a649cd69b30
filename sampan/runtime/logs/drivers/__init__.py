"""Log drivers that send lines to other programs: syslog, journald, fluentd.

They run in a shipper (:mod:`sampan.runtime.logs.shipper`), a process of its own, so they may wait.
A *driver* gets batches of messages and returns when they are delivered, kept, or given up.
Their settings (``LogConfig.remote``) are made by the engine from Docker's log options; they are
complete and checked.  The common ones:

``tag``
    The text that names the container to the receiver.
``id``, ``name``
    The container's.
"""

from __future__ import annotations

from typing import Protocol

from sampan.runtime.logs.lines import Message
from sampan.runtime.types import LogConfig


class Driver(Protocol):
    """See the package's description."""

    def send(self, messages: list[Message]) -> None: ...

    def close(self) -> None:
        """Deliver what is kept, and end."""
        ...


def connect(config: LogConfig) -> Driver:
    """The driver of a configuration.  Raises OSError or ValueError if it cannot do its work."""
    if config.driver == "syslog":
        from sampan.runtime.logs.drivers.syslog import Syslog

        return Syslog(config)
    if config.driver == "journald":
        from sampan.runtime.logs.drivers.journald import Journald

        return Journald(config)
    if config.driver == "fluentd":
        from sampan.runtime.logs.drivers import fluentd

        return fluentd.make(config)
    raise ValueError(f"logger: no log driver named '{config.driver}' is registered")
