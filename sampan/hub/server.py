"""The hub's HTTP server: ``make_app(config)`` for embedding, ``run(config)`` for a process."""

from __future__ import annotations

import asyncio
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Callable

import uvloop
from aiohttp import web

from sampan.errors import InvalidParameter, Unavailable
from sampan.hub import logs
from sampan.hub.access import STANDING
from sampan.hub.config import HubConfig
from sampan.hub.core import Hub, open_hub
from sampan.hub.routes import account, operations, pages, registry, search, tokens

READ_BUFFER_BYTES = 128 << 10
SHUTDOWN_SECONDS = 10.0

HUB: web.AppKey[Hub] = web.AppKey("hub", Hub)


def say(text: str) -> None:
    """Tell the operator something, on standard error."""
    print(text, file=sys.stderr, flush=True)


def make_app(config: HubConfig, *, tell: Callable[[str], None] = say) -> web.Application:
    """The hub as an application.  ``tell`` gets the administrator's password on the first start.

    Raises errors.Unavailable when ``config.root`` cannot be used.
    """
    hub = open_hub(config)
    app = web.Application()
    app[HUB] = hub

    async def life(_: web.Application) -> AsyncIterator[None]:
        await hub.start()
        if password := await hub.accounts.first_password():
            tell(f"first start: log in as admin with password {password} (said only this once)")
        yield
        await hub.close()

    async def tell_standing(request: web.Request, response: web.StreamResponse) -> None:
        if standing := request.get(STANDING):
            response.headers.update(standing.headers())

    app.cleanup_ctx.append(life)
    if config.account_rate or config.anonymous_rate:
        app.on_response_prepare.append(tell_standing)
    for module in (registry, tokens, search, operations, account, pages):
        app.add_routes(module.routes(hub))
    return app


def run(config: HubConfig) -> None:
    """Serve until SIGINT or SIGTERM; SIGHUP reads the TLS certificate again.

    Raises Unavailable when the address is taken, InvalidParameter for a bad certificate.
    """
    logs.set_up()
    uvloop.run(_serve(config))


async def _serve(config: HubConfig) -> None:
    runner = web.AppRunner(
        make_app(config), read_bufsize=READ_BUFFER_BYTES, access_log=None, handle_signals=False
    )
    await runner.setup()
    try:
        tls = _tls_context(config)
        site = web.TCPSite(
            runner,
            config.host,
            config.port,
            ssl_context=tls,
            backlog=1024,
            shutdown_timeout=SHUTDOWN_SECONDS,
        )
        try:
            await site.start()
        except OSError as exc:
            raise Unavailable(
                f"cannot listen on {config.host}:{config.port}: {exc.strerror or exc}"
            ) from exc
        host, port = runner.addresses[0][:2]
        say(f"sampan hub listens on {'https' if tls else 'http'}://{host}:{port}")
        await _until_told(config, tls)
    finally:
        await runner.cleanup()


async def _until_told(config: HubConfig, tls: ssl.SSLContext | None) -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)

    def reload() -> None:
        if tls is not None:
            try:
                _load_certificate(tls, config)
            except InvalidParameter as exc:
                say(f"kept the old certificate: {exc}")

    loop.add_signal_handler(signal.SIGHUP, reload)
    await stopped.wait()


def _tls_context(config: HubConfig) -> ssl.SSLContext | None:
    if config.tls_certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load_certificate(context, config)
    return context


def _load_certificate(context: ssl.SSLContext, config: HubConfig) -> None:
    assert config.tls_certificate is not None
    try:
        context.load_cert_chain(config.tls_certificate, config.tls_key)
    except (OSError, ssl.SSLError) as exc:
        raise InvalidParameter(
            f"cannot use the certificate {config.tls_certificate}: {exc}"
        ) from exc
