"""Build options that travel beside the query: secrets, ssh agents, named contexts, entitlements."""

from __future__ import annotations

import os
import stat

from sampan import wirejson
from sampan.cli.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from sampan.cli.flags import Options
    from sampan.cli.session import Session

MAX_SECRET = 500 << 10
ENTITLEMENTS = ("security.insecure", "network.host")


def header(session: Session, options: Options) -> dict[str, str]:
    """The ``X-Sampan-Build`` header for the options, if any of them was given.

    :raises Failure: a malformed option, or a secret that cannot be read.
    """
    if not any(options[name] for name in ("secret", "ssh", "build-context", "allow")):
        return {}
    import base64

    document = {
        "secrets": {
            name: base64.b64encode(value).decode()
            for name, value in map(_secret, options["secret"])
        },
        "ssh": dict(map(_agent, options["ssh"])),
        "contexts": dict(_context(session, text) for text in options["build-context"]),
        "allow": list(_allowed(options["allow"])),
    }
    data = wirejson.dumps(document).encode()
    return {"X-Sampan-Build": base64.urlsafe_b64encode(data).decode()}


def _secret(text: str) -> tuple[str, bytes]:
    """``id=NAME[,src=FILE|,env=VARIABLE]``."""
    given: dict[str, str] = {}
    for field in text.split(","):
        key, _, value = field.partition("=")
        key = {"source": "src"}.get(key.strip(), key.strip())
        if key not in ("id", "src", "env", "type"):
            raise Failure(f"invalid secret {text!r}: unexpected key {key!r}", 125)
        given[key] = value
    name = given.get("id", "")
    if not name:
        raise Failure(f"invalid secret {text!r}: it needs an id", 125)
    if given.get("type", "file") not in ("file", "env"):
        raise Failure(f"invalid secret {text!r}: the type is file or env", 125)
    variable = given.get("env", "")
    if not variable and given.get("type") == "env":
        variable = given.get("src", name)
    if not variable and "src" not in given and name in os.environ:
        variable = name
    if variable:
        if variable not in os.environ:
            raise Failure(f"the variable {variable} of the secret {name} is not set", 125)
        return name, os.environb[variable.encode()]
    path = given.get("src", name)
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_SECRET + 1)
    except OSError as error:
        raise Failure(f"cannot read the secret {name}: {path}: {error.strerror}", 125) from None
    if len(data) > MAX_SECRET:
        raise Failure(f"the secret {name} is too large: {path} has more than 500 KiB", 125)
    return name, data


def _agent(text: str) -> tuple[str, str]:
    """``default`` or ``ID[=SOCKET]``: an agent's socket, $SSH_AUTH_SOCK by default.

    :raises Failure: there is none, or something else is there.
    """
    name, _, path = text.partition("=")
    path = path or os.environ.get("SSH_AUTH_SOCK", "")
    if not path:
        raise Failure(f"invalid ssh {text!r}: no agent runs ($SSH_AUTH_SOCK is empty)", 125)
    try:
        is_socket = stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError as error:
        raise Failure(f"invalid ssh {text!r}: {path}: {error.strerror}", 125) from None
    if not is_socket:
        raise Failure(
            f"invalid ssh {text!r}: {path} is not an agent's socket: give a key to an agent by"
            " ssh-add, and name its socket",
            125,
        )
    return name, os.path.abspath(path)


def _context(session: Session, text: str) -> tuple[str, str]:
    """``NAME=FOLDER``, ``NAME=URL``, ``NAME=docker-image://REFERENCE`` or
    ``NAME=oci-layout://FOLDER[:TAG][@DIGEST]``; folders and layouts are sent now."""
    name, _, value = text.partition("=")
    if not name or not value:
        raise Failure(f"invalid build context {text!r}: expected NAME=VALUE", 125)
    if value.startswith("oci-layout://"):
        return name, f"docker-image://{_layout(session, value[len('oci-layout://') :])}"
    if value.startswith("docker-image://") or not os.path.isdir(value):
        from sampan.cli.buildcontext import is_git

        fetched = is_git(value) or value.startswith(("http://", "https://", "docker-image://"))
        if not fetched:
            raise Failure(f"invalid build context {text!r}: {value} is no folder", 125)
        return name, value
    from sampan.client import contextfolder, contextrows

    return name, contextrows.upload(session.api, contextfolder.plain(value))


def _layout(session: Session, place: str) -> str:
    from sampan.cli.buildcache import load_layout

    folder, _, digest = place.partition("@")
    tag = ""
    if not digest and not os.path.isdir(folder):
        folder, _, tag = folder.rpartition(":")
    return load_layout(session, folder, digest or tag)


def _allowed(names: Iterable[str]) -> Iterable[str]:
    for name in names:
        if name not in ENTITLEMENTS:
            raise Failure(
                f"invalid entitlement {name!r}: must be one of {', '.join(ENTITLEMENTS)}", 125
            )
        yield name
