"""Which daemon is meant: flag, environment, context, or the local one."""

from __future__ import annotations

import os

from sampan.errors import InvalidParameter, NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

DEFAULT_RUN_DIR = "/run/sampan"
SOCKET_NAME = "sampan.sock"
TCP_PORT = 2375
TLS_PORT = 2376


class Tls:
    """The files and the strictness of a TLS connection."""

    __slots__ = ("ca", "cert", "key", "verify")

    def __init__(self, ca: str = "", cert: str = "", key: str = "", verify: bool = True) -> None:
        self.ca, self.cert, self.key, self.verify = ca, cert, key, verify


class Host:
    """One daemon's address.

    ``own`` is set when it is the local daemon that may be started on demand; ``run_dir`` and
    ``state_dir`` are then what it is started with (empty: the daemon's own default).
    """

    __slots__ = ("address", "context", "own", "run_dir", "state_dir", "tls")

    def __init__(
        self,
        address: str,
        *,
        own: bool = False,
        run_dir: str = "",
        state_dir: str = "",
        tls: Tls | None = None,
        context: str = "default",
    ) -> None:
        self.address, self.own, self.tls, self.context = address, own, tls, context
        self.run_dir, self.state_dir = run_dir, state_dir


def client_config_dir(environ: Mapping[str, str] | None = None) -> str:
    """The directory of the client's configuration: ``DOCKER_CONFIG`` or ``~/.docker``."""
    env = os.environ if environ is None else environ
    return env.get("DOCKER_CONFIG") or os.path.join(os.path.expanduser("~"), ".docker")


def resolve(
    host: str | None = None,
    *,
    run_dir: str = "",
    state_dir: str = "",
    context: str = "",
    config_dir: str = "",
    tls: Tls | None = None,
    environ: Mapping[str, str] | None = None,
) -> Host:
    """The daemon meant by these flags and this environment.

    Order: ``host``; ``context``; ``SAMPAN_HOST``; ``DOCKER_HOST``; ``SAMPAN_CONTEXT`` and
    ``DOCKER_CONTEXT``; the current context of the configuration; the local daemon.

    :raises InvalidParameter: an address of an unknown form.
    :raises NotFound: a context that does not exist.
    """
    env: Mapping[str, str] = os.environ if environ is None else environ
    run = os.path.abspath(run_dir or env.get("SAMPAN_RUN_DIR") or DEFAULT_RUN_DIR)
    state = state_dir or env.get("SAMPAN_STATE_DIR", "")
    own = f"unix://{run}/{SOCKET_NAME}"
    config = config_dir or client_config_dir(env)
    chosen = host
    name = context
    # A run directory given by hand means the daemon that lives there.
    if not chosen and not name and not run_dir:
        chosen = env.get("SAMPAN_HOST") or env.get("DOCKER_HOST")
        if not chosen:
            name = env.get("SAMPAN_CONTEXT") or env.get("DOCKER_CONTEXT") or _current(config)
    if not chosen and name and name != "default":
        return _from_context(config, name)
    address = checked(chosen) if chosen else own
    if address == own:
        return Host(address, own=True, run_dir=run, state_dir=state)
    if tls is None and address.startswith("tcp://") and env.get("DOCKER_TLS_VERIFY"):
        tls = tls_from(env.get("DOCKER_CERT_PATH") or config)
    return Host(address, tls=tls)


def tls_from(directory: str, verify: bool = True) -> Tls:
    """The certificates of ``directory``, under Docker's names."""
    return Tls(f"{directory}/ca.pem", f"{directory}/cert.pem", f"{directory}/key.pem", verify)


def checked(address: str) -> str:
    """``address`` with its scheme, or :class:`InvalidParameter`."""
    if address.startswith("/"):
        return f"unix://{address}"
    scheme, separator, rest = address.partition("://")
    if not separator:
        scheme, rest = "tcp", address
    if scheme not in ("unix", "tcp", "ssh", "http", "https") or not rest:
        raise InvalidParameter(
            f"unable to parse docker host `{address}`: "
            "it must be unix://PATH, tcp://HOST:PORT or ssh://USER@HOST"
        )
    scheme = "tcp" if scheme in ("http", "https") else scheme
    return f"{scheme}://{rest}"


def _current(config_dir: str) -> str:
    # Most users have no context: one look at the directory spares reading the configuration.
    if not os.path.isdir(f"{config_dir}/contexts/meta"):
        return ""
    from sampan.client.contexts import current

    return current(config_dir)


def _from_context(config_dir: str, name: str) -> Host:
    from sampan.client.contexts import load

    found: Any = load(config_dir, name)
    if found is None:
        raise NotFound(f'context "{name}": context not found')
    tls = None
    if found.tls_dir:
        tls = tls_from(found.tls_dir, verify=not found.skip_verify)
    return Host(checked(found.address), tls=tls, context=name)
