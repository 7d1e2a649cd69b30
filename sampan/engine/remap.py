"""``userns-remap``: which of the host's users and groups stand for those of containers."""

from __future__ import annotations

import grp
import pwd
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sampan.engine.types import HostConfig
from sampan.errors import InvalidParameter

DEFAULT_USER = "dockremap"


@dataclass(frozen=True, slots=True)
class Remap:
    """Ranges of subordinate numbers, (first, count), for the container's 0, 1, 2 …"""

    uids: tuple[tuple[int, int], ...]
    gids: tuple[tuple[int, int], ...]

    def applies(self, host: HostConfig) -> bool:
        """Whether a container gets a user namespace; ``--userns=host`` opts out."""
        return host.userns_mode != "host"

    def check(self, host: HostConfig) -> None:
        """Raises InvalidParameter, with Docker's words, for what a user namespace forbids."""
        if not self.applies(host):
            return
        if host.privileged:
            raise InvalidParameter(
                "privileged mode is incompatible with user namespaces.  You must run the container "
                "in the host namespace when running privileged mode"
            )
        if host.network_mode == "host":
            raise InvalidParameter(
                "cannot share the host's network namespace when user namespaces are enabled"
            )
        if host.pid_mode == "host":
            raise InvalidParameter(
                "cannot share the host PID namespace when user namespaces are enabled"
            )

    def apply(self, spec: dict[str, Any]) -> None:
        """Give the specification a user namespace."""
        linux = spec["linux"]
        linux["namespaces"].append({"type": "user"})
        linux["uidMappings"] = _mappings(self.uids)
        linux["gidMappings"] = _mappings(self.gids)


def _mappings(ranges: tuple[tuple[int, int], ...]) -> list[dict[str, int]]:
    found, inside = [], 0
    for first, count in ranges:
        found.append({"containerID": inside, "hostID": first, "size": count})
        inside += count
    return found


def read(setting: str, directory: Path = Path("/etc")) -> Remap | None:
    """The ranges of ``user``, ``user:group`` (names or numbers) or ``default``; None for "".

    They are looked up in ``subuid`` and ``subgid``.  Raises InvalidParameter.
    """
    if not setting:
        return None
    user, _, group = setting.partition(":")
    if user == "default" and not group:
        user = DEFAULT_USER
    names = _user(user)
    return Remap(
        _ranges(directory / "subuid", names, setting),
        _ranges(directory / "subgid", _group(group) if group else names, setting),
    )


def _user(text: str) -> tuple[str, ...]:
    try:
        entry = pwd.getpwuid(int(text)) if text.isdecimal() else pwd.getpwnam(text)
    except KeyError:
        raise InvalidParameter(
            f"invalid userns-remap: there is no user {text!r} on this host"
        ) from None
    return entry.pw_name, str(entry.pw_uid)


def _group(text: str) -> tuple[str, ...]:
    try:
        entry = grp.getgrgid(int(text)) if text.isdecimal() else grp.getgrnam(text)
    except KeyError:
        raise InvalidParameter(
            f"invalid userns-remap: there is no group {text!r} on this host"
        ) from None
    return entry.gr_name, str(entry.gr_gid)


def _ranges(path: Path, names: tuple[str, ...], setting: str) -> tuple[tuple[int, int], ...]:
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        lines = []
    fields = [line.split(":") for line in lines if not line.startswith("#")]
    found = tuple(
        (int(first), int(count))
        for name, first, count in (item for item in fields if len(item) == 3)
        if name in names and first.isdecimal() and count.isdecimal() and int(count) > 0
    )
    if not found:
        raise InvalidParameter(
            f"no subordinate ids for userns-remap {setting!r}: "
            f"add a line {names[0]}:100000:65536 to {path}"
        )
    return found
