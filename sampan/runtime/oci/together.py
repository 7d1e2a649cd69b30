"""The code of all modules that a command imports, kept in one file beside their own.

Finding, opening and checking some fifty files of bytecode takes longer than running them.  The file
is made by the first command that finds none that is valid, and is valid as bytecode files are: for
sources of the same time and size.  Where it cannot be written, or is of other sources, modules are
imported as usual.
"""

from __future__ import annotations

import marshal
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, ModuleType
    from typing import Any

_PACKAGE = "sampan."
_missing = ""
_Spec: Any = type(sys.__spec__)


class _Finder:
    """Finds and loads modules whose code is there already."""

    def __init__(self, found: dict[str, tuple[str, int, int, bool, CodeType]]) -> None:
        self._found = found

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        entry = self._found.get(name)
        if entry is None:
            return None
        spec = _Spec(name, self, origin=entry[0], is_package=entry[3])
        spec.has_location = True
        if entry[3]:
            spec.submodule_search_locations = [os.path.dirname(entry[0])]
        return spec

    def create_module(self, spec: Any) -> None:
        """By the import system."""

    def exec_module(self, module: ModuleType) -> None:
        exec(self._found[module.__name__][4], vars(module))


def install(command: str) -> None:
    """Import from the command's file from now on, if it is valid."""
    global _missing
    _missing = command
    try:
        with open(_place(command), "rb") as file:
            found = marshal.loads(file.read())
        for path, changed, size, _, _ in found.values():
            now = os.stat(path)
            if now.st_mtime_ns != changed or now.st_size != size:
                return
    except (OSError, ValueError, EOFError, TypeError):
        return
    sys.meta_path.insert(0, _Finder(found))
    _missing = ""


def keep() -> None:
    """Write the file from what is imported now, if there is none and that is possible."""
    if not _missing or sys.dont_write_bytecode:
        return
    found = {}
    for name, module in list(sys.modules.items()):
        spec = getattr(module, "__spec__", None)
        if not name.startswith(_PACKAGE) or spec is None or not spec.origin:
            continue
        get_code = getattr(spec.loader, "get_code", None)
        code = get_code(name) if get_code else None
        if code is None:
            return
        state = os.stat(spec.origin)
        is_package = spec.submodule_search_locations is not None
        found[name] = (spec.origin, state.st_mtime_ns, state.st_size, is_package, code)
    place = _place(_missing)
    aside = f"{place}.{os.getpid()}"
    try:
        fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except OSError:
        return
    try:
        with open(fd, "wb") as file:
            file.write(marshal.dumps(found))
        os.replace(aside, place)
    except OSError:
        os.unlink(aside)


def _place(command: str) -> str:
    folder = os.path.join(os.path.dirname(__file__), "__pycache__")
    return f"{folder}/{command}.{sys.implementation.cache_tag}.together"
