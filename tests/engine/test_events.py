"""The event bus: order, history, filters, bounds."""

from __future__ import annotations

import asyncio

from sampan.engine.events import QUEUE, Events


async def test_subscribers_get_what_they_want_in_order() -> None:
    events = Events()
    stream = events.subscribe(lambda event: event.type == "container")
    first = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    events.publish("image", "pull", "i")
    events.publish("container", "create", "c", {"image": "busybox"})
    events.publish("container", "start", "c")
    found = await first
    assert (found.action, found.id, found.status, found.from_) == (
        "create",
        "c",
        "create",
        "busybox",
    )
    assert (await anext(stream)).action == "start"
    await stream.aclose()
    assert events.listeners == 0


async def test_history_until_now() -> None:
    events = Events()
    made = [events.publish("volume", "create", str(n)) for n in range(3)]
    found = [
        event
        async for event in events.subscribe(since_ns=made[1].time_nano, until_ns=made[2].time_nano)
    ]
    assert found == made[1:]


async def test_a_reader_that_sleeps_costs_bounded_memory() -> None:
    events = Events()
    stream = events.subscribe()
    first = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    for number in range(QUEUE + 50):
        events.publish("volume", "create", str(number))
    await first
    last = [await anext(stream) for _ in range(QUEUE - 1)][-1]
    assert last.actor.id == str(QUEUE + 49)
    await stream.aclose()
