"""sampan: a container engine.

An *image* is a program packaged with its runtime environment, a *Dockerfile* is the image's
source, and a *container* is the running process.  ``sampan.connect()`` gives a client of the
daemon; the packages below are described in ``docs/architecture.md``.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.client import AsyncClient, Client, connect, connect_async

__version__ = "0.1.0"
__all__ = ["AsyncClient", "Client", "__version__", "connect", "connect_async"]


def __getattr__(name: str) -> object:
    # Imported when asked for: the command line and the daemon do without them.
    if name in ("AsyncClient", "Client", "connect", "connect_async"):
        from sampan import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
