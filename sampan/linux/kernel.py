"""Which kernel runs."""

from __future__ import annotations

import os
import re


def version(release: str = "") -> tuple[int, ...]:
    """The (major, minor) numbers of a kernel's release, by default the running one's; empty if it
    does not begin with them."""
    found = re.match(r"(\d+)\.(\d+)", release or os.uname().release)
    return (int(found[1]), int(found[2])) if found else ()
