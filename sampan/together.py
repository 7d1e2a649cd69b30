"""The code of all modules that a command imports, kept in one file.

Finding, opening and checking some seventy files of bytecode takes longer than running them.  A
command that finds modules missing from the file writes it anew with all that are known, its own
among them; each is valid as bytecode files are, for a source of the same time and size.  Where the
file cannot be written, or has a module of another source, that is imported as usual.

Nothing is imported here that the interpreter does not have anyway, and each module's code is read
only when it is imported.
"""

import marshal
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, ModuleType
    from typing import Any

    # Where it lies, the time and size of that file, whether it is a package, and where its code
    # begins and ends among all code; a module in machine code has none.
    Entry = tuple[str, int, int, bool, int, int]

_Spec: "Any" = type(sys.__spec__)
_external: "Any" = sys.modules["_frozen_importlib_external"]
_before = frozenset(sys.modules)


class _Finder:
    """Finds and loads modules whose code is there already."""

    def __init__(self, place: str, found: "dict[str, Entry]", code: memoryview) -> None:
        self.place = place
        self.found = found
        self._code = code

    def find_spec(self, name: str, path: "Any" = None, target: "Any" = None) -> "Any":
        entry = self.found.get(name)
        if entry is None:
            return None
        origin, changed, size, is_package, start, end = entry
        try:
            now = os.stat(origin)
            if now.st_mtime_ns != changed or now.st_size != size:
                raise OSError
        except OSError:
            del self.found[name]
            return None
        loader = _external.ExtensionFileLoader(name, origin) if start == end else self
        spec = _Spec(name, loader, origin=origin, is_package=is_package)
        spec.has_location = True
        if is_package:
            spec.submodule_search_locations = [os.path.dirname(origin)]
        return spec

    def create_module(self, spec: "Any") -> None:
        """By the import system."""

    def exec_module(self, module: "ModuleType") -> None:
        exec(self.get_code(module.__name__), vars(module))

    def get_code(self, name: str) -> "CodeType":
        code: CodeType = marshal.loads(self.kept(name))
        return code

    def kept(self, name: str) -> memoryview:
        """A module's code as it is in the file."""
        return self._code[slice(*self.found[name][4:])]


_finder: _Finder | None = None


def install(name: str) -> None:
    """Import from the file of that name from now on."""
    global _finder
    kind = f"{sys.implementation.cache_tag}-{sys.flags.optimize}"
    place = f"{os.path.dirname(__file__)}/__pycache__/{name}.{kind}.together"
    found: dict[str, Entry] = {}
    code = memoryview(b"")
    try:
        fd = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
        try:
            content = memoryview(os.read(fd, os.fstat(fd).st_size))
        finally:
            os.close(fd)
        head = 8 + int.from_bytes(content[:8], "little")
        found = marshal.loads(content[8:head])
        code = content[head:]
        if len(code) != max(entry[5] for entry in found.values()):
            found = {}
    except (OSError, ValueError, EOFError, TypeError):
        pass
    _finder = _Finder(place, found, code)
    sys.meta_path.insert(0, _finder)


def keep() -> None:
    """Write the file anew if modules have been imported that it lacks, and if that is possible."""
    if _finder is None or sys.dont_write_bytecode:
        return
    new = [name for name in sys.modules if name not in _before and name not in _finder.found]
    new = [name for name in new if _is_kept(sys.modules[name])]
    if not new or not os.access(os.path.dirname(_finder.place), os.W_OK):
        return
    parts: list[bytes] = []
    found: dict[str, Entry] = {}
    end = 0
    for name in [*_finder.found, *new]:
        if name in _finder.found:
            about = _finder.found[name][:4]
            part = bytes(_finder.kept(name))
        else:
            spec: Any = sys.modules[name].__spec__
            state = os.stat(spec.origin)
            is_package = spec.submodule_search_locations is not None
            about = (spec.origin, state.st_mtime_ns, state.st_size, is_package)
            code = spec.loader.get_code(name)
            part = marshal.dumps(code) if code else b""
        parts.append(part)
        start, end = end, end + len(part)
        found[name] = (*about, start, end)
    _write(_finder.place, found, parts)


def _is_kept(module: "ModuleType") -> bool:
    spec = getattr(module, "__spec__", None)
    kinds = _external.SourceFileLoader, _external.ExtensionFileLoader
    return spec is not None and isinstance(spec.loader, kinds)


def _write(place: str, found: "dict[str, Entry]", parts: list[bytes]) -> None:
    head = marshal.dumps(found)
    aside = f"{place}.{os.getpid()}"
    try:
        fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except OSError:
        return
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(b"".join((len(head).to_bytes(8, "little"), head, *parts)))
        os.replace(aside, place)
    except OSError:
        os.unlink(aside)
