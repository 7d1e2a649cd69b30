"""sampan: a container engine.

An *image* is a program packaged with its runtime environment, a *Dockerfile* is the image's
source, and a *container* is the running process.  ``sampan.connect()`` gives a client of the
daemon; the packages below are described in ``docs/architecture.md``.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.client import Client, connect

__version__ = "0.1.0"
__all__ = ["Client", "__version__", "connect"]


def __getattr__(name: str) -> object:
    # Imported when asked for: the command line and the daemon do without them.
    if name in ("Client", "connect"):
        from sampan import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
