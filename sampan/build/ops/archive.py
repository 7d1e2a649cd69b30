"""A tar as a tree: the files stay in the archive, and an index in memory finds them.

A build context arrives as a tar.  Writing it to one file and indexing it costs a fraction of
making (and later removing) thousands of small files, of which a build may read a few.  Nothing of
the archive touches the host's name space, so no member can escape.
"""

from __future__ import annotations

import copy
import errno
import hashlib
import io
import mmap
import os
import stat
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, cast

from sampan.build.ops.tree import NOTHING, Item, Tree, only_if_needed, with_parent, write_all
from sampan.errors import InvalidParameter
from sampan.image import tar
from sampan.image.ignore import IgnoreMatcher

_MAX_LINKS = 40
NO_DEVICE = -1  # of files that only an archive has
_KINDS = {
    tar.REGULAR: stat.S_IFREG,
    tar.SYMLINK: stat.S_IFLNK,
    tar.CHAR: stat.S_IFCHR,
    tar.BLOCKDEV: stat.S_IFBLK,
    tar.DIRECTORY: stat.S_IFDIR,
    tar.FIFO: stat.S_IFIFO,
}


@dataclass(slots=True)
class _Node:
    """A member, with the names of :class:`os.stat_result`.  ``children`` of directories."""

    st_mode: int = stat.S_IFDIR | 0o755
    st_size: int = 0
    st_mtime_ns: int = 0
    st_rdev: int = 0
    offset: int = 0
    stored: int = 0
    link: str = ""
    sparse: list[tuple[int, int]] | None = None
    xattrs: dict[bytes, bytes] | None = None
    children: dict[str, _Node] | None = None
    st_uid: int = 0
    st_gid: int = 0
    st_nlink: int = 1
    st_dev: int = NO_DEVICE
    st_ino: int = 0
    digest: bytes = field(default=b"", repr=False)
    source: memoryview | None = field(default=None, repr=False)  # another archive's bytes


class ArchiveTree(Tree):
    """The tar file ``path``; raises InvalidParameter when it is malformed or hostile.

    ``ignore`` may be set later, since the patterns are in the archive.  ``held`` is how many bytes
    of archives it keeps; ``memo`` holds checksums of selections, whatever is hidden.
    """

    def __init__(self, path: Path, ignore: IgnoreMatcher = NOTHING) -> None:
        self.local = True
        self.ignore = ignore
        self._root = _Node(children={})
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.fstat(fd).st_size
            self._data = mmap.mmap(fd, size, access=mmap.ACCESS_READ) if size else b""
        finally:
            os.close(fd)
        self._maps = weakref.WeakSet([self._data] if isinstance(self._data, mmap.mmap) else ())
        self._view = memoryview(self._data)
        self.held = len(self._view)
        self.memo: dict[tuple[object, ...], str] = {}
        try:
            self._index()
        except tar.InvalidTar as error:
            raise InvalidParameter(f"malformed build context: {error}") from None

    def hiding(self, ignore: IgnoreMatcher) -> ArchiveTree:
        """The same files without what ``ignore`` leaves out."""
        tree = copy.copy(self)
        tree.ignore = ignore
        return tree

    def over(self, base: ArchiveTree) -> ArchiveTree:
        """``base`` with this archive's few files at its root as well; neither is changed."""
        tree = copy.copy(base)
        tree.memo = {}
        tree._maps = base._maps | self._maps
        tree._root = _Node(children={**(base._root.children or {})})
        for name, node in (self._root.children or {}).items():
            node.source = self._view
            assert tree._root.children is not None
            tree._root.children[name] = node
        return tree

    def rest(self) -> None:
        """Let go of the archives' pages, which a next reader finds in the kernel's cache."""
        for data in self._maps:
            data.madvise(mmap.MADV_DONTNEED)

    def size(self) -> int:
        """Bytes of all regular files together."""
        total = 0
        pending = [self._root]
        while pending:
            for node in (pending.pop().children or {}).values():
                if node.children is not None:
                    pending.append(node)
                else:
                    total += node.stored
        return total

    def graft(self, other: ArchiveTree, paths: Iterable[bytes]) -> None:
        """Take regular files over from another archive, which this one then keeps in memory.

        Raises InvalidParameter for a path that is no regular file there.
        """
        # Directories by name: those of the other archive, and those here.
        known: dict[bytes, tuple[dict[str, _Node], dict[str, _Node]]] = {}
        for path in paths:
            above, _, name = path.rpartition(b"/")
            pair = known.get(above)
            if pair is None:
                pair = known[above] = self._directories(other, above)
            base = name.decode(errors="surrogateescape")
            node = pair[0].get(base)
            if node is None or not stat.S_ISREG(node.st_mode):
                text = path.decode(errors="replace")
                raise InvalidParameter(f"the retained build context has no file {text!r}")
            if node.source is None:
                node.source = other._view
            pair[1][base] = node
        self.held += other.held
        self._maps |= other._maps
        self.memo = {}

    def _directories(
        self, other: ArchiveTree, path: bytes
    ) -> tuple[dict[str, _Node], dict[str, _Node]]:
        """What is in a directory of another archive (nothing if it has none there), and what is in
        the one here."""
        parts = _parts(path)
        try:
            theirs = other._find("/".join(parts), follow=False).children
        except OSError:
            theirs = None
        ours = self._holder(parts).children
        assert ours is not None
        return theirs or {}, ours

    def _index(self) -> None:
        cursor = tar.BufferCursor(cast(bytes, self._data))  # slices of a map are bytes
        for entry in tar.entries(cursor):
            entry_offset = cursor.position
            parts = _parts(entry.name)
            if not parts:
                continue
            holder = self._holder(parts[:-1])
            assert holder.children is not None
            if entry.type == tar.HARDLINK:
                holder.children[parts[-1]] = self._linked(entry)
                continue
            node = _Node(
                st_mode=_KINDS[entry.type] | entry.mode,
                st_size=entry.size,
                st_mtime_ns=entry.mtime,
                st_rdev=os.makedev(entry.major, entry.minor),
                offset=entry.offset or entry_offset,
                stored=entry.stored,
                link=entry.linkname.decode(errors="surrogateescape"),
                sparse=entry.sparse,
                xattrs=entry.xattrs,
                children={} if entry.type == tar.DIRECTORY else None,
            )
            known = holder.children.get(parts[-1])
            if known is not None and known.children is not None and node.children is not None:
                node.children = known.children
            holder.children[parts[-1]] = node

    def _holder(self, parts: list[str]) -> _Node:
        """The directory of these names, made if it has not come yet."""
        node = self._root
        for part in parts:
            assert node.children is not None
            inner = node.children.get(part)
            if inner is None or inner.children is None:
                # Of a file or link in the way nothing is left: the later member wins.
                inner = node.children[part] = _Node(children={})
            node = inner
        return node

    def _linked(self, entry: tar.Entry) -> _Node:
        target = "/".join(_parts(entry.linkname))
        try:
            node = self._find(target, follow=False)
            node.st_nlink += 1
            node.st_ino = node.offset + 1
            return node
        except OSError:
            raise InvalidParameter(
                f"malformed build context: the link {entry.name.decode(errors='replace')!r} points"
                f" to {target!r}, which is not in it"
            ) from None

    def _find(self, path: str, *, follow: bool = True) -> _Node:
        """The node at a path; links lead from the root of the archive.  Raises OSError."""
        trail = [self._root]
        pending = [part for part in reversed(path.split("/")) if part not in ("", ".")]
        links = 0
        while pending:
            part = pending.pop()
            if part == "..":
                if len(trail) > 1:
                    trail.pop()
                continue
            children = trail[-1].children
            if children is None:
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
            node = children.get(part)
            if node is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            if stat.S_ISLNK(node.st_mode) and (pending or follow):
                links += 1
                if links > _MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                if node.link.startswith("/"):
                    del trail[1:]
                pending += [p for p in reversed(node.link.split("/")) if p not in ("", ".")]
                continue
            trail.append(node)
        return trail[-1]

    def stored(self, node: _Node) -> memoryview:
        """What of a file is in the archive: all of it, but for sparse files."""
        view = self._view if node.source is None else node.source
        return view[node.offset : node.offset + node.stored]

    def contents(self, node: _Node) -> memoryview | bytes:
        """A regular file's bytes."""
        stored = self.stored(node)
        if node.sparse is None:
            return stored
        whole = bytearray(node.st_size)
        position = 0
        for offset, length in node.sparse:
            whole[offset : offset + length] = stored[position : position + length]
            position += length
        return bytes(whole)

    def status(self, path: str) -> _Node:
        return self._find(path)

    def names(self, path: str) -> list[str]:
        try:
            return sorted(self._find(path).children or ())
        except OSError:
            return []

    def is_dir(self, path: str, *, follow: bool = True) -> bool:
        try:
            return self._find(path, follow=follow).children is not None
        except OSError:
            return False

    @contextmanager
    def item(self, path: str) -> Iterator[Item]:
        yield ArchiveItem(self, path, self._find(path))

    def open_file(self, path: str) -> BinaryIO:
        node = self._find(path)
        if not stat.S_ISREG(node.st_mode):
            raise OSError(errno.EINVAL, f"{path} is not a regular file")
        return io.BytesIO(self.contents(node))

    def walk(self, start: str, exclude: IgnoreMatcher) -> Iterator[Item]:
        node = self._find(start)
        if node.children is None:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), start)
        yield from self._walk(node, start, "", exclude)

    def _walk(self, node: _Node, start: str, prefix: str, exclude: IgnoreMatcher) -> Iterator[Item]:
        filtering = bool(self.ignore) or bool(exclude)
        for name, child in sorted((node.children or {}).items()):
            relative = f"{prefix}/{name}" if prefix else name
            directory = child.children is not None
            skip = prune = False
            if filtering:
                skip, prune = self.skips(start, relative, exclude, directory=directory)
            if prune:
                continue
            item = ArchiveItem(self, relative, child)
            if directory:
                below = self._walk(child, start, relative, exclude)
                yield from only_if_needed(item, below) if skip else with_parent(item, below)
            elif not skip:
                yield item


class ArchiveItem(Item):
    __slots__ = ("_node", "_tree")

    def __init__(self, tree: ArchiveTree, relative: str, node: _Node) -> None:
        super().__init__(relative, node)
        self._tree = tree
        self._node = node

    @property
    def sparse(self) -> bool:
        """Whether the file has holes that the archive leaves out."""
        return self._node.sparse is not None

    @property
    def xattrs(self) -> dict[bytes, bytes] | None:
        """Extended attributes; None when there are none."""
        return self._node.xattrs

    def link(self) -> str:
        return self._node.link

    def contents(self) -> memoryview | bytes:
        """A regular file's contents."""
        return self._tree.contents(self._node)

    def digest(self) -> bytes:
        if not self._node.digest:
            self._node.digest = hashlib.sha256(self._tree.contents(self._node)).digest()
        return self._node.digest

    def write_to(self, fd: int) -> None:
        node = self._node
        if node.sparse is None:
            if node.stored:
                write_all(fd, self._tree.stored(node))
            return
        view = self._tree.stored(node)
        start = 0
        for offset, length in node.sparse:
            os.lseek(fd, offset, os.SEEK_SET)
            write_all(fd, view[start : start + length])
            start += length
        os.ftruncate(fd, node.st_size)

    def attributes(self) -> Iterable[tuple[str, bytes]]:
        return [
            (name.decode(errors="surrogateescape"), value)
            for name, value in (self._node.xattrs or {}).items()
        ]


def _parts(name: bytes) -> list[str]:
    text = name.decode(errors="surrogateescape")
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise InvalidParameter(
            f"the build context's member {text!r} leads out of the context: it is refused"
        )
    return parts
