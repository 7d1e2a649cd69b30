"""The health of a container: when to probe it, and what the results mean.

:class:`Judge` knows Docker's rules and no processes; :class:`Monitor` runs the probes on the
keeper's event loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from sampan.durations import go_duration
from sampan.runtime.errors import StartError
from sampan.runtime.loop import Loop, Timer
from sampan.runtime.types import Health, HealthCheck, ProbeResult

_SECOND = 1_000_000_000
_KEPT_RESULTS = 5
MAX_OUTPUT = 4096
_TIMED_OUT = -1


class Judge:
    """The state after each result.  Failures in the start period do not count until a probe has
    succeeded once.  Its nanoseconds are those of a clock that nobody sets."""

    def __init__(self, check: HealthCheck, started: int) -> None:
        self._check = check
        self._started = started
        self._succeeded = False
        self.health = Health("starting", 0, [])

    def in_start_period(self, now: int) -> bool:
        return not self._succeeded and now - self._started < self._check.start_period

    def interval(self, now: int) -> int:
        """Nanoseconds until the next probe."""
        if self.in_start_period(now) and self._check.start_interval:
            return self._check.start_interval
        return self._check.interval

    def result(self, result: ProbeResult, now: int) -> Health:
        """The new state after a probe that has ended ``now``."""
        log = [*self.health.log, result][-_KEPT_RESULTS:]
        if result.exit_code == 0:
            self._succeeded = True
            self.health = Health("healthy", 0, log)
            return self.health
        if self.in_start_period(now):
            self.health = Health(self.health.status, 0, log)
            return self.health
        streak = self.health.failing_streak + 1
        status = "unhealthy" if streak >= self._check.retries else self.health.status
        self.health = Health(status, streak, log)
        return self.health


class Probe(Protocol):
    """A probe that runs, or is being started."""

    def kill(self) -> None:
        """End it at once; its end is still reported."""
        ...


OnEnd = Callable[[int, bytes], None]
"""Called once with the exit code and the output, or with the code and the message of a failed
start; never before the probe has been handed over."""
StartProbe = Callable[[OnEnd], Probe]
"""Begins to start the probe's process.  Raises StartError."""


class Monitor:
    """Probes one running container, one probe at a time."""

    def __init__(
        self, loop: Loop, check: HealthCheck, start: StartProbe, report: Callable[[Health], None]
    ) -> None:
        self._loop = loop
        self._check = check
        self._start = start
        self._report = report
        self._judge = Judge(check, time.monotonic_ns())
        self._probe: Probe | None = None
        self._deadline: Timer | None = None
        self._began = 0
        self._timed_out = False
        self._stopped = False
        self._next: Timer | None = None
        self._schedule()

    def stop(self) -> None:
        """The container is ending: no more probes, no more reports."""
        self._stopped = True
        for timer in (self._next, self._deadline):
            if timer:
                timer.cancel()

    def _schedule(self) -> None:
        delay = self._judge.interval(time.monotonic_ns()) / _SECOND
        self._next = self._loop.call_later(delay, self._run)

    def _run(self) -> None:
        self._began = time.time_ns()
        self._timed_out = False
        try:
            self._probe = self._start(self._ended)
        except StartError as failure:
            self._conclude(failure.exit_code, str(failure))
            self._schedule()
            return
        self._deadline = self._loop.call_later(self._check.timeout / _SECOND, self._expire)

    def _expire(self) -> None:
        """A result now: who knows when the probe ends."""
        assert self._probe is not None
        self._timed_out = True
        self._probe.kill()
        limit = go_duration(self._check.timeout)
        self._conclude(_TIMED_OUT, f"Health check exceeded timeout ({limit})")

    def _ended(self, code: int, output: bytes) -> None:
        if self._deadline:
            self._deadline.cancel()
        self._probe = None
        if not self._timed_out:
            more = "..." if len(output) > MAX_OUTPUT else ""
            self._conclude(code, output[:MAX_OUTPUT].decode(errors="replace") + more)
        if not self._stopped:
            self._schedule()

    def _conclude(self, code: int, output: str) -> None:
        if self._stopped:
            return
        result = ProbeResult(self._began, time.time_ns(), code, output)
        self._report(self._judge.result(result, time.monotonic_ns()))
