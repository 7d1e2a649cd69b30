"""Which image of an index fits a platform (containerd's ``platforms`` rules)."""

from __future__ import annotations

import platform as machine
from collections.abc import Iterable

import msgspec

from sampan.errors import InvalidParameter
from sampan.image.manifest import Descriptor, Platform

_ARCHITECTURES = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "i686": ("386", ""),
    "i586": ("386", ""),
    "i386": ("386", ""),
    "ppc64el": ("ppc64le", ""),
    "mips64": ("mips64le", ""),
}
_DEFAULT_VARIANTS = {"arm64": "v8", "amd64": "v1", "arm": "v7"}
_ARM_VARIANTS = ("v5", "v6", "v7", "v8")
# What a 64-bit processor also runs, when nothing better is offered.
_COMPATIBLE = {"amd64": "386"}


def host_platform() -> Platform:
    """The platform of this machine."""
    return normalise(Platform(machine.machine().lower(), "linux"))


def parse(text: str) -> Platform:
    """Read ``os[/architecture[/variant]]`` or an architecture alone.

    Raises InvalidParameter.
    """
    parts = text.strip().lower().split("/")
    if not all(parts) or len(parts) > 3:
        raise InvalidParameter(
            f"invalid platform {text!r}: it must be os/architecture or os/architecture/variant"
        )
    if len(parts) == 1:
        host = host_platform()
        known_os = parts[0] in ("linux", "windows", "darwin", "freebsd")
        value = (
            Platform(host.architecture, parts[0], host.variant)
            if known_os
            else Platform(parts[0], "linux")
        )
    else:
        value = Platform(parts[1], parts[0], parts[2] if len(parts) == 3 else "")
    return normalise(value)


def normalise(value: Platform) -> Platform:
    """Aliases resolved and default variants left out."""
    architecture, variant = _ARCHITECTURES.get(value.architecture, (value.architecture, ""))
    variant = value.variant or variant
    return msgspec.structs.replace(
        value,
        architecture=architecture,
        os=value.os or "linux",
        variant=variant_of(architecture, variant),
    )


def variant_of(architecture: str, variant: str) -> str:
    """How a variant is written: ``v`` before a number, and nothing for an architecture's default,
    which an ``arm`` alone has in writing."""
    if variant.isdecimal():
        variant = "v" + variant
    if architecture != "arm" and variant == _DEFAULT_VARIANTS.get(architecture):
        return ""
    if architecture == "arm" and not variant:
        return _DEFAULT_VARIANTS["arm"]
    return variant


def rank(offered: Platform, wanted: Platform) -> int | None:
    """How well ``offered`` serves ``wanted``: 0 is exact, more is worse, None does not run."""
    have, want = normalise(offered), normalise(wanted)
    if have.os != want.os:
        return None
    if have.architecture != want.architecture:
        return 50 if _COMPATIBLE.get(want.architecture) == have.architecture else None
    if have.variant == want.variant:
        return 0
    if have.architecture == "arm":
        if have.variant in _ARM_VARIANTS and want.variant in _ARM_VARIANTS:
            distance = _ARM_VARIANTS.index(want.variant) - _ARM_VARIANTS.index(have.variant)
            return distance if distance > 0 else None
        return None
    # A base image runs on every later variant (amd64 on amd64/v3), not the reverse.
    return 1 if not have.variant else None


def choose(manifests: Iterable[Descriptor], wanted: Platform) -> Descriptor | None:
    """The best manifest for ``wanted``; the first of equals; None when none runs there.

    A manifest that says no platform is taken when nothing else fits.
    """
    best: tuple[int, Descriptor] | None = None
    for manifest in manifests:
        score = 99 if manifest.platform is None else rank(manifest.platform, wanted)
        if manifest.platform is not None and manifest.platform.architecture == "unknown":
            continue
        if score is not None and (best is None or score < best[0]):
            best = (score, manifest)
    return best[1] if best else None
