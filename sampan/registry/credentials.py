"""Credentials kept on the client's side, in Docker's ``config.json`` and its helpers.

``auths`` in the file holds base64 pairs; ``credHelpers`` names a helper for one registry and
``credsStore`` one for all.  A helper is a program ``docker-credential-NAME`` that speaks JSON on
its standard streams (get, store, erase, list).  Import of this module is cheap: the command line
uses it on each pull and push.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from sampan.errors import InvalidParameter, SampanError
from sampan.image.reference import DEFAULT_DOMAIN, LEGACY_DEFAULT_DOMAIN
from sampan.registry.auth import Auth

DEFAULT_KEY = f"https://{LEGACY_DEFAULT_DOMAIN}/v1/"
_TOKEN_USER = "<token>"
_NOT_FOUND = "credentials not found"
HELPER_SECONDS = 60


def key_of(domain: str) -> str:
    """The key in ``config.json`` for the registry of a reference."""
    return DEFAULT_KEY if domain in (DEFAULT_DOMAIN, LEGACY_DEFAULT_DOMAIN) else domain


class CredentialStore:
    """The credentials of one client configuration folder (``~/.docker`` by default)."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "config.json"

    def get(self, domain: str) -> Auth | None:
        """The credentials for a registry; None when there are none.

        Raises InvalidParameter (file or helper is broken).
        """
        config = self._read()
        key = key_of(domain)
        helper = self._helper(config, key)
        found = _helper_get(helper, key) if helper else None
        return found or _from_entry(_matching(config.get("auths"), key), key)

    def all(self) -> dict[str, Auth]:
        """All credentials that the file itself and its helpers hold, by key."""
        config = self._read()
        keys = set(config.get("auths") or {}) | set(config.get("credHelpers") or {})
        if store := config.get("credsStore"):
            keys |= set(json.loads(_run_helper(store, "list", "") or "{}"))
        found = {key: self.get(_host(key)) for key in sorted(keys)}
        return {key: auth for key, auth in found.items() if auth}

    def put(self, domain: str, auth: Auth) -> None:
        """Keep credentials: in the helper for this registry, or else in the file (mode 0600)."""
        config = self._read()
        key = key_of(domain)
        auths = config.setdefault("auths", {})
        if helper := self._helper(config, key):
            user = _TOKEN_USER if auth.identity_token else auth.username
            secret = auth.identity_token or auth.password
            _run_helper(
                helper,
                "store",
                json.dumps({"ServerURL": key, "Username": user, "Secret": secret}),
            )
            auths[key] = {}
        else:
            password = "" if auth.identity_token else auth.password
            pair = f"{auth.username}:{password}".encode()
            auths[key] = {"auth": base64.b64encode(pair).decode()}
            if auth.identity_token:
                auths[key]["identitytoken"] = auth.identity_token
        self._write(config)

    def erase(self, domain: str) -> bool:
        """Forget a registry's credentials; whether there were any."""
        config = self._read()
        key = key_of(domain)
        existed = False
        if helper := self._helper(config, key):
            existed = _helper_get(helper, key) is not None
            if existed:
                _run_helper(helper, "erase", key)
        auths = config.get("auths") or {}
        for name in [name for name in auths if name == key or _host(name) == _host(key)]:
            del auths[name]
            existed = True
            self._write(config)
        return existed

    def insecure_storage(self, domain: str) -> bool:
        """Whether :meth:`put` writes the password into the file, unencrypted."""
        return not self._helper(self._read(), key_of(domain))

    @property
    def path(self) -> Path:
        return self._path

    def _helper(self, config: dict[str, Any], key: str) -> str:
        by_host = config.get("credHelpers") or {}
        return str(by_host.get(key) or by_host.get(_host(key)) or config.get("credsStore") or "")

    def _read(self) -> dict[str, Any]:
        try:
            config = json.loads(self._path.read_text())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as exc:
            raise InvalidParameter(
                f"cannot read the client configuration {self._path}: {exc}"
            ) from exc
        if not isinstance(config, dict):
            raise InvalidParameter(f"the client configuration {self._path} must be a JSON object")
        return config

    def _write(self, config: dict[str, Any]) -> None:
        folder = self._path.parent
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd, name = tempfile.mkstemp(prefix=".config.json.", dir=folder)
        try:
            with os.fdopen(fd, "w") as file:
                json.dump(config, file, indent="\t")
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            # A config.json that is a link stays one.
            Path(name).replace(self._path.resolve())
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                Path(name).unlink()
            raise


def _host(key: str) -> str:
    """``https://host:5000/v1/`` → ``host:5000``; the form that references have."""
    return key.partition("://")[2].partition("/")[0] if "://" in key else key.partition("/")[0]


def _matching(auths: Any, key: str) -> dict[str, Any]:
    if not isinstance(auths, dict):
        return {}
    entry = auths.get(key)
    if not entry:
        entry = next((value for name, value in auths.items() if _host(name) == _host(key)), None)
    return entry if isinstance(entry, dict) else {}


def _from_entry(entry: dict[str, Any], key: str) -> Auth | None:
    username, password = entry.get("username", ""), entry.get("password", "")
    if text := entry.get("auth", ""):
        try:
            pair = base64.b64decode(text, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError) as exc:
            raise InvalidParameter(
                f"the auth of {key} in the client configuration is broken"
            ) from exc
        username, colon, password = pair.partition(":")
        if not colon:
            raise InvalidParameter(f"the auth of {key} in the client configuration is broken")
        password = password.strip("\x00")
    identity, registry = entry.get("identitytoken", ""), entry.get("registrytoken", "")
    if not (username or identity or registry):
        return None
    return Auth(username, password, identity, registry, key)


def _helper_get(helper: str, key: str) -> Auth | None:
    answer = _run_helper(helper, "get", key)
    if answer is None:
        return None
    try:
        said = json.loads(answer)
        user, secret = str(said["Username"]), str(said["Secret"])
    except (ValueError, KeyError, TypeError) as exc:
        raise InvalidParameter(f"docker-credential-{helper} gave no credentials for {key}") from exc
    if user == _TOKEN_USER:
        return Auth(identity_token=secret, server_address=key)
    return Auth(user, secret, server_address=key)


def _run_helper(helper: str, verb: str, text: str) -> str | None:
    """Run a credential helper; None when it says that it has no such credentials."""
    program = f"docker-credential-{helper}"
    if os.sep in helper:
        raise InvalidParameter(f"invalid credential helper {helper!r}: it must be a name")
    try:
        done = subprocess.run(
            [program, verb], input=text, capture_output=True, text=True, timeout=HELPER_SECONDS
        )
    except FileNotFoundError:
        raise InvalidParameter(
            f"the client configuration names the credential helper {program}, which is not in PATH"
        ) from None
    except subprocess.TimeoutExpired:
        raise SampanError(f"{program} {verb} does not end") from None
    said = (done.stdout + done.stderr).strip()
    if done.returncode == 0:
        return done.stdout
    if _NOT_FOUND in said:
        return None
    raise SampanError(f"{program} {verb} failed: {said or f'exit code {done.returncode}'}")
