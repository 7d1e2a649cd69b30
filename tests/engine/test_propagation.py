"""Propagation asked of a bind, and what the mount of its source can do."""

from __future__ import annotations

from pathlib import Path

import pytest

from sampan.engine.propagation import check
from sampan.errors import InvalidParameter

MOUNTS = rb"""21 1 254:0 / / rw - ext4 /dev/vda rw
22 21 0:5 / /shared rw shared:7 - tmpfs tmpfs rw
23 21 0:6 / /a\040b rw master:3 - tmpfs tmpfs rw
24 22 0:7 / /shared/private rw - tmpfs tmpfs rw
25 24 0:8 / /shared/private rw shared:9 - tmpfs tmpfs rw
26 21 0:9 / /sh rw - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(
    ("source", "propagation", "place"),
    [
        ("/x", "rprivate", ""),
        ("/x", "", ""),
        ("/x", "rslave", "/"),
        ("/x", "shared", "/"),
        ("/shared", "rshared", ""),
        ("/shared/x/y", "slave", ""),
        ("/sharedx", "slave", "/"),
        ("/sh/x", "rshared", "/sh"),
        ("/a b/c", "rslave", ""),
        ("/a b/c", "rshared", "/a b"),
        ("/shared/private/x", "rshared", ""),
    ],
)
def test_check(source: str, propagation: str, place: str) -> None:
    if not place:
        check(source, propagation, MOUNTS)
        return
    kind = "a shared mount" if "shared" in propagation else "a shared or slave mount"
    with pytest.raises(InvalidParameter) as refusal:
        check(source, propagation, MOUNTS)
    assert str(refusal.value) == f"path {source} is mounted on {place} but it is not {kind}"


def test_links_are_followed(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("/shared")
    check(str(link / "x"), "rshared", MOUNTS)
