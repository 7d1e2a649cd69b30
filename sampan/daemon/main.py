"""Start the daemon, serve until SIGTERM or SIGINT, and stop without touching any container."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Sequence
from logging.handlers import WatchedFileHandler

import msgspec
import uvloop

from sampan import __version__
from sampan.api.server import Server, application
from sampan.daemon import compose, config, listen, locks, tls
from sampan.errors import SampanError

log = logging.getLogger("sampan.daemon")

_LEVELS = {"warn": logging.WARNING, "fatal": logging.CRITICAL}
_NO_RELOAD = "SIGHUP changes nothing: restart the daemon to change settings, its containers go on"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a daemon with these arguments (default: the command line's); return the exit code."""
    held: list[int] = []
    try:
        settings, launch = config.load(sys.argv[1:] if arguments is None else arguments)
        _log_to(settings)
        # The state directory first: it is the one that two daemons would ruin.
        held.append(locks.take(settings.state / "lock", "state directory"))
        held.append(locks.take(settings.run / "daemon.lock", "run directory"))
        uvloop.run(_serve(settings, launch, held))
    except SampanError as error:
        print(f"sampan daemon: {error}", file=sys.stderr)
        return 1
    finally:
        for fd in held:
            os.close(fd)
    return 0


def _log_to(settings: config.Settings) -> None:
    handler: logging.Handler = (
        WatchedFileHandler(settings.log_file) if settings.log_file else logging.StreamHandler()
    )
    form = 'time="%(asctime)s" level=%(levelname)s logger=%(name)s msg="%(message)s"'
    handler.setFormatter(logging.Formatter(form))
    level = "debug" if settings.debug else settings.log_level
    logging.basicConfig(
        handlers=[handler], level=_LEVELS.get(level, getattr(logging, level.upper(), None)) or 20
    )
    if not settings.debug:
        logging.getLogger("aiohttp").setLevel(logging.ERROR)
    logging.getLogger("asyncio").setLevel(logging.WARNING)


async def _serve(settings: config.Settings, launch: config.Launch, held: Sequence[int]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, log.warning, _NO_RELOAD)
    async with contextlib.AsyncExitStack() as stack:
        engine = await compose.compose(settings, stack)
        _raise_descriptor_limit()
        found = [] if settings.hosts else [listen.Listener(sock) for sock in listen.passed()]
        found = found or listen.open_all(settings.listen, settings.group, tls.context(settings))
        server = Server(application(engine))
        await server.start([(item.sock, item.tls) for item in found])
        stack.push_async_callback(server.close)
        for fd in held:
            locks.mark(fd, locks.SERVING)
        _announce(settings, launch)
        # What is here now stays: no collection need look through it again while clients wait.
        gc.freeze()
        await stop.wait()
        for fd in held:
            locks.mark(fd, locks.STOPPING)
        log.info("stopping; containers go on")


def _raise_descriptor_limit() -> None:
    """Let as many clients in as the hard limit allows.

    Containers are children of the spawner, which runs already: they get what was set before.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _announce(settings: config.Settings, launch: config.Launch) -> None:
    """Tell whoever waits that requests are answered from now on."""
    log.info("sampan %s serves %s", __version__, ", ".join(settings.listen))
    facts = {
        "pid": os.getpid(),
        "version": __version__,
        "state_dir": settings.state_dir,
        "hosts": settings.listen,
    }
    temporary = settings.run / ".daemon.json"
    temporary.write_bytes(msgspec.json.encode(facts))
    temporary.replace(settings.run / "daemon.json")
    if launch.ready_fd is not None:
        os.write(launch.ready_fd, b"READY\n")
        os.close(launch.ready_fd)
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.sendto(b"READY=1", "\0" + address[1:] if address[0] == "@" else address)
