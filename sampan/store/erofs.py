"""Snapshots that read images straight from their layers' tars, by EROFS; nothing is extracted.

    snapshots/erofs/<id>/layer.tar     a layer's uncompressed tar (a link to its blob if it is one)
    snapshots/erofs/<id>/sparse.data   its sparse files at full length, when it has any
    snapshots/erofs/<id>/image.erofs   merged metadata of the layer and all below it, made when the
                                       snapshot is first used as a parent
    snapshots/erofs/<id>/{fs,work}     of a snapshot that was made by writing: as for overlay
    RUN/mounts/<id>                    the image mounted; shared by all snapshots on it

A container is one overlay over one such mount, however many layers the image has.  Snapshots that
were committed from writing stand as directories between; the layers above and below them are
merged each for themselves.

A mount is made when it is needed and kept while a snapshot uses it, a few longer.  An overlay holds
what it stands on by itself, so unmounting never disturbs a running container.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from sampan.errors import InvalidParameter, SampanError, Unsupported
from sampan.image.tar import InvalidTar
from sampan.linux import mountinfo
from sampan.linux.mount import move_mount_to, new_filesystem, umount
from sampan.runtime.types import Mount
from sampan.store.content import disk_full_as_error, fsync_directory
from sampan.store.erofs_image import Device, build, read_devices
from sampan.store.metadata import Metadata
from sampan.store.overlay import OverlaySnapshotter
from sampan.store.placing import copy_sparse, link_layer, place_layer, read_tree
from sampan.store.records import Record
from sampan.store.snapshots import Usage
from sampan.store.tree import LayerTree, merge

_IDLE_MOUNTS = 8
_KNOWN_STACKS = 512
_HELD_INODES = 30_000
_PATH_LIMIT = 240  # fsconfig(2) takes 255 bytes
_HEAD = 1 << 20
# Forms of snapshots: "tar" with what is to be known of it.
_TAR, _SPARSE, _OPAQUE, _APART = "tar", "+sparse", "+opaque", "+apart"
_PADDED = "+padded"


@dataclass(frozen=True, slots=True)
class _Stack:
    """Adjacent layers kept as tars, the uppermost first; ``bottom`` when nothing is below."""

    layers: tuple[tuple[int, str], ...]
    bottom: bool

    @property
    def id(self) -> int:
        return self.layers[0][0]


class ErofsSnapshotter(OverlaySnapshotter):
    """The snapshotter interface over EROFS for layers and overlayfs for what is written."""

    driver = "erofs"
    keeps_tars = True

    def __init__(self, state_dir: Path, run_dir: Path, metadata: Metadata) -> None:
        self._places = run_dir / "mounts"
        self._places.mkdir(parents=True, exist_ok=True)
        self._building = threading.Lock()
        self._mounting = threading.Lock()
        # Trees read by apply, for the merge that mostly follows.
        self._trees: OrderedDict[int, LayerTree] = OrderedDict()
        self._idle: OrderedDict[int, None] = OrderedDict()
        # What committed snapshots consist of never changes, and every use of one asks for it.
        self._known: dict[int, tuple[_Stack | Path, ...]] = {}
        super().__init__(state_dir, metadata)

    def _open(self) -> None:
        self._adopt_mounts()
        super()._open()

    def apply(
        self,
        name: str,
        parent: str | None,
        layer: BinaryIO,
        source: Path | None = None,
        *,
        apart: Usage | None = None,
    ) -> None:
        if self._records.get(name) is not None:
            return
        if parent is not None:
            self._records.committed(parent)
        directory = self._records.reserve()
        id = int(directory.name)
        self._known.pop(id, None)
        try:
            with disk_full_as_error(self.root):
                file = directory / "layer.tar"
                if apart is not None and source is not None and link_layer(source, file):
                    fsync_directory(directory)
                    form = _TAR if parent is None else _TAR + _APART
                    self._records.adopt(directory, name, parent, apart, form)
                    return
                tree = place_layer(layer, source, file, 2 * id)
                if tree.sparse_size:
                    copy_sparse(file, directory / "sparse.data", tree)
                fsync_directory(directory)
        except BaseException:
            self._records.abandon(directory)
            raise
        form = _TAR + (_SPARSE if tree.sparse_size else "") + (_OPAQUE if tree.root.opaque else "")
        if apart is not None and parent is not None and not tree.root.opaque:
            form += _APART
        if tree.padded:
            form += _PADDED
        usage = Usage(tree.size, tree.inodes)
        if self._records.adopt(directory, name, parent, usage, form):
            self._hold(id, tree)

    def _forget(self, id: int) -> None:
        self._known.pop(id, None)

    def layer_tar(self, name: str) -> Path | None:
        record = self._records.find(name)
        if record.form == "directory" or _PADDED in record.form:
            return None
        return self._records.directory(record.id) / "layer.tar"

    def warm(self, name: str) -> None:
        for stack in self._stacks(self._records.committed(name).id):
            if isinstance(stack, _Stack):
                self._image(stack)

    def release(self, key: str, unless: Callable[[str], bool] | None = None) -> Callable[[], None]:
        record = self._records.find(key)
        under = () if record.parent is None else self._stacks(record.parent)
        delete = super().release(key, unless)
        self._trees.pop(record.id, None)
        self._known.pop(record.id, None)

        def finish() -> None:
            self._settle(key, record, under)
            delete()

        return finish

    def _settle(self, key: str, record: Record, under: Sequence[_Stack | Path]) -> None:
        """Unmount what nobody needs since ``key`` is gone."""
        # The records first: a snapshot is made, and mounted, within a transaction of theirs.
        with self._records.still(), self._mounting:
            if record.kind == "committed" and self._records.get(key) is None:
                self._unmount(record.id)
            for stack in under:
                if isinstance(stack, _Stack) and not self._records.uses(stack.id):
                    self._idle[stack.id] = None
                    self._idle.move_to_end(stack.id)
            while len(self._idle) > _IDLE_MOUNTS:
                self._unmount(next(iter(self._idle)))

    def upper(self, key: str) -> Path:
        record = self._records.find(key)
        if record.form != "directory":
            raise Unsupported(f"the snapshot {key} is a layer's tar, not a directory of changes")
        return super().upper(key)

    def close(self) -> None:
        """Unmount everything; running containers keep what they stand on."""
        with self._mounting:
            for path in list(self._places.iterdir()):
                if path.name.isdigit():
                    self._unmount(int(path.name))

    def check(self, repair: bool) -> list[tuple[str, str]]:
        """A snapshot's files are there, and its metadata fits the tars below it; a metadata file
        that does not is deleted by a repair, because it can be made again."""
        found: list[tuple[str, str]] = []

        def files(record: Record) -> list[Path]:
            directory = self._records.directory(record.id)
            if record.form == "directory":
                wanted = [directory / "fs"]
                return [*wanted, directory / "work"] if record.kind == "active" else wanted
            image = directory / "image.erofs"
            if image.exists():
                try:
                    self._check_image(record.id, image)
                except (SampanError, OSError) as error:
                    if repair:
                        self._unmount(record.id)
                        image.unlink()
                    found.append(("", str(error)))
            names = ("layer.tar", "sparse.data") if _SPARSE in record.form else ("layer.tar",)
            return [directory / name for name in names]

        return self._records.check(files) + found

    def _check_image(self, id: int, image: Path) -> None:
        stack = self._stacks(id)[0]
        if not isinstance(stack, _Stack):
            return
        self._fitting(stack, image)
        with self._building:
            if image.read_bytes() != self._built(stack):
                raise SampanError(f"the file {image} is not what its layers give")

    # Stacks of directories and images

    def _stacks(self, id: int) -> tuple[_Stack | Path, ...]:
        """What a committed snapshot consists of, the uppermost first."""
        known = self._known.get(id)
        if known is None:
            if len(self._known) >= _KNOWN_STACKS:
                self._known.clear()
            known = self._known[id] = tuple(self._composed(id))
        return known

    def _composed(self, id: int) -> list[_Stack | Path]:
        parent, form = self._records.made_on(id)
        if parent in self._known and form == "directory":
            return [self._fs(id), *self._known[parent]]
        found: list[_Stack | Path] = []
        run: list[tuple[int, str]] = []
        for layer in self._records.chain(id):
            form = layer[1]
            if form != "directory" and _APART not in form:
                run.append(layer)
                if _OPAQUE in form:
                    break  # Its root hides everything below.
                continue
            if run:
                found.append(_Stack(tuple(run), bottom=False))
                run = []
            if form == "directory":
                found.append(self._fs(layer[0]))
            else:
                found.append(_Stack((layer,), bottom=False))
        if run:
            found.append(_Stack(tuple(run), bottom=True))
        return found

    def _lower(self, id: int) -> list[Path]:
        return [
            self._mounted(part) if isinstance(part, _Stack) else part for part in self._stacks(id)
        ]

    def _mounts(self, record: Record, volatile: bool = False) -> list[Mount]:
        if record.kind == "committed":
            return self._mounts_of(self._lower(record.id))
        if record.kind == "view":
            return self._mounts_of(self._lower(record.parent) if record.parent else [])
        return super()._mounts(record, volatile)

    # Images

    def _image(self, stack: _Stack) -> Path:
        """The metadata file of a stack, made if it is missing."""
        path = self._records.directory(stack.id) / "image.erofs"
        if path.exists():
            return path
        with self._building, disk_full_as_error(self.root):
            if path.exists():
                return path
            _write_file(path, self._built(stack))
            for id, _ in stack.layers:
                self._trees.pop(id, None)
        return path

    def _built(self, stack: _Stack) -> bytes | bytearray:
        """The metadata of a stack: the same bytes each time."""
        try:
            trees = [self._tree(id) for id, _ in reversed(stack.layers)]
            root = merge(trees, bottom=stack.bottom)
            devices, numbers = self._devices(stack)
            return build(root, [device for device, _ in devices], numbers)
        except InvalidTar as error:
            raise InvalidParameter(f"invalid layer: {error}") from error

    def _devices(self, stack: _Stack) -> tuple[list[tuple[Device, Path]], dict[int, int]]:
        """The data files in the order of the device table, lowest layer first, and which number
        the trees' files have in it."""
        found: list[tuple[Device, Path]] = []
        numbers: dict[int, int] = {}
        for id, form in reversed(stack.layers):
            for offset, name in enumerate(("layer.tar", "sparse.data")):
                if name == "sparse.data" and _SPARSE not in form:
                    continue
                path = self._records.directory(id) / name
                size = path.stat().st_size
                found.append((Device(f"{id}/{name}:{size}".encode(), size), path))
                numbers[2 * id + offset] = len(found)
        return found, numbers

    def _tree(self, id: int) -> LayerTree:
        held = self._trees.get(id)
        if held is not None:
            return held
        return read_tree(self._records.directory(id) / "layer.tar", 2 * id)

    def _hold(self, id: int, tree: LayerTree) -> None:
        self._trees[id] = tree
        while len(self._trees) > 1 and sum(t.inodes for t in self._trees.values()) > _HELD_INODES:
            self._trees.popitem(last=False)

    # Mounts

    def _mounted(self, stack: _Stack) -> Path:
        place = self._places / str(stack.id)
        image = self._image(stack)
        with self._mounting:
            self._idle.pop(stack.id, None)
            if not _is_mount(place):
                place.mkdir(exist_ok=True)
                self._mount(stack, image, place)
        return place

    def _mount(self, stack: _Stack, image: Path, place: Path) -> None:
        mount_erofs(image, self._fitting(stack, image), place)

    def _fitting(self, stack: _Stack, image: Path) -> list[Path]:
        """The data files for a metadata image; raises SampanError when it was made for others."""
        devices, _ = self._devices(stack)
        with image.open("rb") as file:
            try:
                listed = read_devices(file.read(_HEAD))
            except ValueError as error:
                raise SampanError(f"the file {image} is damaged: {error}") from error
        if listed != [device.tag for device, _ in devices]:
            # A wrong order would read one file's data as another's.
            raise SampanError(f"the file {image} does not fit its layers: remove the image")
        return [path for _, path in devices]

    def _unmount(self, id: int) -> None:
        place = self._places / str(id)
        self._idle.pop(id, None)
        if place.exists():
            if _is_mount(place):
                umount(str(place))
            with suppress(OSError):
                place.rmdir()

    def _adopt_mounts(self) -> None:
        """Keep what an earlier process mounted and is in use; unmount the rest."""
        sources = _mount_sources()
        for place in self._places.iterdir():
            if not place.name.isdigit():
                continue
            id = int(place.name)
            image = self._records.directory(id) / "image.erofs"
            source = sources.get(os.fspath(place.resolve()))
            if source != os.fspath(image) or not self._records.uses(id):
                self._unmount(id)


def mount_erofs(image: Path, devices: Sequence[Path], place: Path) -> None:
    """Mount a metadata file over its data files, in the order of its device table."""
    with _paths([image, *devices]) as (source, *files):
        fd = new_filesystem("erofs", source, [f"device={file}" for file in files])
    try:
        move_mount_to(fd, os.fspath(place))
    finally:
        os.close(fd)


@contextmanager
def _paths(files: Sequence[Path]) -> Iterator[list[str]]:
    """Names of files for fsconfig(2), which takes short ones only: others go by descriptor."""
    opened: list[int] = []
    names: list[str] = []
    try:
        for file in files:
            name = os.fspath(file)
            if len(os.fsencode(name)) > _PATH_LIMIT:
                opened.append(os.open(name, os.O_RDONLY | os.O_CLOEXEC))
                name = f"/proc/self/fd/{opened[-1]}"
            names.append(name)
        yield names
    finally:
        for fd in opened:
            os.close(fd)


def _is_mount(place: Path) -> bool:
    try:
        return place.stat().st_dev != place.parent.stat().st_dev
    except FileNotFoundError:
        return False


def _mount_sources() -> dict[str, str]:
    """Mount point → source of this namespace's mounts."""
    return {os.fsdecode(e.place): os.fsdecode(e.source) for e in mountinfo.entries()}


def _write_file(path: Path, data: bytes | bytearray) -> None:
    temporary = path.with_name(path.name + ".new")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    fsync_directory(path.parent)
