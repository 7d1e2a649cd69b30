"""A writer of EROFS metadata: a file system image without data, which points into data devices.

Format: the kernel's ``Documentation/filesystems/erofs.rst`` and ``erofs_fs.h``.  Blocks are 512
bytes, so that the data in a tar (which begins at multiples of 512) is addressable as it is.

    0      empty
    1024   superblock, 128 bytes
    1152   device table, 128 bytes a device
    …      inodes at multiples of 32 bytes (the multiple is the node number), each 64 bytes, then
           its attributes, then: a file's one chunk index (device and block), a symbolic link's
           target, or a small directory's entries
    …      blocks of the larger directories and longer link targets

A regular file is one chunk, as large as it needs to be, in one device.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from sampan.image.tar import InvalidTar
from sampan.store.tree import Node

BLOCK_BITS = 9
BLOCK = 1 << BLOCK_BITS
MAGIC = 0xE0F5E1E2

_SUPER_OFFSET = 1024
_SLOT = 32
_INODE_SIZE = 64
_FEATURE_COMPAT_MTIME = 0x2
_FEATURE_INCOMPAT_CHUNKED_FILE = 0x4
_FEATURE_INCOMPAT_DEVICE_TABLE = 0x8
_LAYOUT_PLAIN, _LAYOUT_INLINE, _LAYOUT_CHUNK = 0, 2, 4
_EXTENDED = 1
_CHUNK_INDEXES = 0x20
_MAX_CHUNK_BITS = 31
_DIRENT_SIZE = 12

_SUPER = struct.Struct("<IIIBBHQQIIII16s16sIHHHBBIQB23x")
_DEVICE = struct.Struct("<64sII56x")
_INODE = struct.Struct("<HHHHQIIIIqII16x")
_CHUNK = struct.Struct("<HHI")
_DIRENT = struct.Struct("<QHBB")
_XATTR = struct.Struct("<BBH")
_XATTR_HEADER_SIZE = 12
_XATTR_NAMES = (
    (b"user.", 1),
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"trusted.", 4),
    (b"security.", 6),
)
_OPAQUE = b"trusted.overlay.opaque"
_FILE_TYPES = {
    stat.S_IFREG: 1,
    stat.S_IFDIR: 2,
    stat.S_IFCHR: 3,
    stat.S_IFBLK: 4,
    stat.S_IFIFO: 5,
    stat.S_IFLNK: 7,
}


@dataclass(frozen=True, slots=True)
class Device:
    """A data file: its length in bytes, and a tag (at most 64 bytes) to recognise it by."""

    tag: bytes
    size: int


def build(root: Node, devices: Sequence[Device], numbers: dict[int, int]) -> bytearray:
    """The metadata image of a tree.  ``numbers`` maps the nodes' ``device`` to the position of the
    device (from 1) in ``devices``, which is the order in which they must be given to the mount.
    Raises InvalidTar for what the format cannot hold."""
    return _Builder(devices, numbers).build(root)


def read_devices(image: bytes) -> list[bytes]:
    """The tags in the device table of an image (its first bytes suffice); ValueError if it is not
    one of ours."""
    if len(image) < _SUPER_OFFSET + _SUPER.size:
        raise ValueError("too short for an EROFS image")
    fields = _SUPER.unpack_from(image, _SUPER_OFFSET)
    if fields[0] != MAGIC or fields[3] != BLOCK_BITS:
        raise ValueError("not an EROFS image with blocks of 512 bytes")
    count, start = fields[16], fields[17] * _DEVICE.size
    if len(image) < start + count * _DEVICE.size:
        raise ValueError("the EROFS image is cut short")
    return [
        _DEVICE.unpack_from(image, start + index * _DEVICE.size)[0].rstrip(b"\0")
        for index in range(count)
    ]


class _Builder:
    def __init__(self, devices: Sequence[Device], numbers: dict[int, int]) -> None:
        self._devices = devices
        self._numbers = numbers
        self._nodes: list[Node] = []
        self._parents: dict[int, Node] = {}
        self._xattrs: dict[int, bytes] = {}
        # Of directories: the names in each block, and the length of the whole.
        self._packed: dict[int, tuple[list[list[bytes]], int]] = {}
        self._image = bytearray()

    def build(self, root: Node) -> bytearray:
        self._collect(root)
        table = _SUPER_OFFSET + _SUPER.size
        position = table + len(self._devices) * _DEVICE.size
        for node in self._nodes:
            position = self._place(node, position)
        data = -(-position // BLOCK)
        self._image = bytearray(data * BLOCK)
        for number, node in enumerate(self._nodes, 1):
            self._emit(node, number)
        self._image += bytes(-len(self._image) % BLOCK)
        for index, device in enumerate(self._devices):
            blocks = -(-device.size // BLOCK)
            if blocks >= 1 << 32:
                raise InvalidTar("a layer of more than two terabytes")
            _DEVICE.pack_into(self._image, table + index * _DEVICE.size, device.tag, blocks, 0)
        self._superblock(root, table)
        return self._image

    def _superblock(self, root: Node, table: int) -> None:
        assert table % _DEVICE.size == 0
        features = _FEATURE_INCOMPAT_CHUNKED_FILE
        if self._devices:
            features |= _FEATURE_INCOMPAT_DEVICE_TABLE
        _SUPER.pack_into(
            self._image,
            _SUPER_OFFSET,
            *(MAGIC, 0, _FEATURE_COMPAT_MTIME, BLOCK_BITS, 0, root.nid, len(self._nodes)),
            *(0, 0, len(self._image) // BLOCK, 0, 0, b"", b"", features, 0),
            *(len(self._devices), table // _DEVICE.size, 0, 0, 0, 0, 0),
        )

    def _collect(self, root: Node) -> None:
        """List each node once, the root first, and count the links."""
        root.nlink = 2
        self._parents[id(root)] = root
        self._nodes.append(root)
        pending = [root]
        seen: set[int] = set()
        while pending:
            directory = pending.pop()
            assert directory.children is not None
            for node in directory.children.values():
                if node.children is not None:
                    node.nlink = 2
                    directory.nlink += 1
                    self._parents[id(node)] = directory
                    self._nodes.append(node)
                    pending.append(node)
                elif id(node) in seen:
                    node.nlink += 1
                else:
                    seen.add(id(node))
                    node.nlink = 1
                    self._nodes.append(node)

    def _place(self, node: Node, position: int) -> int:
        """Choose the node's number; returns the first free position after it."""
        xattrs = b""
        if node.xattrs or node.opaque:
            xattrs = _encode_xattrs(node)
            if xattrs:
                self._xattrs[id(node)] = xattrs
        head = _INODE_SIZE + len(xattrs)
        position = -(-position // _SLOT) * _SLOT
        kind = stat.S_IFMT(node.mode)
        if kind == stat.S_IFREG:
            end = position + (-(-head // 8) * 8 + _CHUNK.size if node.size else head)
        elif node.children is not None or kind == stat.S_IFLNK:
            length = self._pack(node) if node.children is not None else node.size
            if length <= BLOCK:
                # Inline data may not cross a block.
                while (position + head) % BLOCK + length > BLOCK:
                    position += _SLOT
                end = position + head + length
            else:
                end = position + head
        else:
            end = position + head
        node.nid = position // _SLOT
        return end

    def _pack(self, node: Node) -> int:
        """Distribute a directory's names over blocks; returns its length."""
        assert node.children is not None
        names = sorted([b".", b"..", *node.children])
        blocks: list[list[bytes]] = []
        block: list[bytes] = []
        used = 0
        for name in names:
            needed = _DIRENT_SIZE + len(name)
            if used + needed > BLOCK:
                blocks.append(block)
                block, used = [], 0
            block.append(name)
            used += needed
        blocks.append(block)
        length = (len(blocks) - 1) * BLOCK + used
        self._packed[id(node)] = blocks, length
        return length

    def _emit(self, node: Node, number: int) -> None:
        position = node.nid * _SLOT
        xattrs = self._xattrs.get(id(node), b"")
        head = position + _INODE_SIZE + len(xattrs)
        kind = stat.S_IFMT(node.mode)
        layout, union, size = _LAYOUT_PLAIN, 0, 0
        if kind == stat.S_IFREG:
            size = node.size
            if size:
                bits = min(max((size - 1).bit_length() - BLOCK_BITS, 0), _MAX_CHUNK_BITS)
                if size > 1 << (bits + BLOCK_BITS):
                    raise InvalidTar("a file of more than a terabyte")
                layout, union = _LAYOUT_CHUNK, bits | _CHUNK_INDEXES
                block = node.offset >> BLOCK_BITS
                at = -(-head // 8) * 8
                _CHUNK.pack_into(self._image, at, 0, self._numbers[node.device], block)
        elif node.children is not None or kind == stat.S_IFLNK:
            data = self._directory(node) if node.children is not None else node.link
            size = len(data)
            if size <= BLOCK:
                layout = _LAYOUT_INLINE
                self._image[head : head + size] = data
            else:
                union = len(self._image) >> BLOCK_BITS
                self._image += data
                self._image += bytes(-len(self._image) % BLOCK)
        elif kind in (stat.S_IFCHR, stat.S_IFBLK):
            union = _encode_device(node.rdev)
        icount = (len(xattrs) - _XATTR_HEADER_SIZE) // 4 + 1 if xattrs else 0
        seconds, nanos = divmod(node.mtime, 1_000_000_000)
        _INODE.pack_into(
            self._image,
            position,
            *(_EXTENDED | layout << 1, icount, node.mode, 0, size, union, number),
            *(node.uid, node.gid, seconds, nanos, node.nlink),
        )
        if xattrs:
            self._image[position + _INODE_SIZE : head] = xattrs

    def _directory(self, node: Node) -> bytes:
        """A directory's content: in each block the entries, then the names."""
        children = node.children
        assert children is not None
        blocks, _ = self._packed[id(node)]
        own, above = node.nid, self._parents[id(node)].nid
        pack = _DIRENT.pack
        types = _FILE_TYPES
        pieces: list[bytes] = []
        for index, names in enumerate(blocks):
            offset = len(names) * _DIRENT_SIZE
            for name in names:
                child = children.get(name)
                if child is not None:
                    pieces.append(pack(child.nid, offset, types[child.mode & 0o170000], 0))
                else:
                    pieces.append(pack(own if name == b"." else above, offset, 2, 0))
                offset += len(name)
            pieces.extend(names)
            if index < len(blocks) - 1:
                pieces.append(bytes(BLOCK - offset))
        return b"".join(pieces)


def _encode_xattrs(node: Node) -> bytes:
    """The attributes as they stand between inode and data.  Names of other kinds than the format
    knows cannot be stored, and Linux has no others."""
    xattrs = dict(node.xattrs or {})
    if node.opaque:
        xattrs[_OPAQUE] = b"y"
    entries: list[bytes] = []
    for name in sorted(xattrs):
        value = xattrs[name]
        index, short = _split_name(name)
        if not index:
            continue
        if len(short) > 255 or len(value) > 0xFFFF:
            raise InvalidTar(f"the extended attribute {name!r} is too large")
        entry = _XATTR.pack(len(short), index, len(value)) + short + value
        entries.append(entry + bytes(-len(entry) % 4))
    if not entries:
        return b""
    body = bytes(_XATTR_HEADER_SIZE) + b"".join(entries)
    if len(body) > 4 * 0xFFFF:
        raise InvalidTar("a file with more than 256 kilobytes of extended attributes")
    return body


def _split_name(name: bytes) -> tuple[int, bytes]:
    """The number of an attribute's prefix, and the rest of its name; 0 for an unknown prefix."""
    for prefix, index in _XATTR_NAMES:
        if name == prefix or (prefix.endswith(b".") and name.startswith(prefix)):
            return index, name[len(prefix) :]
    return 0, name


def _encode_device(rdev: int) -> int:
    """The kernel's 32-bit form of a device number."""
    major, minor = os.major(rdev), os.minor(rdev)
    return (minor & 0xFF) | major << 8 | (minor & ~0xFF) << 12
