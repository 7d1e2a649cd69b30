"""Whether commands for another processor can run here."""

from __future__ import annotations

from pathlib import Path

from sampan.build.graph.ops import Exec
from sampan.build.graph.plan import Plan
from sampan.build.graph.scope import host_platform
from sampan.errors import InvalidParameter

_REGISTERED = Path("/proc/sys/fs/binfmt_misc")
_ALSO = {"amd64": {"386"}, "arm64": {"arm"}}
_QEMU = {
    "386": "i386",
    "amd64": "x86_64",
    "arm64": "aarch64",
    "loong64": "loongarch64",
    "mips64le": "mips64el",
}


def check(plan: Plan) -> None:
    """Raises InvalidParameter if a stage runs commands for a processor that is neither this
    machine's nor emulated by a program that the kernel knows."""
    host = host_platform().architecture
    for stage in plan.stages:
        wanted = stage.draft.platform.architecture
        if not wanted or wanted == host or wanted in _ALSO.get(host, ()):
            continue
        step = next((s for s in stage.steps if s.vertex and isinstance(s.vertex.op, Exec)), None)
        if step is not None and not is_emulated(wanted):
            raise InvalidParameter(
                f"{step.text}: commands for linux/{wanted} cannot run on this machine"
                f" (linux/{host}): no emulator is registered with binfmt_misc; install one"
                " (Debian package qemu-user-static) or run the command in a stage with"
                " FROM --platform=$BUILDPLATFORM"
            )


def is_emulated(architecture: str, registered: Path = _REGISTERED) -> bool:
    """Whether an interpreter for the architecture's programs is registered and on."""
    entry = registered / f"qemu-{_QEMU.get(architecture, architecture)}"
    try:
        return entry.read_text().startswith("enabled")
    except OSError:
        return False
