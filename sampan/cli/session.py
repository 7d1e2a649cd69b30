"""What one invocation has: the global flags, the daemon, the client's configuration."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.flags import Options
    from sampan.client.api import Api
    from sampan.client.hosts import Host
    from sampan.errors import SampanError


class Session:
    """Passed to every command; connects when first asked for the daemon."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.words = ""
        self._api: Api | None = None
        self._host: Host | None = None
        self._config: dict[str, Any] | None = None

    @property
    def config_dir(self) -> str:
        """The directory of the client's configuration."""
        from sampan.client.hosts import client_config_dir

        return str(self.options["config"] or client_config_dir())

    @property
    def config(self) -> dict[str, Any]:
        """``config.json`` of the client, or an empty object."""
        if self._config is None:
            from sampan.client.contexts import read_json

            self._config = read_json(f"{self.config_dir}/config.json") or {}
        return self._config

    @property
    def host(self) -> Host:
        """The daemon that the flags and the environment choose."""
        if self._host is None:
            from sampan.cli.failure import Failure
            from sampan.client import hosts

            options = self.options
            given = options["host"]
            if len(given) > 1:
                raise Failure("specify only one -H")
            if given and options["context"]:
                raise Failure("conflicting options: cannot specify both --host and --context")
            tls = None
            if options["tls"] or options["tlsverify"]:
                folder = os.environ.get("DOCKER_CERT_PATH") or self.config_dir
                tls = hosts.Tls(
                    options["tlscacert"] or f"{folder}/ca.pem",
                    options["tlscert"] or f"{folder}/cert.pem",
                    options["tlskey"] or f"{folder}/key.pem",
                    verify=options["tlsverify"],
                )
            self._host = hosts.resolve(
                given[0] if given else None,
                run_dir=options["run-dir"],
                state_dir=options["state-dir"],
                context=options["context"],
                config_dir=options["config"],
                tls=tls,
            )
        return self._host

    @property
    def api(self) -> Api:
        """The connection to the daemon."""
        if self._api is None:
            from sampan.client.api import Api

            headers = {}
            if os.path.exists(f"{self.config_dir}/config.json"):
                found = self.config.get("HttpHeaders") or {}
                headers = {str(key): str(value) for key, value in found.items()}
            version = os.environ.get("DOCKER_API_VERSION", "")
            self._api = Api(self.host, version=version, headers=headers)
        return self._api

    def say(self, text: str) -> None:
        """One line on standard output."""
        sys.stdout.write(text + "\n")

    def complain(self, text: str) -> None:
        """One line on standard error, after what was said."""
        sys.stdout.flush()
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def each(
    session: Session,
    names: list[str],
    method: str,
    path: str,
    query: dict[str, object] | None = None,
) -> int:
    """Send one request a name as :func:`failures` does; the exit code is 1 if one failed."""
    return int(bool(failures(session, names, method, path, query)))


def failures(
    session: Session,
    names: list[str],
    method: str,
    path: str,
    query: dict[str, object] | None = None,
) -> dict[str, SampanError]:
    """Send one request a name, several at once, and say each name that succeeded.

    ``path`` has ``{}`` for the name.  Failures go to standard error, and are returned by name.
    """
    from sampan.cli.main import describe
    from sampan.client.http import quote

    failed: dict[str, SampanError] = {}
    plain = [name.removeprefix("/") for name in names]
    requests = [(method, path.format(quote(name)), query) for name in plain]
    for name, error in zip(names, session.api.together(requests), strict=True):
        if error is None:
            session.say(name)
        else:
            session.complain(describe(error))
            failed[name] = error
    return failed
