"""User namespaces made only for their mappings, as id-mapped mounts want them."""

from __future__ import annotations

import os
from collections.abc import Sequence

from sampan.linux import files
from sampan.linux.namespaces import CLONE_NEWUSER, unshare

Mapping = tuple[int, int, int]
"""(first id inside, first id outside, how many)."""


def mapping_namespace(uids: Sequence[Mapping], gids: Sequence[Mapping]) -> int:
    """The descriptor of a new user namespace with these mappings; the caller closes it.

    Raises OSError if the kernel refuses a mapping.
    """
    ready, told = os.pipe2(os.O_CLOEXEC)
    hold, release = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if not child:
        try:
            os.close(release)
            unshare(CLONE_NEWUSER)
            os.write(told, b"r")
            os.read(hold, 1)
        finally:
            os._exit(0)
    os.close(told)
    os.close(hold)
    try:
        if not os.read(ready, 1):
            raise PermissionError(1, "a user namespace for the mapping cannot be made")
        for name, mappings in (("uid_map", uids), ("gid_map", gids)):
            text = "".join(f"{inside} {outside} {size}\n" for inside, outside, size in mappings)
            files.write(f"/proc/{child}/{name}", text)
        return os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(ready)
        os.close(release)
        os.waitpid(child, 0)
