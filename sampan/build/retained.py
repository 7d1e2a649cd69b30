"""Contexts kept between builds, so that a client sends only the files that have changed.

A client describes each file of its context by a *row*: path and *identity* (mode, size, times,
inode number, of which the daemon needs to know nothing but whether it is the same as before).  All rows together have a *fingerprint*.  The store keeps, for each name that a client
gives its contexts (one a folder), the files of the last build.

1. The client asks whether the fingerprint is known; if so it sends no file.
2. If not, it sends its rows and is told which of the files to send.
3. The build's body holds those, and everything that is no regular file.

A retained context is an archive in memory maps of files that have no name any more, so whatever
becomes of the daemon, nothing is left on disk.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from dataclasses import dataclass

from sampan.build.ops.archive import ArchiveTree
from sampan.errors import InvalidParameter, NotFound

OTHER = b"-"
"""Begins the identity of what is no regular file, and is always sent."""
KEPT = 16
MAX_FILES = 400_000
MAX_BYTES = 4 << 30
IDLE = 900.0  # seconds
_SLACK = 64 << 20
Rows = dict[bytes, bytes]


def _parsed(data: bytes) -> Rows:
    fields = data.split(b"\0")
    return dict(zip(fields[0:-1:2], fields[1::2], strict=True))


@dataclass(slots=True)
class _Kept:
    fingerprint: str
    rows: bytes  # as they came: a tenth of what they take apart
    files: int
    tree: ArchiveTree
    size: int
    used: float


@dataclass(frozen=True, slots=True)
class _Offer:
    name: str
    rows: bytes
    same: list[bytes]
    before: _Kept | None
    made: float


class RetainedContexts:
    """The contexts of the last builds, a few; quick but for :meth:`offer` and :meth:`complete`."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._offers: OrderedDict[str, _Offer] = OrderedDict()

    def knows(self, name: str, fingerprint: str) -> bool:
        """Whether a build may use this context without sending it."""
        kept = self._kept.get(name)
        return kept is not None and kept.fingerprint == fingerprint

    def offer(self, name: str, fingerprint: str, data: bytes) -> list[int]:
        """Take rows (``path NUL identity NUL`` each); the answer is runs of files to send: where
        one begins and where it ends, by number.

        Raises InvalidParameter for rows that do not have the fingerprint.
        """
        if hashlib.sha256(data).hexdigest() != fingerprint:
            raise InvalidParameter("the rows of the build context do not have the fingerprint")
        rows = _parsed(data)
        kept = self._kept.get(name)
        if kept is not None and kept.tree.held > 2 * kept.size + _SLACK:
            kept = None  # Too much of what it keeps is of no use any more.
        known = _parsed(kept.rows) if kept is not None else {}
        needed: list[int] = []
        same: list[bytes] = []
        for number, (path, identity) in enumerate(rows.items()):
            if known.get(path) == identity and not identity.startswith(OTHER):
                same.append(path)
            elif needed and needed[-1] == number:
                needed[-1] = number + 1
            else:
                needed += [number, number + 1]
        self._offers[fingerprint] = _Offer(name, data, same, kept, time.monotonic())
        while len(self._offers) > KEPT:
            self._offers.popitem(last=False)
        return needed

    def complete(self, name: str, fingerprint: str, sent: ArchiveTree) -> ArchiveTree:
        """The context of which ``sent`` is the part that came; it is retained.

        Raises NotFound when it is not known any more: the client sends all of it then.
        """
        kept = self._kept.get(name)
        if kept is not None and kept.fingerprint == fingerprint:
            kept.used = time.monotonic()
            self._kept.move_to_end(name)
            if not sent.names(""):
                return kept.tree
            return sent.over(kept.tree)
        offer = self._offers.pop(fingerprint, None)
        if offer is None or offer.name != name:
            raise NotFound("the build context is not retained any more: send all of it")
        rows = offer.rows
        if offer.before is not None:
            sent.graft(offer.before.tree, offer.same)
        size = sent.size()
        self._kept[name] = _Kept(
            fingerprint, rows, rows.count(b"\0") // 2, sent, size, time.monotonic()
        )
        self._kept.move_to_end(name)
        self.trim()
        return sent

    def tree(self, name: str, fingerprint: str) -> ArchiveTree:
        """A context that is known.  Raises NotFound."""
        if not self.knows(name, fingerprint):
            raise NotFound("the named build context is not retained any more: build again")
        return self._kept[name].tree

    def clear(self) -> None:
        """Forget all contexts, for the space that they take on the disk."""
        self._kept.clear()
        self._offers.clear()

    def trim(self) -> float | None:
        """Drop what is too much or too old; returns the seconds until the next is too old."""
        now = time.monotonic()
        kept = self._kept
        while kept and (
            len(kept) > KEPT
            or sum(k.files for k in kept.values()) > MAX_FILES
            or sum(k.tree.held for k in kept.values()) > MAX_BYTES
            or now - next(iter(kept.values())).used > IDLE
        ):
            kept.popitem(last=False)
        # Of a client that went away before it sent anything.
        while self._offers and now - next(iter(self._offers.values())).made > IDLE:
            self._offers.popitem(last=False)
        dues = [item.used for item in [*kept.values()][:1]]
        dues += [item.made for item in [*self._offers.values()][:1]]
        return min(dues) + IDLE - now if dues else None


def parse_name(header: str) -> tuple[str, str]:
    """``NAME:FINGERPRINT``, both hexadecimal.  Raises InvalidParameter."""
    name, _, fingerprint = header.partition(":")
    for part in (name, fingerprint):
        if len(part) != 64 or not all(c in "0123456789abcdef" for c in part):
            raise InvalidParameter(f"invalid retained context {header!r}: two digests are needed")
    return name, fingerprint
