"""What a COPY source names in a tree: paths, patterns, and ``--parents``."""

from __future__ import annotations

import os
import posixpath
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from sampan.build.dockerfile.ignore import (
    IgnoreMatcher,
    PatternError,
    has_wildcard,
    to_regex,
)
from sampan.build.ops.tree import Tree
from sampan.errors import InvalidParameter


@dataclass(frozen=True, slots=True)
class Selected:
    """One path of the tree (relative, without a leading slash; empty for the root).

    ``info`` is its status with links followed.  ``target`` is where it goes below the
    destination: empty for a directory whose contents go there.
    """

    path: str
    info: os.stat_result
    target: str

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.info.st_mode)


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


def _status(tree: Tree, path: str) -> os.stat_result:
    try:
        if tree.hidden(path) and tree.ignore.prunes(path):
            raise FileNotFoundError
        fd = tree.open("/" + path)
    except OSError:
        where = "in build context or excluded by .dockerignore" if tree.local else "in the source"
        raise InvalidParameter(
            f"file not found {where}: stat {path or '/'}: file does not exist"
        ) from None
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)


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
            expression = _compile(part)
            names = [name for name in _names(tree, base) if expression.fullmatch(name)]
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
    for name in _names(tree, posixpath.join(base, prefix)):
        relative = posixpath.join(prefix, name)
        yield relative
        path = posixpath.join(base, relative)
        fd = tree.open("/" + posixpath.dirname(path))
        try:
            info = os.stat(name, dir_fd=fd, follow_symlinks=False)
        finally:
            os.close(fd)
        if stat.S_ISDIR(info.st_mode) and not (tree.hidden(path) and tree.ignore.prunes(path)):
            yield from _walk_names(tree, base, relative)


def _compile(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(to_regex(pattern), re.DOTALL)
    except (PatternError, re.error) as error:
        raise InvalidParameter(f"invalid source pattern {pattern!r}: {error}") from None


def _names(tree: Tree, path: str) -> list[str]:
    try:
        fd = tree.open("/" + path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return []
    try:
        return sorted(os.listdir(fd))
    finally:
        os.close(fd)


def _exists(tree: Tree, path: str, *, directory: bool) -> bool:
    try:
        fd = tree.open("/" + path, os.O_PATH | (os.O_DIRECTORY if directory else 0))
    except OSError:
        return False
    os.close(fd)
    return True


def _with_parents(tree: Tree, source: str) -> list[Selected]:
    """``--parents``: targets keep the source's directories, from the ``/./`` pivot on."""
    root, pivot, rest = source.partition("/./")
    if not pivot:
        root, rest = "", source
    base = posixpath.normpath("/" + root).strip("/")
    pattern = posixpath.normpath("/" + rest).strip("/")
    if not pattern:
        return [Selected(base, _status(tree, base), "")]
    full = posixpath.join(base, pattern)
    paths = _glob(tree, full) if has_wildcard(pattern) else [full]
    found = []
    for path in paths:
        found.append(Selected(path, _status(tree, path), path[len(base) :].strip("/")))
    return found


def walk(
    tree: Tree, start: str, exclude: IgnoreMatcher
) -> Iterator[tuple[int, str, str, os.stat_result]]:
    """Everything below the directory ``start``, parents first, sorted by name.

    Yields a descriptor of the holding directory (valid until the next step), the name, the path
    relative to ``start``, and the status (links not followed).  What the tree's ignore patterns
    or ``exclude`` leave out is not yielded, unless something below it is wanted again.
    """
    fd = tree.open("/" + start, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield from _walk(tree, fd, start, "", exclude)
    finally:
        os.close(fd)


def _walk(
    tree: Tree, fd: int, start: str, prefix: str, exclude: IgnoreMatcher
) -> Iterator[tuple[int, str, str, os.stat_result]]:
    ignoring = bool(tree.ignore)
    excluding = bool(exclude)
    for name in sorted(os.listdir(fd)):
        relative = f"{prefix}/{name}" if prefix else name
        info = os.stat(name, dir_fd=fd, follow_symlinks=False)
        directory = stat.S_ISDIR(info.st_mode)
        skip = False
        if ignoring:
            path = f"{start}/{relative}" if start else relative
            if tree.ignore.excludes(path):
                skip = True
                if not directory or tree.ignore.prunes(path):
                    continue
        if excluding and exclude.excludes(relative):
            skip = True
            if not directory or exclude.prunes(relative):
                continue
        if not directory:
            yield fd, name, relative, info
            continue
        inner = os.open(
            name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd
        )
        try:
            if not skip:
                yield fd, name, relative, info
                yield from _walk(tree, inner, start, relative, exclude)
                continue
            # Left out itself, but a "!" pattern may want something below: show it only then.
            shown = False
            for item in _walk(tree, inner, start, relative, exclude):
                if not shown:
                    yield fd, name, relative, info
                    shown = True
                yield item
        finally:
            os.close(inner)
