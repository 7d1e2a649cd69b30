"""The classic builder's endpoints: ``/build`` and ``/build/prune``."""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Literal

import msgspec
from aiohttp import web

from sampan.api import build_text, progress, streams
from sampan.api import filters as wire_filters
from sampan.api.body import chunks, document
from sampan.api.query import flag, integer, json_value, nullable_map, string_map
from sampan.api.routes.images import until_of
from sampan.build import BuildEvent, BuildRequest, StepFailed
from sampan.build.errors import StepError
from sampan.engine import Engine, endpoints, resources
from sampan.engine.buildindex import Attest
from sampan.engine.builds import Context
from sampan.engine.images import parse_name
from sampan.engine.types import HostConfig, Ulimit
from sampan.errors import InvalidParameter, SampanError, Unsupported
from sampan.image.reference import InvalidReference, Reference
from sampan.registry.auth import Auth


def routes(engine: Engine) -> list[web.RouteDef]:
    async def build(request: web.Request) -> web.StreamResponse:
        wish = build_request(request)
        attest = attestations(request)
        auths = registry_auths(request.headers.get("X-Registry-Config"))
        quiet, rich = flag(request, "q"), flag(request, "sampan")
        remote = request.query.get("remote", "")

        async def work(stream: progress.Stream) -> None:
            unsent: list[dict[str, Any]] = []  # a quiet build tells what it did only if it fails
            excerpts: list[str] = []
            async with _context(engine, request, wish, remote, stream) as context:
                text = build_text.ClassicText(stream.send)
                report: Callable[[BuildEvent], None] = text
                if rich:
                    report = lambda event: stream.send(build_text.trace(event))  # noqa: E731
                elif quiet:
                    text = build_text.ClassicText(unsent.append)
                    report = text

                def tell(event: BuildEvent) -> None:
                    if isinstance(event, StepFailed) and event.excerpt:
                        excerpts.append(event.excerpt)
                    report(event)

                try:
                    result = await engine.builds.build(context.applied(wish), auths, tell, attest)
                except SampanError as error:
                    text.close()
                    for message in unsent:
                        stream.send(message)
                    if excerpts and flag(request, "excerpt"):
                        stream.send({"id": "sampan.source", "aux": {"Excerpt": excerpts[0]}})
                    if isinstance(error, StepError) and error.state_before:
                        aux = {"StateBefore": error.state_before}
                        stream.send({"id": "sampan.state", "aux": aux})
                    raise
                finally:
                    text.close()
            if result.answer is not None:
                stream.send({"id": "sampan.call", "aux": {"Answer": result.answer}})
            if result.cache_id:
                stream.send({"id": "sampan.cache", "aux": {"CacheID": result.cache_id}})
            if quiet and not rich:
                if result.image_id:
                    stream.send({"stream": f"{result.image_id}\n"})
                return
            for message in build_text.conclusion(result):
                stream.send(message)

        return await progress.run(request, work)

    async def prune(request: web.Request) -> web.Response:
        wanted = wire_filters.parse(request.query.get("filters"))
        for name in ("reserved-space", "max-used-space", "min-free-space"):
            if integer(request, name) and name != "reserved-space":
                raise Unsupported(f"{name} is not supported: use keep-storage")
        keep = integer(request, "keep-storage") or integer(request, "reserved-space")
        removed, freed = await engine.builds.prune(
            wanted, until_of(wanted), everything=flag(request, "all"), keep_storage=keep
        )
        return streams.json({"CachesDeleted": removed or None, "SpaceReclaimed": freed})

    async def cancel(request: web.Request) -> web.Response:
        raise Unsupported("a build is cancelled by closing its connection")

    async def sign(request: web.Request) -> web.Response:
        """Sign the attestations of an image that has been pushed."""
        try:
            reference = Reference.parse(request.query.get("name", ""))
        except InvalidReference as error:
            raise InvalidParameter(str(error)) from None
        signer = await document(request, _Signer, required=True)
        auth = Auth.from_header(request.headers.get("X-Registry-Auth"))
        tags = await engine.distribution.signing.attach(
            reference, signer.key.encode(), lambda _: None, auth=auth
        )
        return streams.json({"Tags": tags})

    async def retained(request: web.Request) -> web.Response:
        """What of a context to send; without rows, whether it is known as it is."""
        name = request.query.get("context", "")
        if "files" in request.query:
            await engine.builds.upload_context(name, chunks(request))
            return streams.json({"known": True})
        rows = b"".join([chunk async for chunk in chunks(request)])
        if not rows:
            return streams.json({"known": engine.builds.knows_context(name)})
        return streams.json({"needed": await engine.builds.offer_context(name, rows)})

    return [
        web.post("/build", build),
        web.post("/sampan/context", retained),
        web.post("/sampan/sign", sign),
        web.post("/build/prune", prune),
        web.post("/build/cancel", cancel),
    ]


def build_request(request: web.Request) -> BuildRequest:
    """The build that the query asks for, its context still to come.

    Raises InvalidParameter, or Unsupported for what only BuildKit has.
    """
    query = request.query
    if query.get("version", "1") not in ("", "1"):
        raise Unsupported(
            "BuildKit builds (version=2) need its gRPC session, which is not supported: use "
            "`sampan build`, or the docker CLI with DOCKER_BUILDKIT=0"
        )
    if query.get("outputs", "") not in ("", "[]", "null"):
        raise Unsupported("outputs other than an image need BuildKit's protocol")
    if query.get("isolation", "") not in ("", "default"):
        raise InvalidParameter(f"invalid isolation {query['isolation']!r}: Linux has none")
    extras = _extras(request.headers.get("X-Sampan-Build"))
    for tag in query.getall("t", []):
        parse_name(tag)
    epoch = integer(request, "sourcedateepoch", -1)
    return BuildRequest(
        dockerfile=query.get("dockerfile", "") or "Dockerfile",
        build_args=nullable_map(request, "buildargs"),
        labels=string_map(request, "labels"),
        annotations=string_map(request, "annotations"),
        target=query.get("target", ""),
        tags=tuple(query.getall("t", [])),
        no_cache=flag(request, "nocache"),
        no_cache_filter=tuple(query.getall("nocachefilter", [])),
        pull=flag(request, "pull"),
        network_mode=query.get("networkmode", "") or "default",
        platform=query.get("platform", ""),
        extra_hosts=_extra_hosts(request),
        shm_size=_shm_size(request),
        ulimits=tuple(_ulimits(request)),
        resources=_resources(request),
        cgroup_parent=query.get("cgroupparent", ""),
        cache_from=tuple(json_value(request, "cachefrom", list[str]) or ()),
        secrets=extras.secrets,
        ssh=extras.ssh,
        named_contexts=extras.contexts,
        allow_insecure="security.insecure" in extras.allow,
        security_opt=tuple(_repeated(request, "securityopt")),
        squash=flag(request, "squash"),
        call=_call(request),
        cache_export=_cache_export(query.get("cacheexport", "")),
        keep_failed_state=flag(request, "keepstate"),
        source_date_epoch=epoch if epoch >= 0 else None,
    )


def _call(request: web.Request) -> Literal["", "check", "outline", "targets"]:
    text = request.query.get("call", "") or ("check" if flag(request, "check") else "")
    if text in ("", "check", "outline", "targets"):
        return text  # type: ignore[return-value]
    raise InvalidParameter(f"invalid call {text!r}: check, outline or targets")


def _cache_export(text: str) -> Literal["", "min", "max"]:
    if text in ("", "min", "max"):
        return text  # type: ignore[return-value]
    raise InvalidParameter(f"invalid cache mode {text!r}: min or max")


def attestations(request: web.Request) -> Attest:
    """The attestations that the query's ``attest`` asks for, JSON.  Raises InvalidParameter."""
    return json_value(request, "attest", Attest) or Attest()


class _Signer(msgspec.Struct):
    """``key`` is a private key in PEM."""

    key: str


class _Extras(msgspec.Struct, forbid_unknown_fields=True):
    """What does not belong into a query: secrets (base64), agents' socket paths on the daemon's
    host, named contexts (``docker-image://REF``), entitlements."""

    secrets: dict[str, bytes] = {}
    ssh: dict[str, str] = {}
    contexts: dict[str, str] = {}
    allow: list[str] = []


def _extras(header: str | None) -> _Extras:
    """The header ``X-Sampan-Build``: base64 (URL alphabet) of JSON.  Raises InvalidParameter."""
    if not header:
        return _Extras()
    try:
        raw = base64.urlsafe_b64decode(header + "=" * (-len(header) % 4))
        return msgspec.json.decode(raw, type=_Extras)
    except (binascii.Error, ValueError, msgspec.MsgspecError) as error:
        raise InvalidParameter(f"invalid X-Sampan-Build header: {error}") from None


def registry_auths(header: str | None) -> dict[str, Auth]:
    """The credentials of ``X-Registry-Config`` by registry.  Raises InvalidParameter."""
    if not header:
        return {}
    try:
        raw = base64.urlsafe_b64decode(header + "=" * (-len(header) % 4))
        documents = msgspec.json.decode(raw, type=dict[str, msgspec.Raw] | None)
    except (binascii.Error, ValueError, msgspec.MsgspecError) as error:
        raise InvalidParameter(f"invalid X-Registry-Config header: {error}") from None
    found = {}
    for server, raw_auth in (documents or {}).items():
        auth = Auth.from_header(base64.urlsafe_b64encode(bytes(raw_auth)).decode())
        if auth is not None:
            host = server.split("://", 1)[-1].split("/", 1)[0]
            found["docker.io" if host == "index.docker.io" else host] = auth
    return found


@asynccontextmanager
async def _context(
    engine: Engine,
    request: web.Request,
    wish: BuildRequest,
    remote: str,
    stream: progress.Stream,
) -> AsyncIterator[Context]:
    if remote == "client-session":
        raise Unsupported("a context from the client's session needs BuildKit's protocol")
    if remote:
        keep_git = wish.on("BUILDKIT_CONTEXT_KEEP_GIT_DIR")
        async with engine.builds.remote_context(
            remote, stream.report, keep_git=keep_git
        ) as context:
            yield context
    elif retained := request.headers.get("X-Sampan-Context"):
        async with engine.builds.retained_context(retained, chunks(request)) as context:
            yield context
    else:
        async with engine.builds.context(chunks(request)) as context:
            yield context


def _repeated(request: web.Request, name: str) -> list[str]:
    """A repeated parameter; some clients send one JSON list instead."""
    given = request.query.getall(name, [])
    if len(given) == 1 and given[0].startswith("["):
        return json_value(request, name, list[str]) or []
    if len(given) == 1 and given[0].startswith("{"):
        return [f"{host}:{ip}" for host, ip in string_map(request, name).items()]
    return [text for text in given if text]


def _extra_hosts(request: web.Request) -> tuple[str, ...]:
    host = HostConfig(extra_hosts=_repeated(request, "extrahosts"))
    endpoints.check_hosts(host)
    return tuple(host.extra_hosts or ())


def _shm_size(request: web.Request) -> int:
    size = integer(request, "shmsize")
    if size < 0:
        raise InvalidParameter("SHM size can not be less than 0")
    return size or 64 << 20


def _ulimits(request: web.Request) -> list[dict[str, Any]]:
    given = json_value(request, "ulimits", list[Ulimit]) or []
    return [
        {"type": f"RLIMIT_{limit.name.upper()}", "soft": limit.soft, "hard": limit.hard}
        for limit in given
    ]


def _resources(request: web.Request) -> dict[str, Any]:
    host = HostConfig(
        memory=integer(request, "memory"),
        memory_swap=integer(request, "memswap"),
        cpu_shares=integer(request, "cpushares"),
        cpu_period=integer(request, "cpuperiod"),
        cpu_quota=integer(request, "cpuquota"),
        cpuset_cpus=request.query.get("cpusetcpus", ""),
        cpuset_mems=request.query.get("cpusetmems", ""),
    )
    resources.check(host)
    return resources.to_spec(host)
