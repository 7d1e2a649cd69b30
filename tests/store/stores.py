"""Stores for tests, tars to put into them, and looks into their snapshots."""

from __future__ import annotations

import io
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sampan.image import tar, tarwrite
from sampan.image.tar import Entry
from sampan.linux.mount import detached
from sampan.store import probe
from sampan.store.content import ContentStore
from sampan.store.images import ImageStore
from sampan.store.metadata import Metadata
from sampan.store.snapshots import Snapshotter

LISTING = (
    "find . -mindepth 1 -printf '%p %y %m %U %G %l ' \\( -type d -o -printf '%T@ %n ' \\)"
    " \\( -type f -printf '%s' -o -true \\) -printf '\\n' | LC_ALL=C sort"
)


@dataclass
class Store:
    state: Path
    metadata: Metadata
    content: ContentStore
    snapshotter: Snapshotter
    images: ImageStore


@contextmanager
def open_store(state: Path, driver: str) -> Iterator[Store]:
    metadata = Metadata(state / "meta.db")
    content = ContentStore(state)
    snapshotter, _ = probe.choose(state, state / "run", metadata, driver)
    try:
        yield Store(
            state, metadata, content, snapshotter, ImageStore(content, metadata, snapshotter)
        )
    finally:
        snapshotter.close()
        metadata.close()


@contextmanager
def mounted(snapshotter: Snapshotter, key: str) -> Iterator[Path]:
    """The snapshot's root as a path, through a detached mount."""
    fd = detached(snapshotter.mounts(key)[-1])
    try:
        yield Path(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def listing(root: Path) -> list[str]:
    """Everything about the files below a directory except their content."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        done = subprocess.run(
            LISTING,
            shell=True,
            cwd=f"/proc/self/fd/{fd}",
            pass_fds=[fd],
            check=True,
            capture_output=True,
        )
    finally:
        os.close(fd)
    return done.stdout.decode(errors="surrogateescape").splitlines()


def archive(*entries: Entry | tuple[Entry, bytes]) -> io.BytesIO:
    """A tar of these entries; a file's content beside it."""
    data = bytearray()
    for item in entries:
        entry, content = item if isinstance(item, tuple) else (item, b"")
        entry.size = len(content)
        data += tarwrite.header(entry) + content + tarwrite.padding(len(content))
    return io.BytesIO(bytes(data) + tarwrite.END)


def file(name: str | bytes, content: bytes = b"", mode: int = 0o644) -> tuple[Entry, bytes]:
    return Entry(os.fsencode(name), tar.REGULAR, mode), content


def folder(name: str, mode: int = 0o755) -> Entry:
    return Entry(os.fsencode(name), tar.DIRECTORY, mode)


def link(name: str, target: str, kind: bytes = tar.SYMLINK) -> Entry:
    return Entry(os.fsencode(name), kind, 0o777, linkname=os.fsencode(target))
