"""Signal and forget a container of another runtime; by the keeper itself."""

from __future__ import annotations

import os

from sampan.runtime.errors import StartError
from sampan.runtime.external.command import Runtime, call


def kill(runtime: Runtime, container_id: str, number: int) -> None:
    """Raises StartError with the runtime's message."""
    call(runtime, "kill", container_id, str(number))


def delete(runtime: Runtime, container_id: str) -> str:
    """Let the runtime forget a container, killing what is left; why it could not, or empty."""
    if not os.path.exists(f"{runtime.root}/{container_id}") and not _known(runtime, container_id):
        return ""
    try:
        call(runtime, "delete", "--force", container_id)
    except (StartError, OSError) as failure:
        return f"the runtime did not delete it: {failure}"
    return ""


def _known(runtime: Runtime, container_id: str) -> bool:
    """Whether it has files of the container under another name (as runsc has)."""
    try:
        return any(name.startswith(container_id) for name in os.listdir(runtime.root))
    except FileNotFoundError:
        return False
