"""Who looks at the page: sessions in a signed cookie, and forms that only our pages can send."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from aiohttp import web

from sampan.hub.accounts import ANONYMOUS, Identity
from sampan.hub.core import Hub
from sampan.hub.tokens import SESSION_LIFETIME
from sampan.hub.web.messages import choose

COOKIE = "sampan_session"
LANGUAGE_COOKIE = "sampan_language"


@dataclass(frozen=True, slots=True)
class Visitor:
    identity: Identity
    csrf: str
    language: str


def own_path(text: str) -> str:
    """The address of a page here that ``text`` asks for; the first page if it is none of ours."""
    # Browsers leave tabs and line ends out, and take \\ for /.
    if not text.startswith("/") or text[1:2] in ("/", "\\") or not text.isprintable():
        return "/"
    return quote(text, safe="/?&=%#:@!$'()*+,;~")


def login_first(request: web.Request) -> web.HTTPFound:
    """The way to the login, and back to what is asked for."""
    back = f"?to={quote(request.path_qs, safe='')}" if request.method == "GET" else ""
    return web.HTTPFound(f"/login{back}")


async def visitor(hub: Hub, request: web.Request) -> Visitor:
    """The visitor by the session cookie; someone without an account when it is not valid."""
    language = choose(
        request.headers.get("Accept-Language", ""), request.cookies.get(LANGUAGE_COOKIE, "")
    )
    session = hub.signer.open_session(request.cookies.get(COOKIE, ""))
    if session:
        name, fingerprint, csrf = session
        who = await hub.accounts.identity(name)
        if who and hmac.compare_digest(fingerprint, await hub.accounts.fingerprint(name)):
            return Visitor(who, csrf, language)
    return Visitor(ANONYMOUS, "", language)


async def begin_session(hub: Hub, request: web.Request, response: web.Response, name: str) -> None:
    token = hub.signer.session(name, await hub.accounts.fingerprint(name))
    response.set_cookie(
        COOKIE,
        token,
        max_age=SESSION_LIFETIME,
        httponly=True,
        samesite="Lax",
        secure=is_secure(hub, request),
    )


def is_secure(hub: Hub, request: web.Request) -> bool:
    return request.secure or hub.config.public_url.startswith("https:")


async def checked_form(hub: Hub, request: web.Request, who: Visitor) -> dict[str, str]:
    """The fields of a form that this visitor sent from one of our pages.

    Raises HTTPForbidden when it came from elsewhere.
    """
    check_origin(hub, request)
    form = {key: value for key, value in (await request.post()).items() if isinstance(value, str)}
    if not who.csrf or not hmac.compare_digest(form.get("csrf", "").encode(), who.csrf.encode()):
        raise web.HTTPForbidden
    return form


def check_origin(hub: Hub, request: web.Request) -> None:
    """Raises HTTPForbidden when a browser says that another site's page sent the request."""
    origin = request.headers.get("Origin")
    ours = {request.host, urlsplit(hub.config.public_url).netloc}
    if origin is not None and urlsplit(origin).netloc not in ours:
        raise web.HTTPForbidden
