"""The Python library over the daemon's socket.

Vocabulary
----------

*host*
    Where a daemon listens, as a URL: ``unix:///run/sampan/sampan.sock``, ``tcp://h:2376``,
    ``ssh://user@h`` (``client.hosts``).
*dial*
    Opening one connection to a host (``client.dial``); *start* is what happens when nothing
    listens on the default socket: one daemon is made, however many clients ask (``client.start``).
*api*
    The Engine API as requests and answers of JSON values (``client.api``); it raises the
    exceptions of :mod:`sampan.errors` by status.
*client*
    Typed objects over the api (``client.client``), which is what ``sampan.connect()`` returns; the
    same for an event loop is in ``client.aio``.

Only the standard library's C modules are imported until they are needed: the command line pays
for each import at every start.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.client.aio import AsyncClient
    from sampan.client.client import Client

__all__ = ["AsyncClient", "Client", "connect", "connect_async"]


def connect(host: str | None = None, *, timeout: float | None = None) -> Client:
    """A client of the daemon at ``host`` (default: the environment's, else the local daemon's).

    The local daemon is started when none runs.  ``timeout`` bounds each read in seconds.

    :raises sampan.errors.Unavailable: nothing answers there.
    """
    from sampan.client.client import Client
    from sampan.client.hosts import resolve

    return Client.at(resolve(host), timeout=timeout)


async def connect_async(host: str | None = None, *, timeout: float | None = None) -> AsyncClient:
    """As :func:`connect`, for programs on an event loop.

    :raises sampan.errors.Unavailable: nothing answers there.
    """
    from sampan.client.aio import AsyncClient
    from sampan.client.hosts import resolve

    return await AsyncClient.at(resolve(host), timeout=timeout)


def __getattr__(name: str) -> object:
    if name == "Client":
        from sampan.client.client import Client

        return Client
    if name == "AsyncClient":
        from sampan.client.aio import AsyncClient

        return AsyncClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
