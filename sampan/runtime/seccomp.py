"""Compile."""

from typing import Any


def compile_profile(profile: dict[str, Any]) -> bytes:
    return b""
