"""What a COPY source names in a tree: paths, patterns, and ``--parents``."""

from __future__ import annotations

import posixpath
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from sampan.build.ops.tree import Status, Tree, clean
from sampan.errors import InvalidParameter
from sampan.image.ignore import PatternError, has_wildcard, to_regex


@dataclass(frozen=True, slots=True)
class Selected:
    """One path of the tree (relative, without a leading slash; empty for the root).

    ``info`` is its status with links followed.  ``target`` is where it goes below the
    destination: empty for a directory whose contents go there.
    """

    path: str
    info: Status
    target: str

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.info.st_mode)


_STARS = re.compile(r"(?<!\\)\*{2,}")
"""Within a name they are one star."""


def select(tree: Tree, source: str, *, parents: bool = False) -> list[Selected]:
    """The paths that ``source`` means, in order.

    Raises InvalidParameter when a path that is no pattern does not exist (or is ignored).
    """
    if parents:
        return _with_parents(tree, source)
    path = source.strip("/")
    if path and has_wildcard(path):
        return [_selected(tree, found) for found in _glob(tree, path)]
    return [_selected(tree, path)]


def _selected(tree: Tree, path: str) -> Selected:
    info = _status(tree, path)
    name = "" if stat.S_ISDIR(info.st_mode) else posixpath.basename(path)
    return Selected(path, info, name)


def _status(tree: Tree, path: str) -> Status:
    try:
        if tree.hidden(path) and tree.ignore.prunes(path):
            raise FileNotFoundError
        return tree.status(path)
    except OSError:
        where = "in build context or excluded by .dockerignore" if tree.local else "in the source"
        raise InvalidParameter(
            f"file not found {where}: stat {path or '/'}: file does not exist"
        ) from None


def _exists(tree: Tree, path: str, *, directory: bool) -> bool:
    if directory:
        return tree.is_dir(path)
    try:
        tree.status(path)
    except OSError:
        return False
    return True


def _glob(tree: Tree, pattern: str) -> list[str]:
    """Paths that match, sorted; only directories that can lead to a match are read."""
    parts = pattern.split("/")
    found = [""]
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        if part == "**":
            rest = "/".join(parts[number:])
            matching: list[str] = []
            for base in found:
                matching.extend(_deep(tree, base, rest))
            return sorted(set(matching))
        step = []
        for base in found:
            if not has_wildcard(part):
                step.append(posixpath.join(base, part))
                continue
            expression = _compile(_STARS.sub("*", part))
            names = [name for name in tree.names(base) if expression.fullmatch(name)]
            step.extend(posixpath.join(base, name) for name in names)
        found = [path for path in step if _exists(tree, path, directory=not last)]
    return sorted(path for path in found if not tree.hidden(path) or not tree.ignore.prunes(path))


def _deep(tree: Tree, base: str, pattern: str) -> Iterator[str]:
    expression = _compile(pattern)
    for relative in _walk_names(tree, base):
        if expression.fullmatch(relative):
            path = posixpath.join(base, relative)
            if not tree.hidden(path):
                yield path


def _walk_names(tree: Tree, base: str, prefix: str = "") -> Iterator[str]:
    for name in tree.names(posixpath.join(base, prefix)):
        relative = posixpath.join(prefix, name)
        yield relative
        path = posixpath.join(base, relative)
        if tree.hidden(path) and tree.ignore.prunes(path):
            continue
        if tree.is_dir(path, follow=False):
            yield from _walk_names(tree, base, relative)


def _compile(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(to_regex(pattern), re.DOTALL)
    except (PatternError, re.error) as error:
        raise InvalidParameter(f"invalid source pattern {pattern!r}: {error}") from None


def _with_parents(tree: Tree, source: str) -> list[Selected]:
    """``--parents``: targets keep the source's directories, from the ``/./`` pivot on."""
    root, pivot, rest = source.partition("/./")
    if not pivot:
        root, rest = "", source
    base = clean(root)
    pattern = clean(rest)
    if not pattern:
        return [Selected(base, _status(tree, base), "")]
    full = posixpath.join(base, pattern)
    paths = _glob(tree, full) if has_wildcard(pattern) else [full]
    return [Selected(path, _status(tree, path), path[len(base) :].strip("/")) for path in paths]
