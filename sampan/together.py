"""The code of all modules that a command imports, kept in one file for each command.

Finding, opening and checking some seventy files of bytecode takes longer than running them, and so
does the import system's own work for each.  So a command keeps the code of what it imports before
it knows what it is to do, in the order in which the modules were complete, and the next one runs it
in that order (:func:`preload`): what a module imports is there already.  What is imported after
:func:`ready` is kept too, and found as other modules are.

A module is valid as bytecode files are, for a source of the same time and size (and for this
version of all); others are imported as usual, and kept then.  A damaged file is as none, and where
it cannot be written, there is none.
"""

import marshal
import os
import sys

from sampan import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, ModuleType
    from typing import Any

    # Where it lies, the time and size of that file, whether it is a package, and its code; that of
    # what is only imported later is read then, and a module in machine code has none.
    Entry = tuple[str, int, int, bool, CodeType | bytes]

_Spec: "Any" = type(sys.__spec__)
_Module: "Any" = type(sys)
_external: "Any" = sys.modules["_frozen_importlib_external"]
_before = frozenset(sys.modules)


class _Kept:
    """Finds and loads modules whose code is there already."""

    def __init__(self, command: str, early: "dict[str, Entry]", late: "dict[str, Entry]") -> None:
        self.command = command
        """The one that the modules are of; empty if that is not known yet."""
        self.early, self.late = early, late
        self.stale = False
        """Whether a source is not the one that was kept."""
        self.order: list[str] = []
        """Modules of ours in the order in which they were complete."""
        self.needed: list[str] = []
        """Modules that were there when the command began its work, ours first."""

    def find_spec(self, name: str, path: "Any" = None, target: "Any" = None) -> "Any":
        entry = self.early.get(name) or self.late.get(name)
        if entry is None or not self._is_valid(entry):
            return None
        origin, _, _, is_package, code = entry
        loader = self if code else _external.ExtensionFileLoader(name, origin)
        spec = _Spec(name, loader, origin=origin, is_package=is_package)
        spec.has_location = True
        if is_package:
            spec.submodule_search_locations = [os.path.dirname(origin)]
        return spec

    def _is_valid(self, entry: "Entry") -> bool:
        try:
            now = os.stat(entry[0])
        except OSError:
            self.stale = True
            return False
        valid = now.st_mtime_ns == entry[1] and now.st_size == entry[2]
        self.stale |= not valid
        return valid

    def create_module(self, spec: "Any") -> None:
        """By the import system."""

    def exec_module(self, module: "ModuleType") -> None:
        name = module.__name__
        exec(self.get_code(name), vars(module))
        self.order.append(name)

    def get_code(self, name: str) -> "CodeType | bytes":
        """A module's code; empty for one in machine code."""
        code = (self.early.get(name) or self.late[name])[4]
        return marshal.loads(code) if code and isinstance(code, bytes) else code

    def entry(self, name: str) -> "Entry":
        """What is to be kept of a module."""
        spec: Any = sys.modules[name].__spec__ if name in sys.modules else None
        if spec is None or spec.loader is self:
            origin, changed, size, is_package, _ = self.early.get(name) or self.late[name]
            return origin, changed, size, is_package, self.get_code(name)
        state = os.stat(spec.origin)
        is_package = spec.submodule_search_locations is not None
        code = spec.loader.get_code(name) or b""
        return spec.origin, state.st_mtime_ns, state.st_size, is_package, code

    def preload(self, last: str) -> None:
        """Run the early modules, up to the last one, if all are valid."""
        if self.stale or not all([self._is_valid(entry) for entry in self.early.values()]):
            return
        for name, entry in self.early.items():
            if name not in self.order and entry[4]:
                exec(entry[4], vars(self._module(name)))
                self.order.append(name)
            if name == last:
                break

    def _module(self, name: str) -> "ModuleType":
        """A module that has not run yet, in its package, which may not have run either."""
        module: ModuleType | None = sys.modules.get(name)
        if module is not None:
            return module
        module = sys.modules[name] = _Module(name)
        origin, _, _, is_package, _ = self.early[name]
        spec = _Spec(name, self, origin=origin, is_package=is_package)
        spec.has_location = True
        package, _, last = name.rpartition(".")
        content = vars(module)
        content.update(__spec__=spec, __loader__=self, __file__=origin, __package__=package)
        if is_package:
            spec.submodule_search_locations = [os.path.dirname(origin)]
            content.update(__package__=name, __path__=spec.submodule_search_locations)
        if package:
            setattr(self._module(package), last, module)
        return module


_kept: _Kept | None = None


def install(program: str, words: list[str]) -> None:
    """Import from the file of the program's command from now on; that is one of the words."""
    global _kept
    _kept = _Kept("", {}, {})
    for word in words:
        if not word.isalpha():
            continue
        try:
            fd = os.open(_place(program, word), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            _kept = _Kept(word, *marshal.loads(os.read(fd, os.fstat(fd).st_size)))
        except (OSError, ValueError, EOFError, TypeError):
            pass
        os.close(fd)
        break
    sys.meta_path.insert(0, _kept)


def _place(program: str, command: str) -> str:
    kind = f"{__version__}.{sys.implementation.cache_tag}-{sys.flags.optimize}"
    return f"{os.path.dirname(__file__)}/__pycache__/{program}-{command}.{kind}.together"


def preload(last: str = "") -> None:
    """Run the modules that the command is going to import, all or those up to the last one."""
    if _kept is not None:
        _kept.preload(last)


def ready(command: str) -> None:
    """The command begins its work; what is imported later is not always needed."""
    if _kept is not None and _kept.command in ("", command):
        _kept.command = command
        _kept.needed = [*_kept.order, *(name for name in sys.modules if name not in _kept.order)]


def keep(program: str) -> None:
    """Write the file anew if it is not what this command has imported, and if that is possible."""
    if _kept is None or not _kept.needed or sys.dont_write_bytecode:
        return
    loaded = [name for name in sys.modules if name not in _before and _is_kept(name)]
    needed = [name for name in _kept.needed if name in loaded]
    known = _kept.late.keys() | _kept.early.keys()
    if not _kept.stale and known.issuperset(loaded) and needed == list(_kept.early):
        return
    place = _place(program, _kept.command)
    if not os.access(os.path.dirname(place), os.W_OK):
        return
    early, late = {}, {}
    for name in sorted(known.union(loaded), key=[*needed, *known, *loaded].index):
        *about, code = _kept.entry(name)
        if name not in needed:
            late[name] = (*about, code and marshal.dumps(code))
        else:
            early[name] = (*about, code)
    _write(place, marshal.dumps((early, late)))


def _is_kept(name: str) -> bool:
    """Only modules that know nothing of stand-ins for others, or of what else a program does."""
    spec = getattr(sys.modules[name], "__spec__", None)
    if spec is None:
        return False
    ours = name.startswith("sampan.") or name == "__future__"
    kinds = (_Kept, _external.SourceFileLoader) if ours else _external.ExtensionFileLoader
    return name == spec.name and isinstance(spec.loader, kinds)


def _write(place: str, content: bytes) -> None:
    aside = f"{place}.{os.getpid()}"
    try:
        fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except OSError:
        return
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
        os.replace(aside, place)
    except OSError:
        os.unlink(aside)
