"""The OCI runtimes that containers can be run by: our own, and programs of the host by name.

``sampan`` is our own and always there, also by the name that Docker's engine has for the runtime
that is always there.  ``crun``, ``runc``, ``runsc`` and ``youki`` are known by
themselves where the host has them; the daemon's configuration adds others, or other paths and
arguments for these.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from typing import Any

import msgspec

from sampan.errors import InvalidParameter

OWN = "sampan"
BUILT_IN = (OWN, "io.containerd.runc.v2")
_KNOWN = ("crun", "runc", "runsc", "youki")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class RuntimeProgram(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel", omit_defaults=True
):
    """One entry of the configuration's ``runtimes``: a path, or a name to be looked up, and
    arguments that stand before every command."""

    path: str
    runtime_args: list[str] = []


class Runtimes:
    """Finds runtimes by name."""

    def __init__(
        self, configured: Mapping[str, RuntimeProgram] | None = None, default: str = OWN
    ) -> None:
        """Raises InvalidParameter for a default that there is not, or a configured ``sampan``."""
        for name in BUILT_IN:
            if name in (configured or {}):
                raise InvalidParameter(f"runtime name '{name}' is reserved")
        self._configured = dict(configured or {})
        self.default = default or OWN
        self.check(self.default)

    def check(self, name: str) -> None:
        """Raises InvalidParameter for a name that is unknown (empty: the default)."""
        if name in ("", *BUILT_IN) or name in self._configured:
            return
        if name in _KNOWN:
            if shutil.which(name, path=_PATH) is None:
                raise InvalidParameter(
                    f"unknown or invalid runtime name: {name} (the program is not installed)"
                )
            return
        raise InvalidParameter(f"unknown or invalid runtime name: {name}")

    def command(self, name: str) -> list[str]:
        """The words of its command line; none for our own.

        Raises InvalidParameter when there is no such runtime or its program is not there.
        """
        self.check(name)
        if name in ("", *BUILT_IN):
            return []
        program = self._configured.get(name) or RuntimeProgram(name)
        found = shutil.which(program.path, path=_PATH)
        if found is None:
            raise InvalidParameter(
                f"cannot start with runtime {name}: {program.path} is not an executable program"
            )
        return [os.path.abspath(found), *program.runtime_args]

    def document(self) -> dict[str, Any]:
        """``Runtimes`` of ``info``: those that can be used."""
        found: dict[str, Any] = {name: {"path": "sampan-oci"} for name in BUILT_IN}
        for name in _KNOWN:
            path = shutil.which(name, path=_PATH)
            if path and name not in self._configured:
                found[name] = {"path": path}
        for name, program in self._configured.items():
            found[name] = msgspec.to_builtins(program)
        return found
