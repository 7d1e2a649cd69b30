"""API versions: what this engine speaks, and what a request asked for."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from aiohttp import web
from aiohttp.http_parser import RawRequestMessage
from yarl import URL

from sampan.errors import InvalidParameter

NEWEST = "1.51"
OLDEST = "1.24"
_PREFIX = re.compile(r"/v(\d+\.\d+)(?=/)")
_REQUESTED = "API version"


def parse(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return int(major), int(minor)


_NEWEST, _OLDEST = parse(NEWEST), parse(OLDEST)


def without_prefix(make: Callable[..., web.BaseRequest]) -> Callable[..., web.BaseRequest]:
    """The factory of requests ``make``, for paths that may begin with a version.

    The prefix is taken off before a request is routed: a route that begins with a variable part
    would be looked for among all of them.
    """

    def factory(message: RawRequestMessage, *rest: Any) -> web.BaseRequest:
        url = message.url
        prefix = _PREFIX.match(url.raw_path)
        if prefix is None:
            return make(message, *rest)
        bare = URL.build(
            path=url.raw_path[prefix.end() :], query_string=url.raw_query_string, encoded=True
        )
        request = make(message._replace(url=bare), *rest)
        request[_REQUESTED] = prefix[1]
        return request

    return factory


def requested(request: web.Request) -> tuple[int, int]:
    """The version in the request's path, or the newest if it has none.

    :raises InvalidParameter: a version outside of the supported range.
    """
    text = request.get(_REQUESTED)
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
