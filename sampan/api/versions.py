"""API versions: what this engine speaks, and what a request asked for."""

from __future__ import annotations

from aiohttp import web

from sampan.errors import InvalidParameter

NEWEST = "1.51"
OLDEST = "1.24"


def parse(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return int(major), int(minor)


_NEWEST, _OLDEST = parse(NEWEST), parse(OLDEST)


def requested(request: web.Request) -> tuple[int, int]:
    """The version in the request's path, or the newest if it has none.

    :raises InvalidParameter: a version outside of the supported range.
    """
    text = request.match_info.get("version")
    if text is None:
        return _NEWEST
    version = parse(text)
    if version > _NEWEST:
        raise InvalidParameter(
            f"client version {text} is too new. Maximum supported API version is {NEWEST}"
        )
    if version < _OLDEST:
        raise InvalidParameter(
            f"client version {text} is too old. Minimum supported API version is {OLDEST}, "
            "please upgrade your client to a newer version"
        )
    return version
