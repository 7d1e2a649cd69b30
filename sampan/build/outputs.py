"""Results that are files: a folder, a tar of the file system, an image archive."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from sampan.build.ops.copy import Copier, explained
from sampan.build.ops.select import select
from sampan.build.ops.tree import Folder, folder, mounted
from sampan.errors import InvalidParameter
from sampan.image.layer import write_tree
from sampan.image.reference import Reference
from sampan.store.archives import Archives
from sampan.store.images import Image, ImageStore
from sampan.store.snapshots import Snapshotter


def write_folder(snapshots: Snapshotter, snapshot: str | None, dest: Path) -> None:
    """Copy a result's files below ``dest``, with their owners and modes.  Blocking."""
    try:
        dest.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise InvalidParameter(f"the output {dest} is a file: a folder is needed") from None
    if snapshot is None:
        return
    with mounted(snapshots.mounts(snapshot)) as source, folder(dest, local=False) as target:
        copier = Copier(source, target)
        for chosen in select(source, "/"):
            copier.copy(chosen, "/", into=True)


def write_tar(snapshots: Snapshotter, snapshot: str | None, dest: Path) -> None:
    """Write a result's files as a tar.  Blocking."""
    with _replacing(dest) as out:
        if snapshot is None:
            out.write(bytes(1024))
            return
        with mounted(snapshots.mounts(snapshot)) as source:
            root = _readable(source)
            try:
                write_tree(root, out)
            finally:
                os.close(root)


def _readable(tree: Folder) -> int:
    return tree.open("/", os.O_RDONLY | os.O_DIRECTORY)


async def write_archive(
    images: ImageStore, image: Image, names: tuple[Reference, ...], dest: Path
) -> None:
    """Write an archive of the image that is both an OCI layout and what ``docker load`` takes."""
    with _replacing(dest) as out:
        async for chunk in Archives(images).save([(image, list(names))]):
            await asyncio.to_thread(out.write, chunk)


@contextmanager
def _replacing(dest: Path) -> Iterator[BinaryIO]:
    """A file written aside and put into place when the block ends well."""
    aside = dest.with_name(f".{dest.name}.{os.getpid()}.part")
    try:
        with aside.open("wb") as out:
            yield out
        aside.rename(dest)
    except FileNotFoundError:
        raise InvalidParameter(f"cannot write {dest}: its folder does not exist") from None
    except OSError as error:
        raise explained(error, str(dest)) from error
    finally:
        aside.unlink(missing_ok=True)
