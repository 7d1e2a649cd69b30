"""Pieces of OCI specifications."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def bind(source: Path | str, destination: str, *options: str) -> dict[str, Any]:
    """An OCI bind mount."""
    return {
        "destination": destination,
        "type": "bind",
        "source": str(source),
        "options": ["rbind", "rprivate", *options],
    }
