"""Progress of long operations, as the layers below report it and the API streams it.

A producer calls ``report(Progress(...))`` from any thread; a consumer turns it into the Engine
API's JSON messages.  ``id`` names the row (a short layer digest, or empty for a message of the
whole operation), ``status`` is Docker's wording, ``current`` and ``total`` count bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    status: str
    id: str = ""
    current: int = 0
    total: int = 0
    aux: object = None


Report = Callable[[Progress], None]


def ignore(_: Progress) -> None:
    """A consumer for callers that do not want progress."""
