"""From a container's record to what its keeper does with its output."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sampan.engine import logoptions
from sampan.engine.state import ContainerRecord
from sampan.errors import InvalidParameter
from sampan.gotemplate import NoField, Template, TemplateError
from sampan.runtime.types import MIB, LogConfig

_DEFAULT_TAG = "{{.ID}}"


def log_config(record: ContainerRecord, directory: Path, journal: str) -> LogConfig:
    """The keeper's configuration; files lie in ``directory``."""
    wanted = record.host.log_config
    driver, options = wanted.type or "local", wanted.config
    if driver == "none":
        return LogConfig("none")
    buffer = logoptions.buffer_size(options)
    if driver == "json-file":
        size, files = logoptions.limits(options)
        path = str(directory / f"{record.id}-json.log")
        found = attributes(record)
        if options.get("tag"):
            found["tag"] = tag(record)
        # Docker's default for this driver: one file without a limit.
        compress = logoptions.compressed(driver, options)
        return LogConfig("json-file", path, size or 0, files or 1, found, buffer, compress)
    path = str(directory / "log")
    if driver == "local":
        size, files = logoptions.limits(options)
        compress = logoptions.compressed(driver, options)
        size = size or 20 * MIB
        return LogConfig("local", path, size, files or 5, buffer=buffer, compress=compress)
    size, files = logoptions.limits(options, "cache-")
    return LogConfig(
        driver,
        path if logoptions.cached(options) else "",
        size or 20 * MIB,
        files or 5,
        buffer=buffer,
        compress=logoptions.compressed("local", options, "cache-"),
        remote=_remote(driver, record, journal),
    )


def _remote(driver: str, record: ContainerRecord, journal: str) -> dict[str, Any]:
    options, name = record.host.log_config.config, tag(record)
    if driver == "syslog":
        return {**logoptions.syslog(options), "tag": name}
    if driver == "fluentd":
        entry = {
            **attributes(record),
            "container_id": record.id,
            "container_name": f"/{record.name}",
        }
        return {**logoptions.fluentd(options), "tag": name, "record": entry}
    fields = {
        "CONTAINER_ID": record.id[:12],
        "CONTAINER_ID_FULL": record.id,
        "CONTAINER_NAME": record.name,
        "CONTAINER_TAG": name,
        "IMAGE_NAME": record.config.image,
        "SYSLOG_IDENTIFIER": name,
    }
    extra = {journal_field(key): value for key, value in attributes(record).items()}
    return {"socket": journal, "fields": {**extra, **fields}}


def journal_field(name: str) -> str:
    """A label's or variable's name as the journal allows: capitals, digits and underscores."""
    kept = "".join(
        letter if letter.isascii() and letter.isalnum() else "_" for letter in name.upper()
    )
    return kept.lstrip("_") or "FIELD"


def attributes(record: ContainerRecord) -> dict[str, str]:
    """The labels and variables that the log options ask for."""
    options = record.host.log_config.config
    variables = [item.partition("=") for item in record.config.env or []]
    environment = {name: value for name, separator, value in variables if separator}
    return {
        **_chosen(record.labels, options, "labels"),
        **_chosen(environment, options, "env"),
    }


def _chosen(values: Mapping[str, str], options: logoptions.Options, option: str) -> dict[str, str]:
    names = [name for name in options.get(option, "").split(",") if name in values]
    pattern = logoptions.pattern(options, f"{option}-regex")
    if pattern:
        names += [name for name in values if pattern.search(name)]
    return {name: values[name] for name in names}


def tag(record: ContainerRecord) -> str:
    """The container's tag.  Raises InvalidParameter for a template that does not fit."""
    text = record.host.log_config.config.get("tag") or _DEFAULT_TAG
    try:
        return Template(text).render(_Container(record))
    except TemplateError as error:
        raise InvalidParameter(f"invalid log opt 'tag': {error}") from None


class _Container:
    """What Docker's tag templates see of a container."""

    def __init__(self, record: ContainerRecord) -> None:
        image = record.image_id.removeprefix("sha256:")
        command = record.command
        variables = record.config.env or []
        self._fields: dict[str, Any] = {
            "ID": record.id[:12],
            "FullID": record.id,
            "Name": record.name,
            "ImageID": image[:12],
            "ImageFullID": record.image_id,
            "ImageName": record.config.image,
            "DaemonName": "sampan",
            "Hostname": os.uname().nodename,
            "Command": " ".join(command),
            "ContainerID": record.id,
            "ContainerName": f"/{record.name}",
            "ContainerEntrypoint": command[0] if command else "",
            "ContainerArgs": command[1:],
            "ContainerImageID": record.image_id,
            "ContainerImageName": record.config.image,
            "ContainerCreated": datetime.fromtimestamp(record.created / 1e9, UTC).isoformat(),
            "ContainerEnv": list(variables),
            "ContainerLabels": dict(record.labels),
            "Config": dict(record.host.log_config.config),
        }

    def field(self, name: str) -> Any:
        try:
            return self._fields[name]
        except KeyError:
            raise NoField(name) from None
