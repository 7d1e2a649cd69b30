"""The image configuration (OCI image-spec config.md, with Docker's extensions).

The digest of the configuration's bytes is the image's ID, so the bytes are kept as received and
decoded only to look inside; :func:`encode` makes the bytes of a configuration of our own.
Durations are nanoseconds, times RFC 3339 strings.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import msgspec

from sampan.image.digest import Digest


class InvalidConfig(ValueError):
    """The bytes are not an image configuration."""


class Healthcheck(msgspec.Struct, frozen=True, omit_defaults=True, rename="pascal"):
    """``Test`` is empty (inherit), ``["NONE"]``, ``["CMD", …]`` or ``["CMD-SHELL", text]``."""

    test: list[str] | None = None
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class RunConfig(msgspec.Struct, frozen=True, omit_defaults=True, rename="pascal"):
    """How to run the image: the ``config`` object."""

    hostname: str = ""
    domainname: str = ""
    user: str = ""
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    exposed_ports: dict[str, dict[str, object]] | None = None
    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    env: list[str] | None = None
    cmd: list[str] | None = None
    healthcheck: Healthcheck | None = None
    args_escaped: bool = False
    image: str = ""
    volumes: dict[str, dict[str, object]] | None = None
    working_dir: str = ""
    entrypoint: list[str] | None = None
    network_disabled: bool = False
    mac_address: str = ""
    on_build: list[str] | None = None
    labels: dict[str, str] | None = None
    stop_signal: str = ""
    stop_timeout: int | None = None
    shell: list[str] | None = None


class History(msgspec.Struct, frozen=True, omit_defaults=True):
    """One step that made the image; ``empty_layer`` means that it has no entry in ``rootfs``."""

    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


class RootFS(msgspec.Struct, frozen=True):
    """Digests of the uncompressed layer tars, lowest first."""

    type: str = "layers"
    diff_ids: list[Digest] = []


class ImageConfig(msgspec.Struct, frozen=True, omit_defaults=True):
    architecture: str = ""
    os: str = ""
    config: RunConfig = RunConfig()
    rootfs: RootFS = RootFS()
    history: list[History] = []
    created: str | None = None
    author: str = ""
    variant: str = ""
    os_version: str = msgspec.field(name="os.version", default="")
    os_features: list[str] = msgspec.field(name="os.features", default=[])
    comment: str = ""
    container: str = ""
    container_config: RunConfig | None = None
    docker_version: str = ""
    parent: str = ""


_decoder = msgspec.json.Decoder(ImageConfig)


def decode(data: bytes) -> ImageConfig:
    """Decode a configuration; unknown members are ignored.  Raises InvalidConfig."""
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        try:
            document = msgspec.json.decode(data)
            if not isinstance(document, dict):
                raise InvalidConfig("malformed image configuration: not an object")
            clean = {key: value for key, value in document.items() if value is not None}
            return msgspec.convert(clean, ImageConfig)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise InvalidConfig(f"malformed image configuration: {error}") from None


def encode(config: ImageConfig) -> bytes:
    """The configuration's bytes, the same for the same value; ``rootfs`` is always there."""
    document = msgspec.to_builtins(config)
    for name, value in (("architecture", config.architecture), ("os", config.os)):
        document[name] = value
    document["rootfs"] = {"type": config.rootfs.type, "diff_ids": list(config.rootfs.diff_ids)}
    document.setdefault("config", {})
    return msgspec.json.encode(document, order="deterministic")


def chain_ids(diff_ids: Iterable[Digest]) -> list[Digest]:
    """The chain ID of each layer, lowest first (config.md#layer-chainid)."""
    chains: list[Digest] = []
    for diff_id in diff_ids:
        if not chains:
            chains.append(diff_id)
            continue
        text = f"{chains[-1]} {diff_id}".encode()
        chains.append("sha256:" + hashlib.sha256(text).hexdigest())
    return chains


def chain_id(diff_ids: Iterable[Digest]) -> Digest | None:
    """The chain ID of the whole stack; None for an image without layers."""
    chains = chain_ids(diff_ids)
    return chains[-1] if chains else None
