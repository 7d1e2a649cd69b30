"""Structured logs: one JSON object a line on standard error."""

from __future__ import annotations

import logging
import sys
import time

import msgspec
from aiohttp import web

_requests = logging.getLogger("sampan.hub.requests")


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry.update(getattr(record, "fields", {}))
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(entry).decode()


def set_up() -> None:
    """Log to standard error from now on; for a process that is the hub."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def log_request(request: web.Request, address: str, status: int, seconds: float) -> None:
    """Log an answered request; ``address`` is the client's."""
    fields = {
        "method": request.method,
        "path": request.path,
        "status": status,
        "milliseconds": round(seconds * 1000, 1),
        "address": address,
        "agent": request.headers.get("User-Agent", "")[:200],
    }
    _requests.info("request", extra={"fields": fields})
