"""The web page that everybody sees: search, repositories, tags, files, differences."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from sampan.errors import SampanError
from sampan.hub.access import DELETE, PULL
from sampan.hub.attachments import is_attachment
from sampan.hub.core import Hub
from sampan.hub.failures import RegistryError
from sampan.hub.inspection import ImageView, Inspector, mode_text
from sampan.hub.layerindex import Entry, LayerIndex
from sampan.hub.records import Repository
from sampan.hub.sbom import Bill, Provenance
from sampan.hub.sendfile import send_blob
from sampan.hub.web.messages import LANGUAGES, translator
from sampan.hub.web.rendering import SECURITY_HEADERS, Renderer, static_file
from sampan.hub.web.visitors import (
    LANGUAGE_COOKIE,
    Visitor,
    is_secure,
    login_first,
    own_path,
    visitor,
)

PAGE_SIZE = 24
HOME_SIZE = 12
TAGS_SIZE = 50
PACKAGES_SIZE = 500
MAX_FOLDER_ROWS = 2000
YEAR_SECONDS = 365 * 86400

View = Callable[[web.Request, Visitor], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Row:
    """A line in the listing of a folder."""

    name: str
    path: str
    kind: str
    mode: str
    owner: str
    size: int
    modified: int
    target: str


def routes(hub: Hub) -> list[web.RouteDef]:
    pages = Pages(hub, Site(hub))
    view = pages.site.view
    return [
        web.get("/", view(pages.home)),
        web.get("/search", view(pages.search)),
        web.get("/search/results", view(pages.results)),
        web.get("/language/{code}", view(pages.language)),
        web.get("/static/{version}/{name}", _static),
        web.get("/favicon.ico", _favicon),
        web.get("/r/{name:.+}/-/tags/{reference}", view(pages.tag)),
        web.get("/r/{name:.+}/-/files/{digest}", view(pages.files)),
        web.get("/r/{name:.+}/-/documents/{digest}", view(pages.document)),
        web.get("/r/{name:.+}/-/blobs/{digest}", view(pages.blob)),
        web.get("/r/{name:.+}/-/diff", view(pages.diff)),
        web.get("/r/{name:.+}", view(pages.repository)),
        web.get("/{rest:.*}", view(pages.nothing)),
    ]


async def _static(request: web.Request) -> web.Response:
    return static_file(request.match_info["name"])


async def _favicon(request: web.Request) -> web.Response:
    return static_file("icon.svg")


class Site:
    """What all pages share: the visitor, the frame around the page, and error pages."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self._renderer = Renderer(hub.config.title)

    def view(self, handler: View) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """A handler that knows its visitor and whose failures become pages."""

        async def handle(request: web.Request) -> web.StreamResponse:
            who = await visitor(self.hub, request)
            _ = translator(who.language)
            try:
                self.hub.access.count(request, who.identity)
                return await handler(request, who)
            except RegistryError as exc:
                return self.problem(request, who, exc.status, _("Too many requests"), exc.message)
            except SampanError as exc:
                missing = exc.status == 404
                heading = _("Page not found") if missing else _("Something is wrong")
                return self.problem(request, who, exc.status, heading, str(exc))
            except web.HTTPNotFound:
                return self.problem(request, who, 404, _("Page not found"), "")
            except web.HTTPForbidden:
                return self.problem(request, who, 403, _("Something is wrong"), "403")

        return handle

    def page(
        self, request: web.Request, who: Visitor, template: str, status: int = 200, **values: object
    ) -> web.Response:
        return self._renderer.page(
            template,
            who.language,
            status,
            user=None if who.identity.anonymous else who.identity,
            csrf=who.csrf,
            here=request.path_qs,
            host=self.hub.config.public_url.partition("://")[2].rstrip("/") or request.host,
            **values,
        )

    def problem(
        self, request: web.Request, who: Visitor, status: int, heading: str, text: str
    ) -> web.Response:
        return self.page(request, who, "problem.html", status=status, heading=heading, problem=text)

    async def readable(self, request: web.Request, who: Visitor) -> Repository:
        """The repository of the path.  Raises HTTPNotFound, also when the visitor may not see
        it, and HTTPFound to the login where that may help."""
        name = request.match_info["name"]
        found = await self.hub.records.repository(name)
        if not await self.hub.access.allowed(who.identity, name, PULL):
            self.check_entry(request, who)
            raise web.HTTPNotFound
        if found is None:
            raise web.HTTPNotFound
        return found

    def check_entry(self, request: web.Request, who: Visitor) -> None:
        """Raises HTTPFound to the login for someone without an account who may see nothing."""
        if who.identity.anonymous and self.hub.config.anonymous == "none":
            raise login_first(request)


class Pages:
    def __init__(self, hub: Hub, site: Site) -> None:
        self.site = site
        self._hub = hub
        self._records = hub.records
        self._inspector = Inspector(hub.records, hub.storage, hub.indexes)

    async def home(self, request: web.Request, who: Visitor) -> web.Response:
        self.site.check_entry(request, who)
        _, found = await self._records.search("", HOME_SIZE)
        return self.site.page(request, who, "home.html", repositories=found)

    async def search(self, request: web.Request, who: Visitor) -> web.Response:
        return await self._search(request, who, "search.html")

    async def results(self, request: web.Request, who: Visitor) -> web.Response:
        """Only the results, for the search while typing."""
        return await self._search(request, who, "results.html")

    async def _search(self, request: web.Request, who: Visitor, template: str) -> web.Response:
        self.site.check_entry(request, who)
        term = request.query.get("q", "")[:100]
        page = _page(request)
        total, found = await self._records.search(term, PAGE_SIZE, (page - 1) * PAGE_SIZE)
        return self.site.page(
            request,
            who,
            template,
            term=term,
            total=total,
            found=found,
            page=page,
            page_size=PAGE_SIZE,
        )

    async def nothing(self, request: web.Request, who: Visitor) -> web.Response:
        raise web.HTTPNotFound

    async def language(self, request: web.Request, who: Visitor) -> web.Response:
        code = request.match_info["code"]
        if code not in LANGUAGES:
            raise web.HTTPNotFound
        target = own_path(request.query.get("to", "/"))
        response = web.Response(status=303, headers={"Location": target})
        response.set_cookie(
            LANGUAGE_COOKIE,
            code,
            max_age=YEAR_SECONDS,
            samesite="Lax",
            httponly=True,
            secure=is_secure(self._hub, request),
        )
        return response

    async def repository(self, request: web.Request, who: Visitor) -> web.Response:
        found = await self.site.readable(request, who)
        tags = await self._records.tags(found.name)
        # A signature's tag is shown with its image, not beside it.
        every = [tag for tag in tags if not is_attachment(tag.name)]
        every.sort(key=lambda tag: (-tag.updated, tag.name))
        page = _page(request)
        tags = every[(page - 1) * TAGS_SIZE : page * TAGS_SIZE]
        return self.site.page(
            request,
            who,
            "repository.html",
            repository=found,
            tags=tags,
            page=page,
            more_tags=len(every) > page * TAGS_SIZE,
            summaries={
                tag.digest: await self._inspector.summary(found.name, tag.digest) for tag in tags
            },
            has_latest=any(tag.name == "latest" for tag in every),
            used=await self._records.used_bytes(found.name),
            pulls=await self._records.pulls_by_day(found.name, 30),
            may_edit=await self._hub.access.allowed(who.identity, found.name, DELETE),
        )

    async def tag(self, request: web.Request, who: Visitor) -> web.Response:
        found = await self.site.readable(request, who)
        view = await self._inspector.tag(found.name, request.match_info["reference"])
        return self.site.page(
            request,
            who,
            "tag.html",
            repository=found,
            view=view,
            attached=await self._hub.attachments.of(found.name, view),
            platforms={image.digest: image.platform for image in view.images},
        )

    async def document(self, request: web.Request, who: Visitor) -> web.Response:
        """A bill of materials, provenance, or another statement about an image."""
        found = await self.site.readable(request, who)
        digest = request.match_info["digest"]
        read = await self._hub.attachments.document(found.name, digest)
        common: dict[str, Any] = {"repository": found, "digest": digest, "document": read}
        if not isinstance(read, Bill):
            kind = "provenance" if isinstance(read, Provenance) else "statement"
            return self.site.page(request, who, f"{kind}.html", **common)
        wanted = request.query.get("package", "")[:100]
        packages = [p for p in read.packages if wanted.lower() in f"{p.name} {p.license}".lower()]
        page = _page(request)
        return self.site.page(
            request,
            who,
            "packages.html",
            **common,
            wanted=wanted,
            total=len(packages),
            packages=packages[(page - 1) * PACKAGES_SIZE : page * PACKAGES_SIZE],
            page=page,
            more=len(packages) > page * PACKAGES_SIZE,
        )

    async def files(self, request: web.Request, who: Visitor) -> web.Response:
        found = await self.site.readable(request, who)
        digest = request.match_info["digest"]
        index = await self._inspector.layer(found.name, digest)
        folder = request.query.get("path", "").strip("/")
        rows = list_folder(index, folder)
        names = [name for name in folder.split("/") if name]
        crumbs = [(name, "/".join(names[: i + 1])) for i, name in enumerate(names)]
        return self.site.page(
            request,
            who,
            "files.html",
            repository=found,
            digest=digest,
            crumbs=crumbs,
            rows=rows[:MAX_FOLDER_ROWS],
            more=max(0, len(rows) - MAX_FOLDER_ROWS),
            truncated=index.truncated,
        )

    async def blob(self, request: web.Request, who: Visitor) -> web.StreamResponse:
        """A blob to save, for whom a session lets read it."""
        found = await self.site.readable(request, who)
        digest = request.match_info["digest"]
        size = await self._records.blob_size(found.name, digest)
        if size is None:
            raise web.HTTPNotFound
        headers = {
            **SECURITY_HEADERS,
            "Content-Type": "application/octet-stream",
            "Content-Disposition": f'attachment; filename="{digest.partition(":")[2][:12]}"',
            "Cache-Control": "private, no-cache",
        }
        response = web.StreamResponse(headers=headers)
        try:
            await send_blob(request, response, self._hub.storage, digest, 0, size)
        except FileNotFoundError:
            raise web.HTTPNotFound from None
        return response

    async def diff(self, request: web.Request, who: Visitor) -> web.Response:
        found = await self.site.readable(request, who)
        before, after = request.query.get("from", ""), request.query.get("to", "")
        old = await self._inspector.tag(found.name, before)
        new = await self._inspector.tag(found.name, after)
        pair = _same_platform(old.images, new.images)
        if pair is None:
            raise web.HTTPNotFound
        difference = await self._inspector.difference(found.name, *pair)
        return self.site.page(
            request,
            who,
            "diff.html",
            repository=found,
            before=before,
            after=after,
            platform=pair[1].platform,
            difference=difference,
        )


def _page(request: web.Request) -> int:
    number = request.query.get("page", "1")
    return max(1, int(number)) if number.isdecimal() and len(number) < 7 else 1


def _same_platform(
    old: list[ImageView], new: list[ImageView]
) -> tuple[ImageView, ImageView] | None:
    """The first pair of images for one platform; the first ones when none is shared."""
    by_platform = {image.platform: image for image in reversed(old)}
    for image in new:
        if image.platform in by_platform:
            return by_platform[image.platform], image
    return (old[0], new[0]) if old and new else None


def list_folder(index: LayerIndex, folder: str) -> list[Row]:
    """The entries directly in ``folder``: folders first; those that the layer only implies by
    their contents are shown too."""
    prefix = f"{folder}/" if folder else ""
    rows: dict[str, Row] = {}
    for entry in index.entries:
        if not entry.path.startswith(prefix) or entry.path == folder or not entry.path:
            continue
        name, below, _ = entry.path[len(prefix) :].partition("/")
        if below:
            rows.setdefault(name, Row(name, prefix + name, "d", "", "", 0, 0, ""))
        else:
            rows[name] = _row(name, entry)
    return sorted(rows.values(), key=lambda row: (row.kind != "d", row.name))


def _row(name: str, entry: Entry) -> Row:
    return Row(
        name=name,
        path=entry.path,
        kind=entry.kind,
        mode=mode_text(entry),
        owner=entry.owner,
        size=entry.size,
        modified=entry.modified,
        target=entry.target,
    )
