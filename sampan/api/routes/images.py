"""Images: ``/images``, ``/commit``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web

from sampan.api import filters as wire_filters
from sampan.api import progress, streams, versions
from sampan.api.body import chunks
from sampan.api.query import flag, integer
from sampan.engine import Engine
from sampan.engine.distribution import check_platform
from sampan.engine.filters import Filters
from sampan.engine.images import parse_name, platform_of
from sampan.engine.timestamps import parse_time
from sampan.engine.transfers import download
from sampan.engine.types import ContainerConfig, decode
from sampan.errors import Forbidden, InvalidParameter, NotFound
from sampan.image.manifest import Platform
from sampan.image.reference import InvalidReference, Reference
from sampan.progress import Report, ignore
from sampan.registry.auth import Auth
from sampan.store.images import Image

_LEGACY_CONFIG: dict[str, Any] = {
    "AttachStderr": False,
    "AttachStdin": False,
    "AttachStdout": False,
    "Domainname": "",
    "Hostname": "",
    "Image": "",
    "OpenStdin": False,
    "StdinOnce": False,
    "Tty": False,
}
SEARCH_MAX = 100
UNCOUNTED = -1
"""Docker's number of containers where nobody counts them."""
EVERY_PLATFORM = "all"
"""A pull's platform for an index with all its images."""


def routes(engine: Engine) -> list[web.RouteDef]:
    images = engine.images

    async def listing(request: web.Request) -> web.Response:
        version = versions.requested(request)
        wanted = wire_filters.parse(request.query.get("filters"))
        if version < (1, 25) and request.query.get("filter"):
            wanted = wanted.adding("reference", request.query["filter"])
        found = images.list(wanted, everything=flag(request, "all"), until=until_of(wanted))
        documents = images.summaries(found, shared=flag(request, "shared-size"))
        if flag(request, "manifests") and version >= (1, 47):
            for image, document in zip(found, documents, strict=True):
                document["Manifests"] = images.manifests(image)
        else:
            for document in documents:
                document["Containers"] = UNCOUNTED
        for document in documents:
            if version < (1, 44):
                document["VirtualSize"] = document["Size"]
            if version < (1, 43):
                if not document["RepoTags"] and not document["RepoDigests"]:
                    document["RepoTags"] = ["<none>:<none>"]
                    document["RepoDigests"] = ["<none>@<none>"]
                document["RepoDigests"] = document["RepoDigests"] or None
            if version < (1, 48):
                document.pop("Descriptor", None)
        return streams.json(documents)

    async def inspect(request: web.Request) -> web.Response:
        version = versions.requested(request)
        name = request.match_info["name"]
        platform = platform_of(request.query.get("platform"))
        if flag(request, "manifests") and platform is not None:
            raise InvalidParameter(
                "conflicting options: manifests and platform options cannot both be set"
            )
        document = images.inspect(name, platform)
        if flag(request, "manifests") and version >= (1, 48):
            image = images.get(name)
            document["Manifests"] = images.manifests(image)
        if version < (1, 50):
            document["Config"] = _LEGACY_CONFIG | document["Config"]
        if version < (1, 45):
            document["ContainerConfig"] = document["Config"]
        if version < (1, 44):
            document["VirtualSize"] = document["Size"]
        if version < (1, 48):
            document.pop("Descriptor", None)
        return streams.json(document)

    async def history(request: web.Request) -> web.Response:
        platform = platform_of(request.query.get("platform"))
        return streams.json(images.history(request.match_info["name"], platform))

    async def attestations(request: web.Request) -> web.Response:
        platform = platform_of(request.query.get("platform"))
        images.get(request.match_info["name"], platform)
        # Attestations are further manifests of an index; an image that is stored has none.
        return streams.json([])

    async def tag(request: web.Request) -> web.Response:
        images.tag(
            request.match_info["name"],
            request.query.get("repo", ""),
            request.query.get("tag", ""),
        )
        return web.Response(status=201)

    async def remove(request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if not name.strip():
            raise InvalidParameter("image name cannot be blank")
        platforms = [platform_of(text) for text in request.query.getall("platforms", [])]
        wanted = [platform for platform in platforms if platform is not None]
        if wanted:
            gone = await images.remove_variants(name, wanted, force=flag(request, "force"))
            return streams.json(gone)
        records = await images.remove(
            name, force=flag(request, "force"), prune_parents=not flag(request, "noprune")
        )
        return streams.json(records)

    async def prune(request: web.Request) -> web.Response:
        wanted = wire_filters.parse(request.query.get("filters"))
        records, freed = await images.prune(wanted, until_of(wanted))
        return streams.json({"ImagesDeleted": records or None, "SpaceReclaimed": freed})

    async def create(request: web.Request) -> web.StreamResponse:
        if request.query.get("fromImage"):
            return await pull(request)
        if request.query.get("fromSrc"):
            return await import_(request)
        raise InvalidParameter("either fromImage or fromSrc must be given")

    async def pull(request: web.Request) -> web.StreamResponse:
        query = request.query
        reference = pull_reference(query["fromImage"], query.get("tag", ""))
        auth = Auth.from_header(request.headers.get("X-Registry-Auth"))
        whole = query.get("platform") == EVERY_PLATFORM
        platform = None if whole else check_platform(platform_of(query.get("platform")))

        async def work(stream: progress.Stream) -> None:
            every = engine.distribution.pull_all_tags
            one = engine.distribution.pull
            if reference.tag or reference.digest:
                await one(reference, stream.report, platform=platform, auth=auth, whole=whole)
            else:
                await every(reference, stream.report, platform=platform, auth=auth, whole=whole)

        return await progress.run(request, work)

    async def import_(request: web.Request) -> web.StreamResponse:
        query = request.query
        source = query["fromSrc"]
        platform = check_platform(platform_of(query.get("platform")))
        if query.get("repo"):
            parse_name(query["repo"], query.get("tag", ""))

        async def work(stream: progress.Stream) -> None:
            body: AsyncIterator[bytes]
            body = chunks(request) if source == "-" else download(source, stream.report)
            image = await engine.transfers.import_(
                body,
                ignore,
                repository=query.get("repo", ""),
                tag=query.get("tag", ""),
                message=query.get("message", "")
                or ("" if source == "-" else f"Imported from {source}"),
                changes=query.getall("changes", []),
                platform=platform,
            )
            stream.send({"status": image.id})

        return await progress.run(request, work)

    async def push(request: web.Request) -> web.StreamResponse:
        name, tag_name = request.match_info["name"], request.query.get("tag", "")
        try:
            reference = Reference.parse_name(name)
            if tag_name:
                reference = reference.with_tag(tag_name)
        except InvalidReference as error:
            raise InvalidParameter(str(error)) from None
        auth = Auth.from_header(request.headers.get("X-Registry-Auth"))
        platform = platform_of(request.query.get("platform"))

        async def work(stream: progress.Stream) -> None:
            await engine.distribution.push(reference, stream.report, auth=auth, platform=platform)

        return await progress.run(request, work)

    async def search(request: web.Request) -> web.Response:
        term, limit = request.query.get("term", ""), integer(request, "limit", 25)
        if not term:
            raise InvalidParameter("the search term must not be empty")
        if not 1 <= limit <= SEARCH_MAX:
            raise InvalidParameter(f"invalid limit: {limit} is outside of [1, {SEARCH_MAX}]")
        wanted = wire_filters.parse(request.query.get("filters"))
        wanted.only("is-automated", "is-official", "stars")
        auth = Auth.from_header(request.headers.get("X-Registry-Auth"))
        hits = await engine.distribution.search(term, limit=limit, auth=auth)
        stars = max((_count(text) for text in wanted.get("stars")), default=0)
        return streams.json(
            [
                {
                    "star_count": hit.star_count,
                    "is_official": hit.is_official,
                    "name": hit.name,
                    "is_automated": hit.is_automated,
                    "description": hit.description,
                }
                for hit in hits
                if hit.star_count >= stars
                and hit.is_official == wanted.boolean("is-official", hit.is_official)
                and hit.is_automated == wanted.boolean("is-automated", hit.is_automated)
            ]
        )

    async def save(request: web.Request) -> web.StreamResponse:
        name = request.match_info.get("name")
        names = [name] if name else request.query.getall("names", [])
        if not names:
            raise InvalidParameter("no image names given")
        saved = engine.transfers.resolve(names, _one_platform(request))
        answer = await streams.start(request, "application/x-tar")
        async for chunk in engine.transfers.save(saved):
            await answer.write(chunk)
        await answer.write_eof()
        return answer

    async def load(request: web.Request) -> web.StreamResponse:
        platform = _one_platform(request)
        quiet = flag(request, "quiet", True)

        async def work(stream: progress.Stream) -> None:
            report = progress.reporter(stream, quiet)
            loaded = await engine.transfers.load(chunks(request), report, platform)
            for image in loaded:
                for line in _loaded(image):
                    stream.send({"stream": line})

        return await progress.run(request, work, in_stream=True)

    async def commit(request: web.Request) -> web.StreamResponse:
        query = request.query
        container = query.get("container", "")
        if not container:
            raise InvalidParameter("bad parameter: container is missing")
        body = (await request.read()).strip()
        config = decode(body, ContainerConfig) if body not in (b"", b"null") else None

        async def made(report: Report | None = None) -> dict[str, str]:
            image = await engine.commits.commit(
                container,
                repository=query.get("repo", ""),
                tag=query.get("tag", ""),
                author=query.get("author", ""),
                comment=query.get("comment", ""),
                pause=flag(request, "pause", True),
                changes=query.getall("changes", []),
                config=config,
                report=report,
            )
            return {"Id": image.id}

        async def work(stream: progress.Stream) -> None:
            stream.send(await made(stream.report))

        if flag(request, "progress", False):
            # Our own addition: messages of how far it is before the answer that Docker gives.
            return await progress.run(request, work)
        return streams.json(await progress.while_connected(request, made()), status=201)

    return [
        web.get("/images/json", listing),
        web.get("/images/search", search),
        web.get("/images/get", save),
        web.post("/images/load", load),
        web.post("/images/create", create),
        web.post("/images/prune", prune),
        web.get("/images/{name:.+}/json", inspect),
        web.get("/images/{name:.+}/history", history),
        web.get("/images/{name:.+}/attestations", attestations),
        web.get("/images/{name:.+}/get", save),
        web.post("/images/{name:.+}/push", push),
        web.post("/images/{name:.+}/tag", tag),
        web.delete("/images/{name:.+}", remove),
        web.post("/commit", commit),
    ]


def pull_reference(name: str, tag: str) -> Reference:
    """What ``fromImage`` and ``tag`` (which may be a digest) name.  Raises InvalidParameter."""
    text = name
    if tag:
        text += f"@{tag}" if ":" in tag else f":{tag}"
    try:
        reference = Reference.parse_name(text)
    except InvalidReference as error:
        raise InvalidParameter(str(error)) from None
    if reference.familiar_name == "scratch":
        raise Forbidden("'scratch' is a reserved name")
    return reference


def until_of(filters: Filters) -> int | None:
    """The time of the ``until`` filter in nanoseconds since the epoch."""
    given = (*filters.get("until"), *filters.get("unused-for"))
    if len(given) > 1:
        raise InvalidParameter("more than one until filter specified")
    return parse_time(given[0]) if given else None


def _one_platform(request: web.Request) -> Platform | None:
    given = request.query.getall("platform", [])
    if len(given) > 1:
        raise NotFound("an image that is stored is for one platform: several were asked for")
    return platform_of(given[0]) if given else None


def _loaded(image: Image) -> list[str]:
    if image.repo_tags:
        return [f"Loaded image: {name}\n" for name in image.repo_tags]
    return [f"Loaded image ID: {image.id}\n"]


def _count(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InvalidParameter(f"invalid filter 'stars=[{text}]'") from None
