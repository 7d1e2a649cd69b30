"""The ``filters`` query parameter: JSON, in either of the two forms clients send."""

from __future__ import annotations

import msgspec

from sampan.engine.filters import Filters
from sampan.errors import InvalidParameter

_Lists = dict[str, list[str]]
_Maps = dict[str, dict[str, bool]]
_lists = msgspec.json.Decoder(_Lists)
_maps = msgspec.json.Decoder(_Maps)


def parse(text: str | None) -> Filters:
    """Filters from ``{"label": ["a=b"]}`` or the older ``{"label": {"a=b": true}}``.

    Raises InvalidParameter when the text is neither.
    """
    if not text:
        return Filters()
    # Go's encoder writes a nil map as null.
    if text.strip() == "null":
        return Filters()
    try:
        return Filters(_maps.decode(text))
    except msgspec.DecodeError:
        pass
    try:
        return Filters(_lists.decode(text))
    except msgspec.DecodeError as error:
        raise InvalidParameter(f"invalid filter: {error}") from error
