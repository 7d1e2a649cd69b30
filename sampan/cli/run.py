"""``run`` and ``create``."""

from __future__ import annotations

import os

from sampan.cli import creation, runflags, terminal
from sampan.cli.command import PROGRAM, Command
from sampan.cli.failure import Failure
from sampan.errors import NotFound, SampanError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sampan.cli.attached import Waiting
    from sampan.cli.flags import Options
    from sampan.cli.session import Session

PULL_CHOICES = ("always", "missing", "never")
_LONE_PLATFORMS = frozenset(
    (
        *("linux", "windows", "darwin", "freebsd", "netbsd", "openbsd", "solaris", "aix", "js"),
        *("android", "dragonfly", "illumos", "plan9", "wasip1", "386", "i386", "amd64", "x86_64"),
        *("x86-64", "arm", "armhf", "armel", "arm64", "aarch64", "loong64", "mips", "mipsle"),
        *("mips64", "mips64le", "ppc", "ppc64", "ppc64le", "riscv", "riscv64", "s390", "s390x"),
        *("sparc", "sparc64", "wasm"),
    )
)
"""What may stand for a platform alone: systems and processors."""


def run(session: Session, options: Options, arguments: list[str]) -> int:
    """Create a container, attach to it, start it, and see it through."""
    detach = options["detach"]
    body = _body(session, options, arguments, detach=detach)
    attach = {name: body[f"Attach{name.capitalize()}"] for name in creation.STREAMS}
    terminal.check_terminal(attach["stdin"], body["Tty"])
    keys, key_bytes = terminal.keys_of(session, options["detach-keys"])
    try:
        container = _create(session, options, body, None if detach else _import_attached)
    except SampanError as error:
        raise _failed(session, error) from None
    if detach:
        _start(session, options, container, None)
        session.say(container)
        return 0
    from sampan.cli.attached import DETACHED, Attachment, Waiting, open_streams

    try:
        waiting = Waiting(session, container, "removed" if options["rm"] else "next-exit")
        if not any(attach.values()):
            _start(session, options, container, waiting)
            session.say(container)
            return waiting.code()
        response = open_streams(session, container, keys=keys, **attach)
        started: list[bool] = []
        try:
            ended = Attachment(
                response,
                tty=body["Tty"],
                stdin=attach["stdin"],
                keys=key_bytes,
                resize=resizer(session, container),
                signal=signaller(session, container) if options["sig-proxy"] else None,
            ).run(before=lambda: started.append(_start(session, options, container, waiting)))
        except KeyboardInterrupt:
            if not started:
                raise
            ended = DETACHED
    except KeyboardInterrupt:
        # Interrupted before it ran: what was made for it goes, too.
        session.api.delete(f"/containers/{container}", {"force": True, "v": True})
        raise
    return 0 if ended == DETACHED else waiting.code()


def _import_attached() -> None:
    """Import what comes next, while the daemon works."""
    import sampan.cli.attached  # noqa: F401


def create(session: Session, options: Options, arguments: list[str]) -> int:
    """Create a container and print its identifier."""
    session.say(_create(session, options, _body(session, options, arguments, detach=False)))
    return 0


def _body(
    session: Session, options: Options, arguments: list[str], *, detach: bool
) -> dict[str, Any]:
    if options["pull"] not in PULL_CHOICES:
        raise Failure(
            f"{PROGRAM}: invalid pull option: '{options['pull']}': "
            'must be one of "always", "missing" or "never"\n\n'
            f"Run '{PROGRAM} {session.words} --help' for more information",
            125,
        )
    platform = options["platform"].lower()
    if platform and "/" not in platform and platform not in _LONE_PLATFORMS:
        raise Failure(
            f'{PROGRAM}: error parsing specified platform: "{options["platform"]}": unknown '
            "operating system or architecture: invalid argument\n\n"
            f"Run '{PROGRAM} {session.words} --help' for more information",
            125,
        )
    proxies: dict[str, str] = {}
    if os.path.exists(f"{session.config_dir}/config.json"):
        proxies = creation.proxies(session.config, session.host.address)
    try:
        body = creation.body(options, arguments, detach=detach, proxies=proxies)
    except Failure as failure:
        if failure.message.startswith("invalid argument"):
            text = (
                f"{failure.message}\n\nUsage:  {PROGRAM} {session.words} {RUN.usage}\n\n"
                f"Run '{PROGRAM} {session.words} --help' for more information"
            )
        else:
            text = (
                f"{PROGRAM}: {failure.message}\n\n"
                f"Run '{PROGRAM} {session.words} --help' for more information"
            )
        raise Failure(text, failure.code) from None
    if options["use-api-socket"]:
        _share_socket(session, body)
    if body["Tty"]:
        rows, columns = terminal.size()
        if rows:
            body["HostConfig"]["ConsoleSize"] = [rows, columns]
    return body


def _share_socket(session: Session, body: dict[str, Any]) -> None:
    """Let the container talk to this daemon, with the user's credentials."""
    scheme, _, path = session.host.address.partition("://")
    if scheme != "unix":
        raise Failure("--use-api-socket needs a daemon on a unix socket", 125)
    shared = body["HostConfig"].setdefault("Mounts", [])
    shared.append({"Type": "bind", "Source": path, "Target": "/var/run/docker.sock"})
    credentials = f"{session.config_dir}/config.json"
    if os.path.exists(credentials):
        target = "/run/secrets/docker/config.json"
        shared.append({"Type": "bind", "Source": credentials, "Target": target, "ReadOnly": True})
        body["Env"].append("DOCKER_CONFIG=/run/secrets/docker")


class _CidFile:
    """The file of ``--cidfile``: made before the container, filled after, removed if it failed."""

    def __init__(self, path: str) -> None:
        self._path = path
        if not path:
            return
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
        except FileExistsError:
            raise Failure(
                f"{PROGRAM}: container ID file found, make sure the other container isn't running "
                f"or delete {path}",
                125,
            ) from None
        except OSError as error:
            raise Failure(
                f"{PROGRAM}: failed to create the container ID file: {path}: {error.strerror}", 125
            ) from None

    def fill(self, container: str) -> None:
        if self._path:
            with open(self._path, "w", encoding="ascii") as file:
                file.write(container)

    def drop(self) -> None:
        if self._path:
            os.unlink(self._path)


def _create(
    session: Session,
    options: Options,
    body: dict[str, Any],
    meanwhile: Callable[[], object] | None = None,
) -> str:
    file = _CidFile(options["cidfile"])
    try:
        answer = _request(session, options, body, meanwhile)
    except BaseException:
        file.drop()
        raise
    container = str(answer["Id"])
    for warning in answer.get("Warnings") or []:
        session.complain(f"WARNING: {warning}")
    file.fill(container)
    return container


def _request(
    session: Session,
    options: Options,
    body: dict[str, Any],
    meanwhile: Callable[[], object] | None,
) -> Any:
    query = {"name": options["name"] or None, "platform": options["platform"] or None}
    if options["pull"] == "always":
        _pull(session, options, body["Image"])
    path = "/containers/create"
    try:
        return session.api.call("POST", path, query, json=body, meanwhile=meanwhile)
    except NotFound as error:
        if options["pull"] != "missing" or "image" not in str(error).lower():
            raise
    if not options["quiet"]:
        from sampan.cli.references import familiar

        session.complain(f"Unable to find image '{familiar(body['Image'])}' locally")
    _pull(session, options, body["Image"])
    return session.api.post(path, query, body)


def _pull(session: Session, options: Options, image: str) -> None:
    from sampan.cli.transfer import pull_image

    pull_image(session, image, platform=options["platform"], quiet=options["quiet"], to_stderr=True)


def _start(session: Session, options: Options, container: str, waiting: Waiting | None) -> bool:
    try:
        session.api.post(f"/containers/{container}/start")
    except SampanError as error:
        if options["rm"] and waiting is not None:
            # The daemon removes what could not start; the name is free when this returns.
            waiting.code()
        raise _failed(session, error) from None
    return True


def _failed(session: Session, error: SampanError) -> Failure:
    from sampan.cli.main import describe

    return Failure(
        f"{PROGRAM}: {describe(error)}\n\n"
        f"Run '{PROGRAM} {session.words} --help' for more information",
        start_code(str(error)),
    )


def start_code(message: str) -> int:
    """The exit code for a container that could not be started."""
    text = message.lower()
    if any(
        words in text
        for words in (
            "executable file not found",
            "no such file or directory",
            "not found in $path",
        )
    ):
        return 127
    if "permission denied" in text or "is a directory" in text or "exec format error" in text:
        return 126
    return 125


def resizer(session: Session, container: str) -> Any:
    def resize(rows: int, columns: int) -> None:
        session.api.post(f"/containers/{container}/resize", {"h": rows, "w": columns})

    return resize


def signaller(session: Session, container: str) -> Any:
    def signal(name: str) -> None:
        session.api.post(f"/containers/{container}/kill", {"signal": name})

    return signal


RUN = Command(
    "[OPTIONS] IMAGE [COMMAND] [ARG...]",
    "Create and run a new container from an image",
    run,
    runflags.CREATE + runflags.RUN_ONLY,
    least=1,
    interspersed=False,
    fatal=125,
)
CREATE = Command(
    "[OPTIONS] IMAGE [COMMAND] [ARG...]",
    "Create a new container",
    create,
    runflags.CREATE,
    least=1,
    interspersed=False,
)
