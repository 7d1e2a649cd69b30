"""Refuse what a process must not do once it is inside a container.

Between entering a container's namespaces and execve, Python must not import a module or open a
path: either would take a file that the container chose and run or trust it with the host's
privileges.  An audit hook cannot be removed again, so it is for forked children only.
"""

from __future__ import annotations

import sys

_ALWAYS = frozenset(
    {"import", "ctypes.dlopen", "ctypes.dlsym", "exec", "compile", "subprocess.Popen"}
)
_INSIDE = _ALWAYS | {
    "open",
    "os.listdir",
    "os.scandir",
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "glob.glob",
}


class Forbidden(BaseException):
    """Not an Exception, so that no handler meant for other failures swallows it."""


class Guard:
    """The hook, in two steps: in the namespaces, then inside the root as well."""

    def __init__(self) -> None:
        self._forbidden = _ALWAYS
        sys.addaudithook(self._check)

    def inside(self) -> None:
        """From now on paths mean the container's files: open none."""
        self._forbidden = _INSIDE

    def _check(self, event: str, args: tuple[object, ...]) -> None:
        if event in self._forbidden:
            raise Forbidden(f"{event} of {args[:1]} was attempted inside a container")
