"""Annotations with what they are for: ``[TYPE[,TYPE…][PLATFORM]:]KEY=VALUE``, as buildx writes them.

*manifest*
    The image's manifest; what an annotation without a type means.
*manifest-descriptor*
    The entry of the image in its index.
*index*
    The index itself.

A platform (``manifest[linux/arm64]:key=value``) leaves out the images of others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from sampan.errors import InvalidParameter, Unsupported

KINDS = ("manifest", "manifest-descriptor", "index")
_TYPE = re.compile(r"^([a-z-]+)(?:\[([A-Za-z0-9_/-]+)\])?$")


def select(given: Mapping[str, str], kind: str, platform: str = "") -> dict[str, str]:
    """The annotations for one of :data:`KINDS`; the platform is that of the image, empty for any.

    Raises InvalidParameter, or Unsupported for descriptors of indexes, which are in no image.
    """
    found = {}
    for name, value in given.items():
        types, separator, key = name.partition(":")
        if not separator:
            types, key = "manifest", name
        if not key:
            raise InvalidParameter(f"invalid annotation {name}={value}: it has no key")
        for text in types.split(","):
            match = _TYPE.match(text)
            if match is None:
                raise InvalidParameter(
                    "invalid annotation type, expected format `type[platform]`, got"
                    f" {text!r} in {name}={value}"
                )
            if match[1] == "index-descriptor":
                raise Unsupported("annotations of an index's descriptor are not supported")
            if match[1] not in KINDS:
                raise InvalidParameter(f"unknown annotation type {match[1]!r} in {name}={value}")
            if match[1] == kind and (not match[2] or not platform or match[2] == platform):
                found[key] = value
    return found


def check(given: Mapping[str, str], *, index: bool) -> None:
    """Raises what :func:`select` raises; InvalidParameter for what an image without an index has no
    place for."""
    select(given, "index")
    if index:
        return
    for kind in ("index", "manifest-descriptor"):
        if select(given, kind):
            raise InvalidParameter(
                f"{kind} annotations need an index: build for several platforms, with attestations,"
                " or with --build-arg BUILDKIT_MULTI_PLATFORM=1"
            )
