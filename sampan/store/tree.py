"""Trees of layers in memory: read from a tar's headers, merged as overlayfs would show them.

A layer's tree is built by itself first (names, symbolic links and hard links are resolved inside
the layer, as extraction would), and then laid over the trees below it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field

from sampan.image import tar
from sampan.image.layer import OPAQUE_MARKER, WHITEOUT_META_PREFIX, WHITEOUT_PREFIX
from sampan.image.tar import Cursor, Entry, InvalidTar
from sampan.store.extract import components, wanted_xattrs

_NAME_LIMIT = 255
_PATH_LIMIT = 4095
_LINK_LIMIT = 40
_SPARSE_ALIGNMENT = 4096
_TYPES = {
    tar.REGULAR: stat.S_IFREG,
    tar.SYMLINK: stat.S_IFLNK,
    tar.CHAR: stat.S_IFCHR,
    tar.BLOCKDEV: stat.S_IFBLK,
    tar.DIRECTORY: stat.S_IFDIR,
    tar.FIFO: stat.S_IFIFO,
}

Children = dict[bytes, "Node"]


class Node:
    """A file of any kind.  ``mode`` includes the type; ``children`` is None but for directories.
    A regular file's bytes are in the data file ``device`` (any number the reader chose) from byte
    ``offset`` on.  ``implied``: a directory that the layer does not mention itself.  ``nid`` and
    ``nlink`` are the writer's."""

    __slots__ = (
        "children",
        "device",
        "gid",
        "implied",
        "link",
        "mode",
        "mtime",
        "nid",
        "nlink",
        "offset",
        "opaque",
        "rdev",
        "size",
        "uid",
        "whiteout",
        "xattrs",
    )

    def __init__(self, mode: int, uid: int = 0, gid: int = 0, mtime: int = 0) -> None:
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.mtime = mtime
        self.size = 0
        self.rdev = 0
        self.link = b""
        self.device = 0
        self.offset = 0
        self.xattrs: dict[bytes, bytes] | None = None
        self.children: Children | None = None
        self.opaque = False
        self.implied = False
        self.whiteout = False
        self.nid = 0
        self.nlink = 0

    def copy(self) -> Node:
        """Another file with the same content and attributes; children are not copied."""
        other = Node(self.mode, self.uid, self.gid, self.mtime)
        other.size, other.rdev, other.link = self.size, self.rdev, self.link
        other.device, other.offset, other.xattrs = self.device, self.offset, self.xattrs
        other.opaque, other.implied = self.opaque, self.implied
        return other


@dataclass(slots=True)
class LayerTree:
    """``size`` is the sum of the regular files' sizes in bytes.  ``sparse`` lists what has to be
    copied into the layer's second data file, because a sparse file's pieces are packed in the tar:
    ``(offset in the tar, offset in the data file, length)``; that file is ``sparse_size`` long.
    ``padded``: its data file is longer than the tar, which ends without its last padding."""

    root: Node
    size: int = 0
    inodes: int = 0
    whiteouts: bool = False
    borrowed: list[tuple[Node, bytes, bytes]] = field(default_factory=list)
    sparse: list[tuple[int, int, int]] = field(default_factory=list)
    sparse_size: int = 0
    padded: bool = False


def directory_node() -> Node:
    node = Node(stat.S_IFDIR | 0o755)
    node.children = {}
    node.implied = True
    return node


def read_layer(cursor: Cursor, device: int) -> LayerTree:
    """The tree of a layer's tar.  Its data file is numbered ``device``, that of its sparse files
    ``device + 1``.  Raises InvalidTar for a malformed or hostile one."""
    reader = _LayerReader(device)
    for entry in tar.entries(cursor):
        reader.add(entry)
    return reader.tree


class _LayerReader:
    def __init__(self, device: int) -> None:
        self.tree = LayerTree(directory_node())
        self._device = device
        self._directories: dict[bytes, Node] = {b"": self.tree.root}

    def add(self, entry: Entry) -> None:
        name = entry.name
        if name[:2] == b"./":
            name = name[2:]
        if name[-1:] == b"/":
            name = name[:-1]
        if name[:1] in (b"/", b".", b"") or b"/." in name or b"//" in name or len(name) > 255:
            name = self._normal(name)
            if not name:
                if entry.type == tar.DIRECTORY:
                    self._attributes(self.tree.root, entry)
                return
        above, _, base = name.rpartition(b"/")
        if base[:8] == WHITEOUT_META_PREFIX and base != OPAQUE_MARKER:
            return
        parent = self._directories.get(above)
        if parent is None:
            parent = self._directory(above)
        children = parent.children
        assert children is not None
        if base[:4] == WHITEOUT_PREFIX:
            self._whiteout(parent, children, base)
            return
        if len(base) > _NAME_LIMIT:
            raise InvalidTar(f"{os.fsdecode(base)!r} is too long for a file name")
        old = children.get(base)
        if entry.type == tar.DIRECTORY:
            if old is None or old.children is None:
                node = directory_node()
                node.opaque = old is not None and old.whiteout
                children[base] = node
                if old is None:
                    self._directories[name] = node
                else:
                    self._forget()
                self.tree.inodes += 1
            else:
                node = old
            self._attributes(node, entry)
            return
        if old is not None and old.children is not None:
            self._forget()
        if entry.type == tar.HARDLINK:
            children[base] = self._linked(parent, base, entry)
            return
        children[base] = self._node(entry)
        self.tree.inodes += 1

    def _node(self, entry: Entry) -> Node:
        node = Node(_TYPES[entry.type] | entry.mode, entry.uid, entry.gid, entry.mtime)
        if entry.xattrs:
            node.xattrs = wanted_xattrs(entry) or None
        if entry.type == tar.REGULAR:
            node.size = entry.size
            node.device, node.offset = self._device, entry.offset
            self.tree.size += entry.stored
            if entry.sparse is not None:
                self._sparse(node, entry, entry.sparse)
        elif entry.type == tar.SYMLINK:
            if not 0 < len(entry.linkname) <= _PATH_LIMIT:
                raise InvalidTar(
                    f"the symbolic link {os.fsdecode(entry.name)!r} has no usable target"
                )
            node.mode = stat.S_IFLNK | 0o777
            node.link = entry.linkname
            node.size = len(entry.linkname)
        elif entry.type != tar.FIFO:
            if not (0 <= entry.major < 1 << 12 and 0 <= entry.minor < 1 << 20):
                raise InvalidTar(f"{os.fsdecode(entry.name)!r} has an impossible device number")
            node.rdev = os.makedev(entry.major, entry.minor)
        return node

    def _sparse(self, node: Node, entry: Entry, pieces: list[tuple[int, int]]) -> None:
        """Give the file a place of its full length in the second data file, which has its holes."""
        tree = self.tree
        node.device = self._device + 1
        node.offset = tree.sparse_size
        position = entry.offset
        for offset, length in pieces:
            tree.sparse.append((position, node.offset + offset, length))
            position += length
        end = node.offset + entry.size
        tree.sparse_size = -(-end // _SPARSE_ALIGNMENT) * _SPARSE_ALIGNMENT

    def _attributes(self, node: Node, entry: Entry) -> None:
        node.mode = stat.S_IFDIR | entry.mode
        node.uid, node.gid, node.mtime = entry.uid, entry.gid, entry.mtime
        node.xattrs = (wanted_xattrs(entry) or None) if entry.xattrs else None
        node.implied = False

    def _whiteout(self, parent: Node, children: Children, base: bytes) -> None:
        if base == OPAQUE_MARKER:
            parent.opaque = self.tree.whiteouts = True
            return
        hidden = base[len(WHITEOUT_PREFIX) :]
        if hidden in (b"", b".", b".."):
            raise InvalidTar(f"the whiteout {os.fsdecode(base)!r} names nothing")
        self.tree.whiteouts = True
        old = children.get(hidden)
        if old is None:
            children[hidden] = whiteout_node()
        elif old.children is not None:
            old.opaque = True

    def _linked(self, parent: Node, base: bytes, entry: Entry) -> Node:
        target = self._normal(entry.linkname)
        above, _, name = target.rpartition(b"/")
        directory = self._find(above)
        node = directory.children.get(name) if directory and directory.children else None
        if node is None or node.whiteout:
            # It may be a file of a layer below; that is known when the layers are merged.
            node = Node(stat.S_IFREG)
            self.tree.borrowed.append((parent, base, target))
            self.tree.inodes += 1
            return node
        if node.children is not None or not name:
            raise InvalidTar(f"the hard link {os.fsdecode(entry.name)!r} points at a directory")
        return node

    # Paths

    def _normal(self, name: bytes) -> bytes:
        if len(name) > _PATH_LIMIT:
            raise InvalidTar(f"the name {os.fsdecode(name[:60])!r}… is too long for a path")
        parts = components(name)
        if any(len(part) > _NAME_LIMIT for part in parts):
            raise InvalidTar(f"{os.fsdecode(name[:60])!r}… is too long for a file name")
        return b"/".join(parts)

    def _directory(self, path: bytes) -> Node:
        """The directory, made where the tar has not mentioned it; symbolic links of the layer are
        followed inside it."""
        node = self._walk(path, make=True)
        if node is None or node.children is None:
            raise InvalidTar(f"{os.fsdecode(path)!r} is not a directory and yet has files in it")
        self._directories[path] = node
        return node

    def _find(self, path: bytes) -> Node | None:
        known = self._directories.get(path)
        return known if known is not None else self._walk(path, make=False)

    def _walk(self, path: bytes, *, make: bool) -> Node | None:
        trail = [self.tree.root]
        pending = [part for part in reversed(path.split(b"/")) if part]
        links = 0
        while pending:
            part = pending.pop()
            if part == b"..":
                if len(trail) > 1:
                    trail.pop()
                continue
            children = trail[-1].children
            if children is None:
                return None
            node = children.get(part)
            if node is None or node.whiteout:
                if not make:
                    return None
                if links:
                    raise InvalidTar(f"{os.fsdecode(path)!r} is a link that leads nowhere")
                hidden = node is not None
                node = children[part] = directory_node()
                node.opaque = hidden
                self.tree.inodes += 1
            elif node.link:
                links += 1
                if links > _LINK_LIMIT:
                    raise InvalidTar(f"{os.fsdecode(path)!r} is a loop of links")
                if node.link.startswith(b"/"):
                    del trail[1:]
                pending += [p for p in reversed(node.link.split(b"/")) if p not in (b"", b".")]
                continue
            trail.append(node)
        return trail[-1]

    def _forget(self) -> None:
        """Something took a directory's place: paths may lead elsewhere now."""
        self._directories = {b"": self.tree.root}


def whiteout_node() -> Node:
    node = Node(stat.S_IFCHR)
    node.whiteout = True
    return node


def merge(trees: Sequence[LayerTree], *, bottom: bool) -> Node:
    """Lay the trees over each other, the lowest first; returns the root of what is seen.

    With ``bottom`` nothing is below, so whiteouts have done their work and are left out; else
    they stay, for what is below.  The trees themselves are not changed.
    """
    merged: Node | None = None
    for tree in trees:
        resolved = _borrow(tree, merged)
        if merged is None and bottom and not tree.whiteouts and not resolved:
            merged = tree.root
        else:
            merged = _combine(merged, tree.root, resolved, keep=not bottom)
    return merged if merged is not None else directory_node()


def _borrow(tree: LayerTree, below: Node | None) -> dict[tuple[int, bytes], Node]:
    """Copies of files of the layers below that the layer's hard links point at."""
    found: dict[tuple[int, bytes], Node] = {}
    for parent, base, target in tree.borrowed:
        node = below
        for part in target.split(b"/"):
            node = node.children.get(part) if node is not None and node.children else None
        if node is None or stat.S_IFMT(node.mode) != stat.S_IFREG:
            raise InvalidTar(
                f"a hard link points at {os.fsdecode(target)!r}, which is not a file of the image"
            )
        found[id(parent), base] = node.copy()
    return found


def _combine(
    lower: Node | None, upper: Node, borrowed: dict[tuple[int, bytes], Node], *, keep: bool
) -> Node:
    root = _over(lower, upper)
    pending = [(root, lower, upper)]
    while pending:
        node, lower, upper = pending.pop()
        if lower is not None and not upper.opaque:
            assert lower.children is not None
            children = dict(lower.children)
        else:
            children = {}
        node.children = children
        assert upper.children is not None
        for name, child in upper.children.items():
            old = children.get(name)
            if child.whiteout:
                if keep:
                    children[name] = child
                elif old is not None:
                    del children[name]
            elif child.children is not None:
                below = old if old is not None and old.children is not None else None
                made = _over(below, child)
                if keep and old is not None and below is None:
                    made.opaque = True
                if not keep:
                    made.opaque = False
                children[name] = made
                pending.append((made, below, child))
            else:
                children[name] = borrowed.get((id(upper), name), child)
    return root


def _over(lower: Node | None, upper: Node) -> Node:
    """A directory with the attributes of the upper one, unless the layer only implies it."""
    if lower is None:
        return upper.copy()
    node = (lower if upper.implied else upper).copy()
    node.opaque = lower.opaque or upper.opaque
    return node
