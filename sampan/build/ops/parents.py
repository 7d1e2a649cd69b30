"""The control group that a build's commands are to be below: gone with the build that made it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections import Counter
from collections.abc import AsyncIterator

from sampan.errors import InvalidParameter
from sampan.runtime.cgroups import layout
from sampan.runtime.cgroups.naming import CGROUPFS, GroupNames

_ATTEMPTS = 20


class GroupParents:
    """The parents that builds have asked for; builds at a time may share them.

    A command's keeper makes the groups above its own.  The last build below a parent removes those
    that were not there before the first one, if nothing else is in them; slices are systemd's.
    """

    def __init__(self) -> None:
        self._users: Counter[str] = Counter()
        self._missing: dict[str, list[str]] = {}

    @contextlib.asynccontextmanager
    async def used(self, parent: str, names: GroupNames) -> AsyncIterator[None]:
        """While a build may run commands below ``parent``.  Raises InvalidParameter."""
        try:
            names.check(parent)
        except ValueError as error:
            raise InvalidParameter(str(error)) from None
        if not parent or names.driver != CGROUPFS:
            yield
            return
        if not self._users[parent]:
            self._missing[parent] = [path for path in _above(parent) if not os.path.exists(path)]
        self._users[parent] += 1
        try:
            yield
        finally:
            self._users[parent] -= 1
            if not self._users[parent]:
                del self._users[parent]
                for path in self._missing.pop(parent):
                    await self._remove(path, parent)

    async def _remove(self, path: str, parent: str) -> None:
        for _ in range(_ATTEMPTS):
            try:
                os.rmdir(path)
                return
            except OSError as error:
                if error.errno != errno.EBUSY:
                    return  # it never was
            # Something else is in it, or it was until a moment ago: the kernel is slow to see.
            await asyncio.sleep(0.005)
            if self._users[parent]:
                return


def _above(parent: str) -> list[str]:
    """The directories of a group and those above it in all hierarchies, the lowest first."""
    try:
        found = layout()
    except OSError:
        return []
    parts = [part for part in parent.split("/") if part not in ("", ".")]
    points = dict.fromkeys(point for point in (*found.points.values(), found.unified) if point)
    return [
        "/".join([point, *parts[:count]]) for point in points for count in range(len(parts), 0, -1)
    ]
