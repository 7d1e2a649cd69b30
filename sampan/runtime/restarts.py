"""Whether and when a container that has ended is started again: Docker's rules."""

from __future__ import annotations

from sampan.runtime.types import RestartPolicy

_SECOND = 1_000_000_000
FIRST_DELAY = _SECOND // 10
LONGEST_DELAY = 60 * _SECOND
# A container that ran this long begins the delays anew.
_STEADY = 10 * _SECOND


class Restarts:
    """Counts restarts and doubles the delay between them."""

    def __init__(self, policy: RestartPolicy) -> None:
        self.policy = policy
        self.count = 0
        self._delay = 0

    def next_delay(self, code: int, ran: int) -> int | None:
        """Nanoseconds to wait before the next start after an end with ``code``, having run for
        ``ran`` nanoseconds; None if it is over."""
        if not self._wanted(code):
            return None
        if ran >= _STEADY or not self._delay:
            self._delay = FIRST_DELAY
        else:
            self._delay = min(self._delay * 2, LONGEST_DELAY)
        self.count += 1
        return self._delay

    def _wanted(self, code: int) -> bool:
        match self.policy.name:
            case "always" | "unless-stopped":
                return True
            case "on-failure":
                most = self.policy.maximum_retry_count
                return code != 0 and (not most or self.count < most)
            case _:
                return False
