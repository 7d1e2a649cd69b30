"""Templates to HTML: everything is escaped, and a strict policy keeps foreign scripts out."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import jinja2
from aiohttp import web
from markdown_it import MarkdownIt
from markupsafe import Markup

from sampan.hub.web.messages import LANGUAGES, translator

_FOLDER = Path(__file__).parent
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}

# Raw HTML in a README is shown as text; links to javascript: and data: are not made (the
# renderer's own rule); images of other sites would be blocked by the policy above.
_markdown = MarkdownIt("commonmark", {"html": False, "linkify": False}).enable("table")


def markdown(text: str) -> Markup:
    """A README as HTML."""
    # The page has its own h1: headings start one lower.
    tokens = _markdown.parse(text)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(int(token.tag[1]) + 1, 6)}"
        if token.type == "table_open":
            token.attrSet("class", "table")
    return Markup(_markdown.renderer.render(tokens, _markdown.options, {}))


def human_size(count: int) -> str:
    """Bytes as people read them, in decimal units as Docker has them."""
    value = float(abs(count))
    sign = "-" if count < 0 else ""
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{sign}{value:.3g} {unit}"
        value /= 1000
    return f"{sign}{value:.3g} TB"


def date(seconds: int) -> str:
    """Unix seconds as an ISO date."""
    return time.strftime("%Y-%m-%d", time.gmtime(seconds)) if seconds else ""


def moment(seconds: int) -> str:
    """Unix seconds as date and time in UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds)) if seconds else ""


def short(digest: str) -> str:
    return digest.partition(":")[2][:12]


def bars(values: Sequence[int], width: int = 600, height: int = 90) -> Markup:
    """A bar chart as SVG, drawn with classes only, so that the style sheet colours it."""
    most = max([*values, 1])
    step = width / max(len(values), 1)
    shapes = []
    for index, value in enumerate(values):
        tall = value / most * (height - 4)
        shapes.append(
            f'<rect class="bar" x="{index * step + 1:.1f}" y="{height - tall - 1:.1f}" '
            f'width="{max(step - 2, 1):.1f}" height="{max(tall, 1):.1f}"/>'
        )
    return Markup(
        f'<svg class="plot" viewBox="0 0 {width} {height}" preserveAspectRatio="none" '
        f'aria-hidden="true" focusable="false">{"".join(shapes)}</svg>'
    )


def _static_version() -> str:
    digest = hashlib.sha256()
    for path in sorted((_FOLDER / "static").iterdir()):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


class Renderer:
    """Renders templates; one for each hub."""

    def __init__(self, title: str) -> None:
        self._environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(_FOLDER / "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters.update(
            size=human_size,
            date=date,
            moment=moment,
            short=short,
            markdown=markdown,
            bars=bars,
            path=lambda text: quote(text, safe="/"),
            query=lambda text: quote(text, safe=""),
        )
        self._environment.globals.update(
            title=title, languages=LANGUAGES, version=_static_version()
        )

    def page(
        self, template: str, language: str, status: int = 200, **values: object
    ) -> web.Response:
        """A response with a rendered template; ``values`` are the template's variables."""
        text = self._environment.get_template(template).render(
            language=language, _=translator(language), **values
        )
        return web.Response(
            status=status,
            text=text,
            content_type="text/html",
            headers={**SECURITY_HEADERS, "Cache-Control": "no-cache", "Vary": "Accept-Language"},
        )


def static_file(name: str) -> web.Response:
    """A style sheet, script or icon.  Raises HTTPNotFound."""
    known = {path.name: path for path in (_FOLDER / "static").iterdir()}
    if name not in known:
        raise web.HTTPNotFound
    kinds = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
    return web.Response(
        body=known[name].read_bytes(),
        content_type=kinds[known[name].suffix],
        charset="utf-8",
        headers={**SECURITY_HEADERS, "Cache-Control": "public, max-age=31536000, immutable"},
    )
