"""Somebody sets the clock, as only a machine that is nobody else's allows."""

from __future__ import annotations

import time
from typing import Any

from guest import Guest
from harness import until

HOUR = 3600


def set_clock(guest: Guest, seconds: int) -> None:
    """Set the guest's clock forward, or back."""
    now = int(guest.run("date", "+%s").out)
    assert guest.run("date", "-s", f"@{now + seconds}").code == 0


def say(container: Any, word: str) -> None:
    """Have the container write a line."""
    assert container.exec_run(["sh", "-c", f"echo {word} > /proc/1/fd/1"])[0] == 0


def test_nothing_goes_by_a_clock_that_is_set(guest: Guest) -> None:
    container = guest.client.containers.run(
        "busybox", "sleep 1000", detach=True, name="watched", network_mode="none"
    )
    follow = "exec python3 -S -c 'from sampan.cli.main import entry; entry()' logs -f --since 1m"
    assert guest.run("sh", "-c", f"{follow} watched > /tmp/followed 2>&1 & echo ok").out == "ok\n"

    def shown() -> list[str]:
        return guest.read("/tmp/followed").get("/tmp/followed", "").split()

    began = int(guest.run("date", "+%s").out)
    events = guest.client.events(since=began, filters={"event": "kill"}, decode=True)
    try:
        words = []
        for word, seconds in (("now", 0), ("later", HOUR), ("earlier", -3 * HOUR), ("now", HOUR)):
            set_clock(guest, seconds)
            say(container, word)
            words.append(word)
            assert until(lambda: shown() == words, 60), shown()
            container.kill(str(len(words)))
            assert next(events)["Actor"]["Attributes"]["signal"] == str(len(words))
        set_clock(guest, -HOUR)
        guest.run("kill", "-9", str(guest.daemon))
        say_without_daemon = "echo alone > /proc/$(pidof sleep | cut -d' ' -f1)/fd/1"
        assert guest.run("sh", "-c", say_without_daemon).code == 0
        guest.start_daemon()
        assert until(lambda: shown() == [*words, "alone"], 60), shown()
        container = guest.client.containers.get(container.id)
        began_to_stop = time.monotonic()
        container.stop(timeout=1)
        assert time.monotonic() - began_to_stop < 30
        assert until(lambda: guest.run("pidof", "sleep").code != 0, 60)
        assert container.logs().split() == [word.encode() for word in [*words, "alone"]]
    finally:
        events.close()
        guest.client.containers.get(container.id).remove(force=True)
        set_clock(guest, HOUR * 2)
