"""Which events a client has asked for, by Docker's rules.

A name or ID is meant by its beginning, whatever kind of object the event is of: ``container=web``
is also the volume ``web`` and the container ``website``.  An image alone has to be named in full,
with its tag or without.
"""

from __future__ import annotations

from sampan.engine.events import Event, Filter
from sampan.engine.filters import Filters

NAMED = (
    "config",
    "container",
    "daemon",
    "network",
    "node",
    "plugin",
    "secret",
    "service",
    "volume",
)
"""Filters whose values are the beginnings of names and IDs."""

ACCEPTED = (*NAMED, "event", "image", "label", "scope", "type")

_WITH_DETAILS = {"health_status", "exec_create", "exec_start"}
"""Actions that go on after a colon; asked for without, they make all values beginnings."""


def matching(filters: Filters) -> Filter:
    """Whether an event passes these filters, as a function of the event.

    Raises InvalidParameter for a filter that is not :data:`ACCEPTED`.
    """
    filters.only(*ACCEPTED)
    if not filters:
        return lambda _: True
    by_action = filters.prefix if _WITH_DETAILS & set(filters.get("event")) else filters.exact
    kinds = [kind for kind in NAMED if kind in filters]

    def wanted(event: Event) -> bool:
        name = event.actor.attributes.get("name", "")
        return (
            by_action("event", event.action)
            and filters.exact("type", event.type)
            and filters.exact("scope", event.scope)
            and all(filters.prefix(k, event.actor.id) or filters.prefix(k, name) for k in kinds)
            and ("image" not in filters or _of_image(event, filters.get("image")))
            and filters.labels(event.actor.attributes)
        )

    return wanted


def _of_image(event: Event, images: tuple[str, ...]) -> bool:
    name = event.actor.attributes.get("name" if event.type == "image" else "image", "")
    names = {event.actor.id, name, _without_tag(event.actor.id), _without_tag(name)}
    return not names.isdisjoint(images)


def _without_tag(name: str) -> str:
    """``name`` less its tag; the colon of a registry's port is not one's."""
    rest, colon, tag = name.rpartition(":")
    return rest if colon and "/" not in tag else name
