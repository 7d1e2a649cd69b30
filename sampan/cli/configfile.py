"""Changes to the client's ``config.json``: other programs' entries are kept as they are."""

from __future__ import annotations

import os

from sampan import wirejson
from sampan.client.contexts import read_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def change(config_dir: str, edit: Callable[[dict[str, Any]], None]) -> None:
    """Apply ``edit`` to the configuration and write it, whole or not at all, for its owner only."""
    path = f"{config_dir}/config.json"
    os.makedirs(config_dir, 0o700, exist_ok=True)
    # A link is written through, so that it goes on pointing to where its owner keeps the file.
    path = os.path.realpath(path)
    found: dict[str, Any] = read_json(path) or {}
    edit(found)
    aside = f"{path}.{os.getpid()}"
    fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "w", encoding="utf-8") as file:
            file.write(wirejson.dumps(found, "\t") + "\n")
        os.replace(aside, path)
    except BaseException:
        os.unlink(aside)
        raise
