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

    # Where it lies, the time and size of that file, whether it is a package, and its code, which a
    # module in machine code has not; that of what is only imported later is where it is in the file.
    Entry = tuple[str, int, int, bool, CodeType | tuple[int, int] | None]

# As much as is read into memory at a time that the C library has at hand anyway.
_PART = 64 << 10
_Spec: "Any" = type(sys.__spec__)
_Module: "Any" = type(sys)
_external: "Any" = sys.modules["_frozen_importlib_external"]
_before = frozenset(sys.modules)


class _Kept:
    """Finds and loads modules whose code is there already."""

    def __init__(self, command: str) -> None:
        self.command = command
        """The one that the modules are of; empty if that is not known yet."""
        self.early: dict[str, Entry] = {}
        self.late: dict[str, Entry] = {}
        self._place, self._inode, self._late_start = "", 0, 0
        self.stale = False
        """Whether a source is not the one that was kept."""
        self.order: list[str] = []
        """Modules of ours in the order in which they were complete."""
        self.needed: list[str] = []
        """Modules that were there when the command began its work, ours first."""

    def read(self, place: str) -> None:
        """Raises OSError if there is no such file; what is damaged is as none."""
        fd = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
        try:
            state = os.fstat(fd)
            head = int.from_bytes(os.read(fd, 8), "little")
            if head > state.st_size:
                raise ValueError
            early, parts, late, rest = marshal.loads(os.read(fd, head))
            if 8 + head + sum(parts) + rest != state.st_size:
                raise ValueError
            codes: list[CodeType | None] = []
            for size in parts:
                codes += marshal.loads(os.read(fd, size))
            self.early = {
                name: (*about, code)
                for (name, about), code in zip(early.items(), codes, strict=True)
            }
            self.late = late
            self._place, self._inode = place, state.st_ino
            self._late_start = 8 + head + sum(parts)
        except (OverflowError, ValueError, EOFError, TypeError):
            self.early = {}
        finally:
            os.close(fd)

    def _late_code(self, start: int, end: int) -> "CodeType | None":
        """None if the file is another one by now."""
        try:
            fd = os.open(self._place, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if os.fstat(fd).st_ino != self._inode:
                    return None
                content = os.pread(fd, end - start, self._late_start + start)
                code: CodeType = marshal.loads(content)
                return code
            finally:
                os.close(fd)
        except (OSError, ValueError, EOFError, TypeError):
            return None

    def find_spec(self, name: str, path: "Any" = None, target: "Any" = None) -> "Any":
        entry = self.early.get(name) or self.late.get(name)
        if entry is None or not self._is_valid(entry):
            return None
        origin, changed, size, is_package, code = entry
        if isinstance(code, tuple):
            code = self._late_code(*code)
            if code is None:
                self.stale = True
                return None
            self.late[name] = (origin, changed, size, is_package, code)
        loader = self if code else _external.ExtensionFileLoader(name, origin)
        return _spec(name, loader, origin, is_package)

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
        self._run(name, module)

    def _run(self, name: str, module: "ModuleType") -> None:
        code: Any = self.get_code(name)
        exec(code, vars(module))
        self.order.append(name)

    def get_code(self, name: str) -> "CodeType | None":
        """A module's code; None for one in machine code."""
        code = (self.early.get(name) or self.late[name])[4]
        return self._late_code(*code) if isinstance(code, tuple) else code

    def entry(self, name: str) -> "Entry | None":
        """What is to be kept of a module; None if it cannot be."""
        spec: Any = sys.modules[name].__spec__ if name in sys.modules else None
        if spec is None or spec.loader is self:
            origin, changed, size, is_package, had = self.early.get(name) or self.late[name]
            code = self.get_code(name)
            return (origin, changed, size, is_package, code) if code or not had else None
        state = os.stat(spec.origin)
        is_package = spec.submodule_search_locations is not None
        code = spec.loader.get_code(name)
        return spec.origin, state.st_mtime_ns, state.st_size, is_package, code

    def preload(self, last: str) -> None:
        """Run the early modules, up to the last one, if all are valid."""
        if self.stale or not all([self._is_valid(entry) for entry in self.early.values()]):
            return
        for name, entry in self.early.items():
            if name not in self.order and entry[4]:
                self._run(name, self._module(name))
            if name == last:
                break

    def _module(self, name: str) -> "ModuleType":
        """A module that has not run yet, in its package, which may not have run either."""
        module: ModuleType | None = sys.modules.get(name)
        if module is not None:
            return module
        module = sys.modules[name] = _Module(name)
        origin, _, _, is_package, _ = self.early[name]
        spec = _spec(name, self, origin, is_package)
        package, _, last = name.rpartition(".")
        content = vars(module)
        content.update(__spec__=spec, __loader__=self, __file__=origin, __package__=package)
        if is_package:
            content.update(__package__=name, __path__=spec.submodule_search_locations)
        if package:
            setattr(self._module(package), last, module)
        return module


def _spec(name: str, loader: "Any", origin: str, is_package: bool) -> "Any":
    spec = _Spec(name, loader, origin=origin, is_package=is_package)
    spec.has_location = True
    if is_package:
        spec.submodule_search_locations = [os.path.dirname(origin)]
    return spec


_kept: _Kept | None = None


def install(program: str, words: list[str]) -> None:
    """Import from the file of the program's command from now on; that is one of the words."""
    global _kept
    _kept = _Kept("")
    for word in words:
        if not word.isalpha():
            continue
        kept = _Kept(word)
        try:
            kept.read(_place(program, word))
        except OSError:
            continue
        _kept = kept
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
    names = sorted(known.union(loaded), key=[*needed, *known, *loaded].index)
    entries = {name: entry for name in names if (entry := _kept.entry(name))}
    _write(place, _content({name: entries.pop(name) for name in needed}, entries))


def _content(early: "dict[str, Entry]", late: "dict[str, Entry]") -> bytes:
    """A file: the size of its head, the head, the early modules' code in parts, that of others."""
    parts: list[list[Any]] = [[]]
    size = 0
    for *_, code in early.values():
        size += len(marshal.dumps(code))
        if size > _PART and parts[-1]:
            parts.append([])
            size = 0
        parts[-1].append(code)
    written = [marshal.dumps(part) for part in parts]
    others = [marshal.dumps(entry[4]) if entry[4] else b"" for entry in late.values()]
    places: dict[str, Entry] = {}
    start = 0
    for (name, entry), data in zip(late.items(), others, strict=True):
        places[name] = (*entry[:4], (start, start + len(data)) if data else None)
        start += len(data)
    about = {name: entry[:4] for name, entry in early.items()}
    head = marshal.dumps((about, [len(part) for part in written], places, start))
    return b"".join((len(head).to_bytes(8, "little"), head, *written, *others))


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
