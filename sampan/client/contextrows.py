"""Large contexts: only the files that the daemon does not have from the last build are sent.

A file is the same while its mode, size, times and inode number are.  One that changed a moment ago
might change again within the resolution of its times, so it is sent with the next build, too.
"""

from __future__ import annotations

import os
import stat
import time

from sampan import wirejson
from sampan.errors import SampanError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from sampan.client.api import Api
    from sampan.client.contextfolder import Packed

PATH = "/sampan/context"
_FRESH = 100_000_000  # ns; file systems that count whole seconds need more
_FRESH_COARSE = 2_100_000_000
_SECOND = 1_000_000_000


def difference(api: Api, packed: Packed) -> tuple[Iterable[bytes], dict[str, str]]:
    """What to send of a context, and the headers of the build that gets it.

    All of it, without a header, to a daemon that retains no contexts.
    """
    try:
        context, some = _offered(api, packed)
    except SampanError:
        return packed.chunks, {}
    return some, {"X-Sampan-Context": context}


def upload(api: Api, packed: Packed) -> str:
    """Send a context by itself; returns its address for the build that uses it.

    :raises SampanError: the daemon refuses it, or retains no contexts.
    """
    context, some = _offered(api, packed)
    api.open("POST", PATH, {"context": context, "files": "1"}, body=some).read()
    return f"retained://{context}"


def _offered(api: Api, packed: Packed) -> tuple[str, Iterable[bytes]]:
    """The context's name and fingerprint, and the archive of what the daemon does not have."""
    import hashlib

    rows = _rows(packed)
    context = f"{_name(packed.folder)}:{hashlib.sha256(rows).hexdigest()}"
    query = {"context": context}
    if api.post(PATH, query)["known"]:
        return context, packed.archive([])
    answer = api.open("POST", PATH, query, body=rows)
    ends = iter(wirejson.loads(answer.read())["needed"])
    wanted: set[int] = set()
    for begin in ends:
        wanted.update(range(begin, next(ends)))
    some = (
        entry
        for number, entry in enumerate(packed.entries)
        if number in wanted or not stat.S_ISREG(entry[1].st_mode)
    )
    return context, packed.archive(some)


def _rows(packed: Packed) -> bytes:
    """``path NUL identity NUL`` for each file."""
    now = time.time_ns()
    fresh, coarse = now - _FRESH, now - _FRESH_COARSE
    linked = _linked(packed)
    rows = []
    for name, info in packed.entries:
        mode, changed, modified = info.st_mode, info.st_ctime_ns, info.st_mtime_ns
        identity = f"{mode} {info.st_size} {modified} {changed} {info.st_ino}"
        if not stat.S_ISREG(mode):
            identity = f"-{identity}"
        if (
            changed > fresh
            or modified > fresh
            or (changed > coarse and not changed % _SECOND)
            or (info.st_nlink > 1 and (info.st_dev, info.st_ino) in linked)
        ):
            identity = f"{identity} {os.urandom(8).hex()}"
        rows.append(f"{name}\0{identity}\0")
    return "".join(rows).encode("utf-8", "surrogateescape")


def _linked(packed: Packed) -> set[tuple[int, int]]:
    """Files that have several names in the context: they must come together."""
    seen: set[tuple[int, int]] = set()
    twice: set[tuple[int, int]] = set()
    for _, info in packed.entries:
        if info.st_nlink > 1 and stat.S_ISREG(info.st_mode):
            key = (info.st_dev, info.st_ino)
            (twice if key in seen else seen).add(key)
    return twice


def _name(folder: str) -> str:
    """What stands for a folder of this machine since it was started."""
    import hashlib

    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            machine = file.read()
    except OSError:
        machine = os.uname().nodename.encode()
    info = os.stat(folder)
    place = f"{os.path.realpath(folder)}\0{info.st_dev}\0{info.st_ino}"
    return hashlib.sha256(machine + os.fsencode(place)).hexdigest()
