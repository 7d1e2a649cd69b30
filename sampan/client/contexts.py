"""Docker's contexts on disk: named hosts, each a directory of metadata and one of certificates."""

from __future__ import annotations

import os
from hashlib import sha256

from sampan import wirejson
from sampan.errors import InvalidParameter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Context:
    """One named host."""

    __slots__ = ("address", "description", "name", "skip_verify", "tls_dir")

    def __init__(
        self,
        name: str,
        address: str,
        description: str = "",
        tls_dir: str = "",
        skip_verify: bool = False,
    ) -> None:
        self.name, self.address, self.description = name, address, description
        self.tls_dir, self.skip_verify = tls_dir, skip_verify


def directory(config_dir: str, name: str, kind: str = "meta") -> str:
    """Where the context ``name`` keeps its ``meta`` or ``tls``."""
    return f"{config_dir}/contexts/{kind}/{sha256(name.encode()).hexdigest()}"


def current(config_dir: str) -> str:
    """The context chosen by ``context use``, or an empty string."""
    found = read_json(f"{config_dir}/config.json") or {}
    return str(found.get("currentContext") or "")


def load(config_dir: str, name: str) -> Context | None:
    """The context ``name``, or None if there is none."""
    raw = read_json(f"{directory(config_dir, name)}/meta.json")
    return None if raw is None else _parse(config_dir, raw)


def all_contexts(config_dir: str) -> list[Context]:
    """All contexts but the built-in ``default``, by name."""
    base = f"{config_dir}/contexts/meta"
    try:
        names = os.listdir(base)
    except FileNotFoundError:
        return []
    raws = (read_json(f"{base}/{entry}/meta.json") for entry in names)
    found = [_parse(config_dir, raw) for raw in raws if raw is not None]
    return sorted(found, key=lambda context: context.name)


def read_json(path: str) -> Any:
    """The JSON value in ``path``, or None if the file does not exist."""
    try:
        with open(path, "rb") as file:
            return wirejson.loads(file.read())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise InvalidParameter(f"the file {path} is not valid JSON: {error}") from None


def _parse(config_dir: str, raw: Any) -> Context:
    name = str(raw.get("Name") or "")
    endpoint = (raw.get("Endpoints") or {}).get("docker") or {}
    tls = f"{directory(config_dir, name, 'tls')}/docker"
    return Context(
        name,
        str(endpoint.get("Host") or ""),
        str((raw.get("Metadata") or {}).get("Description") or ""),
        tls if os.path.isdir(tls) else "",
        bool(endpoint.get("SkipTLSVerify")),
    )
