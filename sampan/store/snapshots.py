"""The snapshotter interface.

A *snapshot* is a root file system.  An *active* snapshot has a *key* (a container's ID, a build
step's) and can be written through its mounts; a *view* is the same, read-only; a *committed* one
has a *name* and never changes.  Keys and names share one name space.  The parent of any snapshot
is a committed one, or None for an empty tree.  Life cycles:

Import the layers of an image, lowest first; the name is the chain ID::

    snapshotter.apply(chain_1, None, tar_1)
    snapshotter.apply(chain_2, chain_1, tar_2)

Run a container on it::

    mounts = snapshotter.prepare("container-1", chain_2)
    ...                                             # run
    snapshotter.remove("container-1")

Commit what it wrote, without a tar::

    snapshotter.commit("step-7", "container-1")     # the key is gone, the name is there
    snapshotter.link(chain_3, "step-7")             # and has a second name

Calls block (they touch the disk): make them in a thread unless noted.  prepare, view, mounts,
release and stat are quick enough for the event loop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, Protocol

from sampan.runtime.types import Mount

Kind = Literal["active", "view", "committed"]


@dataclass(frozen=True, slots=True)
class Usage:
    """Disk space of a snapshot itself, without its parents."""

    size: int
    inodes: int


@dataclass(frozen=True, slots=True)
class Info:
    name: str
    kind: Kind
    parent: str | None


class Snapshotter(Protocol):
    """Raises errors.NotFound for an unknown key, name or parent, errors.Conflict for one that
    exists already or is in use, errors.DiskFull when nothing is left (and nothing half-done)."""

    @property
    def driver(self) -> str:
        """``overlay``, ``plain`` or ``erofs``."""
        ...

    @property
    def keeps_tars(self) -> bool:
        """Whether a snapshot that is applied is its layer's tar, so that no file is made."""
        ...

    def prepare(
        self, key: str, parent: str | None, *, volatile: bool = False, becomes: str = ""
    ) -> list[Mount]:
        """Make an active snapshot; returns how to mount it (see :meth:`mounts`).

        ``becomes`` says that ``parent`` is the key of an active snapshot, which is to be committed
        under this name: what it holds must be complete when what is made here is mounted, its
        root's owner and mode are to be what they are now, and it cannot be removed before.  Raises
        errors.Unsupported if the driver needs the complete parent at once."""
        ...

    def limit(self, key: str, size: int) -> None:
        """Limit what may be written to a new active snapshot to ``size`` bytes.  Raises
        errors.Unsupported where driver or file system cannot."""
        ...

    def view(self, key: str, parent: str | None) -> list[Mount]:
        """The same, read-only."""
        ...

    def mounts(self, key: str, *, volatile: bool = False) -> list[Mount]:
        """How to mount an active snapshot, a view, or (read-only) a committed one.  What is
        written to a ``volatile`` one is thrown away, or made again, if the machine goes down:
        nothing waits for the disk then, neither fsync(2) nor the unmounting."""
        ...

    def commit(self, name: str, key: str) -> None:
        """Turn the active snapshot ``key`` into the committed one ``name``."""
        ...

    def link(self, name: str, target: str) -> None:
        """Give a committed snapshot a second name; its space is freed with its last name."""
        ...

    def remove(self, key: str, unless: Callable[[str], bool] | None = None) -> None:
        """Remove a snapshot by key or name; Conflict while another one has it as its parent, or
        when ``unless`` says so of it."""
        ...

    def release(self, key: str, unless: Callable[[str], bool] | None = None) -> Callable[[], None]:
        """The part of :meth:`remove` that is quick enough for the event loop: the snapshot is
        gone, and what is returned deletes its files and is to be called in a thread."""
        ...

    def usage(self, key: str) -> Usage: ...

    def stat(self, key: str) -> Info: ...

    def upper(self, key: str) -> Path:
        """The directory that holds what an active or committed snapshot changed, in overlayfs'
        form; raises errors.Unsupported when the driver keeps none for it."""
        ...

    def layer_tar(self, name: str) -> Path | None:
        """The layer's uncompressed tar, where the driver keeps committed snapshots as such."""
        ...

    def apply(
        self,
        name: str,
        parent: str | None,
        layer: BinaryIO,
        source: Path | None = None,
        *,
        apart: Usage | None = None,
    ) -> None:
        """Make the committed snapshot ``name`` of an uncompressed layer tar on ``parent``.  Does
        nothing when it exists.  Raises errors.InvalidParameter for a malformed or hostile tar.
        ``source`` is a file in the state directory with the same bytes, never to change, if there
        is one: a driver may link it instead of reading ``layer``.  A layer that is to stand
        ``apart``, and takes this space, is not merged with what it is on, and not read before it
        is used: for one that this program has written, with nothing in it that a snapshot could
        not hold, and no whiteouts or holes.  It is ready sooner, and costs a lookup more."""
        ...

    def warm(self, name: str) -> None:
        """Prepare what the first use of a committed snapshot as a parent needs, if that takes
        long."""
        ...

    def close(self) -> None:
        """Release what this process holds (mounts); snapshots in use stay in use."""
        ...

    def unreached(self, roots: set[str]) -> list[str]:
        """Names of image layers (names that are digests) that neither ``roots`` nor any other
        snapshot reaches, in the order in which they can be removed."""
        ...

    def active(self) -> list[str]:
        """The keys of active snapshots and views."""
        ...

    def check(self, repair: bool) -> list[tuple[str, str]]:
        """What is wrong with the snapshots' files: the name of the snapshot that should be removed
        and made anew, and what is wrong with it.  What can be made good in place is, if ``repair``,
        and has an empty name."""
        ...
