"""``build``."""

from __future__ import annotations

import os
import sys

from sampan import wirejson
from sampan.cli import buildcontext, buildextras, buildoutput, progress, resources, values
from sampan.cli.command import Command
from sampan.cli.failure import Failure
from sampan.cli.flags import Flag
from sampan.cli.units import human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from sampan.cli.flags import Options
    from sampan.cli.session import Session

_SIMPLE = {
    "cgroup-parent": "cgroupparent",
    "cpu-period": "cpuperiod",
    "cpu-quota": "cpuquota",
    "cpu-shares": "cpushares",
    "cpuset-cpus": "cpusetcpus",
    "cpuset-mems": "cpusetmems",
    "force-rm": "forcerm",
    "memory": "memory",
    "memory-swap": "memswap",
    "network": "networkmode",
    "no-cache": "nocache",
    "platform": "platform",
    "pull": "pull",
    "shm-size": "shmsize",
    "squash": "squash",
    "target": "target",
}
PROGRESS = ("auto", "plain", "tty", "quiet", "rawjson")


def build(session: Session, options: Options, arguments: list[str]) -> int:
    """Build an image and, with ``--quiet``, print its identifier alone."""
    view = options["progress"]
    if view not in PROGRESS:
        raise Failure(f"invalid progress mode {view!r}: must be one of {', '.join(PROGRESS)}", 125)
    quiet = options["quiet"] or view == "quiet"
    outputs = buildoutput.wanted(options)
    if options["check"] or options["call"] != "build":
        from sampan.cli.buildcall import ask

        return ask(session, options, arguments[0], _query(session, options, True))
    # What goes to standard output must not be mixed with progress.
    to_stdout = any(output.dest == "-" for output in outputs)
    live = not quiet and not to_stdout and (view == "tty" or (view == "auto" and _on_terminal()))
    tags = [*options["tag"], *(name for output in outputs for name in output.names)]
    query = _query(session, options, quiet)
    key = ""
    if options["sign-key"]:
        from sampan.cli import buildattest

        key = buildattest.key(options["sign-key"], query, outputs)
    query["t"] = tags
    if live or view == "rawjson":
        query["sampan"] = "1"
    cache, brought = _cache(session, options, query)
    if not any(output.keeps_image for output in outputs):
        query["t"] = []
    given = wirejson.loads(str(query.get("buildargs", "{}")))
    keep_git = given.get("BUILDKIT_CONTEXT_KEEP_GIT_DIR") in ("1", "true")
    context = buildcontext.from_argument(arguments[0], options["file"], keep_git=keep_git)
    query["dockerfile"] = context.dockerfile
    if "attest" in query:
        attest = wirejson.loads(str(query["attest"]))
        if context.source:
            attest |= {"source": context.source, "commit": context.commit}
        if any(output.artifact for output in outputs):
            attest["artifact"] = True
        query["attest"] = wirejson.dumps(attest)
    screen = progress.Screen(sys.stderr) if to_stdout else progress.Screen(live=live)
    chunks: Iterable[bytes] = context.chunks
    headers = {
        "Content-Type": "application/x-tar",
        **_registry_header(session),
        **buildextras.header(session, options),
    }
    if context.packed is not None:
        from sampan.cli import buildsize

        buildsize.warn(context.packed)
        if buildsize.is_large(context.packed) and not options["compress"]:
            from sampan.client import contextrows

            chunks, retained = contextrows.difference(session.api, context.packed)
            headers.update(retained)
    if options["compress"]:
        chunks = _compressed(chunks)
    if not quiet:
        chunks = _announced(chunks, screen)
    found: dict[str, str] = {}
    known = buildoutput.known(session, outputs)
    messages = _noticing(
        session.api.messages("POST", "/build", query, body=chunks, headers=headers), found
    )
    try:
        if live:
            from sampan.cli.buildview import BuildView

            identifier = BuildView().show(messages)
        elif view == "rawjson":
            identifier = _raw(messages)
        elif quiet and not to_stdout:
            identifier = _silently(messages)
        else:
            identifier = _plainly(messages, screen)
    except Failure as failure:
        if found.get("Excerpt"):
            failure = Failure(f"{failure.message}\n{found['Excerpt']}", failure.code)
        if found.get("StateBefore"):
            from sampan.cli.buildinvoke import shell

            shell(session, found["StateBefore"])
        raise failure from None
    finally:
        if brought:
            from sampan.cli.buildcache import forget

            forget(session, brought)
    if found.get("CacheID"):
        from sampan.cli.buildcache import store

        store(session, cache, found["CacheID"])
    if options["iidfile"]:
        with open(options["iidfile"], "w", encoding="ascii") as file:
            file.write(identifier)
    if identifier:
        epoch = given.get("SOURCE_DATE_EPOCH") or ""
        buildoutput.write(session, outputs, identifier, tags, known=known, epoch=epoch)
        if key:
            buildattest.sign(session, tags, key)
    if options["metadata-file"]:
        kept = tags if any(output.keeps_image for output in outputs) else []
        buildoutput.write_metadata(session, options["metadata-file"], identifier, kept)
    return 0


def _on_terminal() -> bool:
    """Whether standard output is a terminal whose cursor can be moved."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def _raw(messages: Iterable[dict[str, Any]]) -> str:
    """BuildKit's status documents, one a line, to standard error."""
    identifier = ""
    for message in messages:
        if "error" in message or "errorDetail" in message:
            fail(message)
        if message.get("id") == "sampan.trace":
            sys.stderr.write(wirejson.dumps(message["aux"]) + "\n")
        elif "aux" in message:
            identifier = str((message["aux"] or {}).get("ID") or identifier)
    return identifier


def _noticing(
    messages: Iterable[dict[str, Any]], found: dict[str, str]
) -> Iterator[dict[str, Any]]:
    """The messages without those that name other images than the result: these go to ``found``."""
    for message in messages:
        if message.get("id") in ("sampan.cache", "sampan.state", "sampan.source"):
            found.update(message["aux"])
        else:
            yield message


def _cache(session: Session, options: Options, query: dict[str, object]) -> tuple[Any, list[str]]:
    """Where the cache goes, and images brought to take it from; the query tells the daemon."""
    # Without a text there is no cache, as scripts write it whose variable is empty.
    origins = [text for text in options["cache-from"] if text]
    if not origins and not options["cache-to"]:
        return (), []
    from sampan.cli import buildcache

    targets = buildcache.targets(options["cache-to"])
    names, brought = buildcache.sources(session, origins)
    if names:
        query["cachefrom"] = wirejson.dumps(names)
    if any(target.kind == "inline" for target in targets):
        arguments = wirejson.loads(str(query.get("buildargs", "{}")))
        query["buildargs"] = wirejson.dumps({**arguments, "BUILDKIT_INLINE_CACHE": "1"})
    kept = [target for target in targets if target.kind != "inline"]
    if kept:
        query["cacheexport"] = "max" if any(t.mode == "max" for t in kept) else "min"
    return kept, brought


def _query(session: Session, options: Options, quiet: bool) -> dict[str, object]:
    query: dict[str, object] = {
        parameter: options[flag] for flag, parameter in _SIMPLE.items() if options.given(flag)
    }
    if "local" in (platforms := options["platform"].split(",")):
        query["platform"] = ",".join(
            _own_platform(session) if p == "local" else p for p in platforms
        )
    query["rm"] = "1" if options["rm"] else "0"
    query["q"] = quiet
    query["excerpt"] = "1"
    arguments: dict[str, str | None] = {}
    if os.path.exists(f"{session.config_dir}/config.json"):
        from sampan.cli.creation import proxies

        arguments.update(proxies(session.config, session.host.address))
    for text in options["build-arg"]:
        name, equals, value = text.partition("=")
        if not name:
            reason = f"invalid environment variable: {text}"
            raise values.bad_flag("--build-arg", text, reason)
        arguments[name] = value if equals else os.environ.get(name)
    if epoch := os.environ.get("SOURCE_DATE_EPOCH"):
        arguments.setdefault("SOURCE_DATE_EPOCH", epoch)
    if arguments:
        query["buildargs"] = wirejson.dumps(arguments)
    if options["label"]:
        query["labels"] = wirejson.dumps(values.labels((), options["label"], "--label"))
    if options["annotation"]:
        for text in options["annotation"]:
            if not text.partition("=")[0] or "=" not in text:
                raise Failure(f"invalid annotation {text!r}, expected key=value", 125)
        query["annotations"] = wirejson.dumps(values.pairs(options["annotation"]))
    if options["no-cache-filter"]:
        query["nocachefilter"] = options["no-cache-filter"]
    if options["attest"] or options.given("sbom") or options.given("provenance"):
        from sampan.cli import buildattest

        query["attest"] = wirejson.dumps(buildattest.wanted(options))
    if options["invoke"]:
        query["keepstate"] = "1"
    if options["ulimit"]:
        query["ulimits"] = wirejson.dumps(resources.ulimits(options["ulimit"]))
    if options["add-host"]:
        from sampan.cli.creation import extra_host

        query["extrahosts"] = [extra_host(text) for text in options["add-host"]]
    if options["security-opt"]:
        query["securityopt"] = options["security-opt"]
    return query


def _own_platform(session: Session) -> str:
    """The daemon's."""
    version = session.api.get("/version")
    return f"{version['Os']}/{version['Arch']}"


def _registry_header(session: Session) -> dict[str, str]:
    """All registries' credentials, as a base image may come from any."""
    if not os.path.exists(f"{session.config_dir}/config.json"):
        return {}
    from sampan.cli import credentials

    registries = {*(session.config.get("auths") or {}), *(session.config.get("credHelpers") or {})}
    found = {registry: credentials.lookup(session, registry) for registry in registries}
    return {"X-Registry-Config": credentials.encode(found)} if found else {}


def _compressed(chunks: Iterable[bytes]) -> Iterator[bytes]:
    import zlib

    packer = zlib.compressobj(6, wbits=31)
    for chunk in chunks:
        yield packer.compress(chunk)
    yield packer.flush()


def _announced(chunks: Iterable[bytes], screen: progress.Screen) -> Iterator[bytes]:
    """The context, saying how much it is."""
    status = "Sending build context to the daemon"
    done = 0
    for chunk in chunks:
        yield chunk
        done += len(chunk)
        if screen.live:
            screen.update("", status, done)
    if screen.live:
        screen.settle()
    else:
        screen.note(f"{status}  {human_size(done)}")


def _plainly(messages: Iterable[dict[str, Any]], screen: progress.Screen) -> str:
    identifier = ""
    try:
        for message in messages:
            if "errorDetail" in message or "error" in message:
                fail(message)
            if "aux" in message:
                identifier = str((message["aux"] or {}).get("ID") or identifier)
            else:
                progress.put(screen, message)
    finally:
        screen.close()
    return identifier


def _silently(messages: Iterable[dict[str, Any]]) -> str:
    """Only the identifier to standard output; all that was said, to standard error, on failure."""
    identifier = ""
    said: list[str] = []
    for message in messages:
        if "errorDetail" in message or "error" in message:
            sys.stderr.write("".join(said))
            fail(message)
        if "aux" in message:
            identifier = str((message["aux"] or {}).get("ID") or identifier)
        elif "stream" in message:
            said.append(str(message["stream"]))
            text = str(message["stream"]).strip()
            if text.startswith("sha256:"):
                identifier = text
    sys.stdout.write(f"{identifier}\n")
    return identifier


def fail(message: dict[str, Any]) -> None:
    """End the command as the daemon's message of a failure says.  :raises Failure:"""
    detail = message.get("errorDetail") or {}
    text = str(detail.get("message") or message.get("error"))
    raise Failure(text, int(detail.get("code") or 1))


BUILD = Command(
    "[OPTIONS] PATH | URL | -",
    "Build an image from a Dockerfile",
    build,
    (
        Flag("add-host", "list", 'Add a custom host-to-IP mapping ("host:ip")'),
        Flag("allow", "strings", "Allow an extra privilege (security.insecure, network.host)"),
        Flag(
            "annotation",
            "list",
            "Add an OCI annotation to the image's manifest, or with a type in front to its index or"
            ' its entry there ("KEY=VALUE", "index:KEY=VALUE",'
            ' "manifest-descriptor[linux/amd64]:KEY=VALUE")',
        ),
        Flag(
            "attest", "list", 'Attestations of the image ("type=sbom", "type=provenance,mode=max")'
        ),
        Flag("build-arg", "list", "Set build-time variables"),
        Flag("build-context", "list", "Additional build contexts (e.g. NAME=FOLDER)"),
        Flag("cache-from", "list", 'Cache to take ("NAME", "type=local,src=FOLDER")'),
        Flag(
            "cache-to",
            "list",
            'Where the cache goes ("type=inline", "type=registry,ref=NAME", "type=local,dest=FOLDER",'
            ' with "mode=max" for all stages)',
        ),
        Flag(
            "call",
            "string",
            'Say something of the Dockerfile instead of building it ("check", "outline",'
            ' "targets"; with ",format=json" as JSON)',
            default="build",
        ),
        Flag(
            "cgroup-parent",
            "string",
            'Set the parent cgroup for the "RUN" instructions during build',
        ),
        Flag("check", "", "Check the Dockerfile by the linter's rules, without building"),
        Flag("compress", "", "Compress the build context using gzip"),
        Flag("cpu-period", "int", "Limit the CPU CFS (Completely Fair Scheduler) period"),
        Flag("cpu-quota", "int", "Limit the CPU CFS (Completely Fair Scheduler) quota"),
        Flag("cpu-shares", "int", "CPU shares (relative weight)", "c"),
        Flag("cpuset-cpus", "string", "CPUs in which to allow execution (0-3, 0,1)"),
        Flag("cpuset-mems", "string", "MEMs in which to allow execution (0-3, 0,1)"),
        Flag("file", "string", 'Name of the Dockerfile (Default is "PATH/Dockerfile")', "f"),
        Flag("force-rm", "", "Always remove intermediate containers"),
        Flag("iidfile", "string", "Write the image ID to the file"),
        Flag("invoke", "", "On failure, open a shell in the state before the failed step"),
        Flag("label", "list", "Set metadata for an image"),
        Flag("load", "", "Keep the image in the daemon's store beside other outputs"),
        Flag("memory", "bytes", "Memory limit", "m"),
        Flag(
            "memory-swap",
            "bytes",
            "Swap limit equal to memory plus swap: -1 to enable unlimited swap",
        ),
        Flag("metadata-file", "string", "Write the build result's metadata to the file"),
        Flag(
            "network",
            "string",
            "Set the networking mode for the RUN instructions during build",
            default="default",
        ),
        Flag("no-cache", "", "Do not use cache when building the image"),
        Flag("no-cache-filter", "strings", "Do not cache these stages"),
        Flag(
            "output",
            "list",
            'Where the result goes: a folder, "-", or "type=local|tar|oci|docker|image|registry"'
            ' with "dest=PATH", "name=NAME", "push=true", "oci-artifact=true"',
            "o",
        ),
        Flag("platform", "string", "Set platform if server is multi-platform capable"),
        Flag(
            "progress",
            "string",
            'Set type of progress output ("auto", "plain", "tty", "quiet", "rawjson")',
            default="auto",
        ),
        Flag("provenance", "string", 'Shorthand for "--attest=type=provenance"'),
        Flag("pull", "", "Always attempt to pull a newer version of the image"),
        Flag("push", "", "Push the image under its tags"),
        Flag("quiet", "", "Suppress the build output and print image ID on success", "q"),
        Flag("rm", "", "Remove intermediate containers after a successful build", default=True),
        Flag("sbom", "string", 'Shorthand for "--attest=type=sbom"'),
        Flag(
            "secret",
            "list",
            'Secret for RUN --mount=type=secret ("id=ID[,src=FILE]" or "id=ID,env=VARIABLE")',
        ),
        Flag("security-opt", "strings", "Security options"),
        Flag(
            "sign-key",
            "string",
            "Sign the attestations of what is pushed with the private key in this file (PEM), as"
            " cosign reads them",
        ),
        Flag("shm-size", "bytes", 'Size of "/dev/shm"'),
        Flag("squash", "", "Squash newly built layers into a single new layer"),
        Flag("ssh", "list", 'Agent for RUN --mount=type=ssh ("default" or "ID=SOCKET")'),
        Flag("tag", "list", 'Name and optionally a tag in the "name:tag" format', "t"),
        Flag("target", "string", "Set the target build stage to build."),
        Flag("ulimit", "ulimit", "Ulimit options", shown="[]"),
    ),
    least=1,
    most=1,
)
