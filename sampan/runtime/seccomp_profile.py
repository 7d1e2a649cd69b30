"""Docker's default seccomp profile."""

from collections.abc import Sequence
from typing import Any


def default_profile(capabilities: Sequence[str]) -> dict[str, Any]:
    return {}
