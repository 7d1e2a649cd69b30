"""Docker's default container as an OCI runtime specification."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def default_spec(
    *,
    args: Sequence[str],
    env: Sequence[str] = (),
    cwd: str = "/",
    user: str = "",
    groups: Sequence[str] = (),
    hostname: str = "",
    terminal: bool = False,
    cgroups_path: str = "",
    read_only: bool = False,
    network: bool = True,
    shm_size: int = 64 << 20,
) -> dict[str, Any]:
    """The specification of a default container, for the caller to change further.

    ``user`` is ``name|uid[:group|gid]`` and ``groups`` are names or numbers, both resolved inside
    the root file system.  ``network`` asks for a network namespace of its own.
    """
    raise NotImplementedError


def capabilities(add: Sequence[str] = (), drop: Sequence[str] = ()) -> list[str]:
    """The default set changed as ``--cap-add`` and ``--cap-drop`` say; names without ``CAP_`` and
    ``ALL`` are understood.  Raises InvalidParameter for an unknown name."""
    raise NotImplementedError


def make_privileged(spec: dict[str, Any]) -> None:
    """Turn ``spec`` into that of a privileged container."""
    raise NotImplementedError
