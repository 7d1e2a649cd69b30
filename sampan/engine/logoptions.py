"""Docker's log options: which a driver knows, and what their values mean.  Pure.

Raises InvalidParameter with Docker's words for everything that is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from sampan.engine.timestamps import duration
from sampan.errors import InvalidParameter
from sampan.runtime.logs.decode import LONGEST_LINE

DRIVERS = ("fluentd", "journald", "json-file", "local", "none", "syslog")

JOURNAL_SOCKET = "/run/systemd/journal/socket"

_FILES = ("max-size", "max-file", "compress")
_DETAILS = ("tag", "labels", "labels-regex", "env", "env-regex")
_EVERY = ("mode", "max-buffer-size")
_CACHE = ("cache-disabled", "cache-max-size", "cache-max-file", "cache-compress")
_OF_DRIVER = {
    "local": _FILES,
    "json-file": (*_FILES, *_DETAILS),
    "journald": _DETAILS,
    "syslog": (
        *_DETAILS,
        "syslog-address",
        "syslog-facility",
        "syslog-format",
        "syslog-tls-ca-cert",
        "syslog-tls-cert",
        "syslog-tls-key",
        "syslog-tls-skip-verify",
    ),
    "fluentd": (
        *_DETAILS,
        "fluentd-address",
        "fluentd-async",
        "fluentd-async-reconnect-interval",
        "fluentd-buffer-limit",
        "fluentd-max-retries",
        "fluentd-read-timeout",
        "fluentd-request-ack",
        "fluentd-retry-wait",
        "fluentd-sub-second-precision",
        "fluentd-write-timeout",
    ),
}
_FACILITIES = (
    *("kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron"),
    *("authpriv", "ftp"),
)
_LOCAL_FACILITY = 16
_SYSLOG_PORT, _FLUENTD_PORT = 514, 24224
_SYSLOG_FORMATS = ("rfc3164", "rfc5424", "rfc5424micro")
_DEFAULT_BUFFER = 1 << 20
_MOST_RETRIES = 2**31 - 1

Options = Mapping[str, str]


def check(driver: str, options: Options) -> None:
    """Raises InvalidParameter for an unknown driver or option, or a bad value."""
    if driver not in DRIVERS:
        raise InvalidParameter(
            f"logger: no log driver named '{driver}' is registered: use one of {', '.join(DRIVERS)}"
        )
    if driver == "none":
        return
    for name in options:
        if name not in (*_OF_DRIVER[driver], *_EVERY, *_CACHE):
            raise InvalidParameter(f"unknown log opt '{name}' for {driver} log driver")
    buffer_size(options)
    cached(options)
    for prefix in ("", "cache-"):
        limits(options, prefix)
        compressed(driver if not prefix else "local", options, prefix)
    for name in ("labels-regex", "env-regex"):
        pattern(options, name)
    if driver == "syslog":
        syslog(options)
    elif driver == "fluentd":
        fluentd(options)


# -- what all drivers share ----------------------------------------------------------------


def size(text: str) -> int:
    """Bytes of Docker's sizes (``10m``); ``-1`` is 0, no limit."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?", text.lower())
    if not match:
        if text == "-1":
            return 0
        raise InvalidParameter(f"invalid size: '{text}'")
    return int(float(match[1]) * 1024 ** " kmgt".index(match[2] or " "))


def boolean(options: Options, name: str, default: bool) -> bool:
    """The value of an option that is true or false, as Go reads it."""
    text = options.get(name, "")
    if not text:
        return default
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if text in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise InvalidParameter(f"invalid value for option {name}: {text}")


def limits(options: Options, prefix: str = "") -> tuple[int | None, int | None]:
    """``max-size`` in bytes and ``max-file``; None for the default."""
    text, files = options.get(f"{prefix}max-size"), options.get(f"{prefix}max-file")
    try:
        count = None if files is None else int(files)
    except ValueError:
        raise InvalidParameter(f"invalid value for {prefix}max-file: {files!r}") from None
    if count is not None and count < 1:
        raise InvalidParameter(f"{prefix}max-file cannot be less than 1")
    return (None if text is None else size(text)), count


def compressed(driver: str, options: Options, prefix: str = "") -> bool:
    """Whether rotated files are compressed, which needs some to be kept."""
    if not boolean(options, f"{prefix}compress", False):
        return False
    size, files = limits(options, prefix)
    rotates = bool(size) and (files or 1) > 1 if driver == "json-file" else files != 1
    if not rotates:
        raise InvalidParameter(
            f"{prefix}compress cannot be true when {prefix}max-file is less than 2 "
            f"or {prefix}max-size is not set"
        )
    return True


def buffer_size(options: Options) -> int:
    """The bytes that may wait for the driver in non-blocking mode; 0 in the blocking one."""
    mode = options.get("mode", "")
    if mode not in ("", "blocking", "non-blocking"):
        raise InvalidParameter(f"logger: logging mode not supported: {mode}")
    text = options.get("max-buffer-size")
    if mode != "non-blocking":
        if text is not None:
            raise InvalidParameter(
                "logger: max-buffer-size option is only supported with 'mode=non-blocking'"
            )
        return 0
    if text is None:
        return _DEFAULT_BUFFER
    found = size(text)
    if found < LONGEST_LINE:
        raise InvalidParameter(
            f"error parsing option max-buffer-size: {text} is less than the longest line, 16k"
        )
    return found


def cached(options: Options) -> bool:
    """Whether what a remote driver gets is kept here as well."""
    return not boolean(options, "cache-disabled", False)


def pattern(options: Options, name: str) -> re.Pattern[str] | None:
    """The regular expression of an option."""
    text = options.get(name, "")
    try:
        return re.compile(text) if text else None
    except re.error as error:
        raise InvalidParameter(f"error parsing regexp of log opt '{name}': {error}") from None


def _port(text: str | None, default: int, address: str) -> int:
    if text is None:
        return default
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise InvalidParameter(f"invalid port in address: {address}")
    return int(text)


def _host_and_port(text: str, default: int) -> list[Any]:
    """``[host, port]`` of ``host``, ``host:port``, ``[::1]`` or ``[::1]:port``."""
    match = re.fullmatch(r"(\[[^\]]*\]|[^:\[\]]*)(?::(.*))?", text)
    if not match:
        raise InvalidParameter(f"address {text}: too many colons in address")
    return [match[1].strip("[]") or "localhost", _port(match[2], default, text)]


# -- syslog --------------------------------------------------------------------------------


def syslog(options: Options) -> dict[str, Any]:
    """The settings of :mod:`sampan.runtime.logs.drivers.syslog`, without the tag."""
    network, address = _syslog_address(options.get("syslog-address", ""))
    form = options.get("syslog-format", "")
    if form not in ("", *_SYSLOG_FORMATS):
        raise InvalidParameter("Invalid syslog format")
    return {
        "network": network,
        "address": address,
        "facility": _facility(options.get("syslog-facility", "")),
        "format": form,
        "tls": {
            "ca": options.get("syslog-tls-ca-cert", ""),
            "cert": options.get("syslog-tls-cert", ""),
            "key": options.get("syslog-tls-key", ""),
            # As Docker: the option's presence counts, not its value.
            "verify": "syslog-tls-skip-verify" not in options,
        },
    }


def _syslog_address(text: str) -> tuple[str, Any]:
    if not text:
        return "", ""
    url = urlsplit(text)
    if url.scheme in ("unix", "unixgram"):
        return url.scheme, url.path
    if url.scheme not in ("udp", "tcp", "tcp+tls"):
        raise InvalidParameter(f"unsupported scheme: '{url.scheme}'")
    return url.scheme, _host_and_port(url.netloc, _SYSLOG_PORT)


def _facility(text: str) -> int:
    if not text:
        return _FACILITIES.index("daemon")
    if text in _FACILITIES:
        return _FACILITIES.index(text)
    if re.fullmatch(r"local[0-7]", text):
        return _LOCAL_FACILITY + int(text[-1])
    if text.isdecimal() and int(text) <= 23:
        return int(text)
    raise InvalidParameter("invalid syslog facility")


# -- fluentd -------------------------------------------------------------------------------


def fluentd(options: Options) -> dict[str, Any]:
    """The settings of :mod:`sampan.runtime.logs.drivers.fluentd`, without tag and record."""
    network, address = _fluentd_address(options.get("fluentd-address", ""))
    interval = _seconds(options, "fluentd-async-reconnect-interval", 0.0)
    if interval and not 0.1 <= interval <= 10:
        raise InvalidParameter(
            "invalid value for fluentd-async-reconnect-interval: value "
            f'("{options["fluentd-async-reconnect-interval"]}") must be between 100ms and 10s'
        )
    retries = options.get("fluentd-max-retries", "") or str(_MOST_RETRIES)
    if not retries.isdecimal():
        raise InvalidParameter(f"invalid value for option fluentd-max-retries: {retries}")
    limit = options.get("fluentd-buffer-limit", "")
    return {
        "network": network,
        "address": address,
        "asynchronous": boolean(options, "fluentd-async", False),
        "reconnect_interval": interval,
        "buffer_limit": size(limit) if limit else 1 << 20,
        "max_retries": int(retries),
        "retry_wait": _seconds(options, "fluentd-retry-wait", 1.0),
        "acknowledge": boolean(options, "fluentd-request-ack", False),
        "sub_second": boolean(options, "fluentd-sub-second-precision", False),
        "write_timeout": _seconds(options, "fluentd-write-timeout", 0.0),
        "read_timeout": _seconds(options, "fluentd-read-timeout", 0.0),
    }


def _fluentd_address(text: str) -> tuple[str, Any]:
    if not text:
        return "tcp", ["127.0.0.1", _FLUENTD_PORT]
    if "://" not in text:
        return "tcp", _host_and_port(text, _FLUENTD_PORT)
    url = urlsplit(text)
    if url.scheme == "unix":
        if not url.path:
            raise InvalidParameter(f"invalid fluentd-address {text}: path is empty")
        return "unix", url.path
    if url.scheme not in ("tcp", "tls"):
        raise InvalidParameter(f"invalid fluentd-address {text}: unsupported scheme: {url.scheme}")
    if url.path.strip("/"):
        raise InvalidParameter(f"invalid fluentd-address {text}: should not have a path element")
    return url.scheme, _host_and_port(url.netloc, _FLUENTD_PORT)


def _seconds(options: Options, name: str, default: float) -> float:
    text = options.get(name, "")
    if not text:
        return default
    found = duration(text)
    if found is None:
        raise InvalidParameter(f"invalid value for {name}: invalid duration {text!r}")
    return found / 1e9
