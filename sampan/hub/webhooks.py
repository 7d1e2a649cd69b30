"""Telling other programs of changes: signed POST requests, retried, never in a push's way.

The body is JSON; ``X-Sampan-Signature`` is ``sha256=`` and the HMAC of the body by the hook's
secret.  Deliveries wait in a bounded queue of each hook; when one cannot keep up, the oldest are
dropped and counted in the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import logging
import secrets
import time

import aiohttp
import msgspec

from sampan.hub.activity import Event
from sampan.hub.config import Webhook

QUEUED = 1000
ATTEMPTS = 5
BACKOFF_SECONDS = 0.5

_log = logging.getLogger(__name__)


class Webhooks:
    """Delivers the events of one process."""

    def __init__(self, hooks: tuple[Webhook, ...]) -> None:
        self._queues = [(hook, asyncio.Queue[bytes](QUEUED)) for hook in hooks]
        self._tasks: list[asyncio.Task[None]] = []
        self._session: aiohttp.ClientSession | None = None

    def start(self) -> None:
        if self._queues:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10))
            self._tasks = [
                asyncio.create_task(self._deliver(hook, queue)) for hook, queue in self._queues
            ]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        if self._session:
            await self._session.close()

    def tell(self, event: Event) -> None:
        """Queue an event for the hooks that want it."""
        for hook, queue in self._queues:
            if event.action not in hook.events:
                continue
            if queue.full():
                queue.get_nowait()
                _log.warning("webhook %s is too slow: a delivery was dropped", hook.url)
            queue.put_nowait(_body(event))

    async def _deliver(self, hook: Webhook, queue: asyncio.Queue[bytes]) -> None:
        while True:
            body = await queue.get()
            for attempt in range(ATTEMPTS):
                if await self._post(hook, body):
                    break
                await asyncio.sleep(BACKOFF_SECONDS * 2**attempt)
            else:
                _log.warning("webhook %s failed %d times: given up", hook.url, ATTEMPTS)

    async def _post(self, hook: Webhook, body: bytes) -> bool:
        assert self._session
        headers = {"Content-Type": "application/json", "User-Agent": "sampan-hub"}
        if hook.secret:
            headers["X-Sampan-Signature"] = signature(hook.secret, body)
        try:
            async with self._session.post(
                hook.url, data=body, headers=headers, allow_redirects=False
            ) as answer:
                return answer.status < 500
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False


def signature(secret: str, body: bytes) -> str:
    """What a receiver compares with the header, by a constant-time comparison."""
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def _body(event: Event) -> bytes:
    return msgspec.json.encode(
        {
            "id": secrets.token_hex(8),
            "time": int(time.time()),
            "action": event.action,
            "repository": event.repository,
            "reference": event.reference,
            "digest": event.digest,
            "mediaType": event.media_type,
            "actor": event.actor,
        }
    )
