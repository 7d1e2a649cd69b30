"""A container's configuration is the client's, completed by the image's.  Pure."""

from __future__ import annotations

import msgspec

from sampan.engine.types import ContainerConfig, Healthcheck
from sampan.errors import InvalidParameter
from sampan.image.config import RunConfig


def merge(user: ContainerConfig, image: RunConfig) -> ContainerConfig:
    """``user`` with what it leaves out taken from ``image``.

    The image's command is used only if the client overrides neither command nor entry point; an
    entry point of ``[""]`` resets the image's.  Raises InvalidParameter: no command at all.
    """
    entrypoint, cmd = user.entrypoint, user.cmd
    if not entrypoint:
        cmd = cmd or image.cmd
        entrypoint = image.entrypoint if entrypoint is None else None
    elif entrypoint == [""]:
        entrypoint = None
    merged = msgspec.structs.replace(
        user,
        user=user.user or image.user,
        exposed_ports={**(image.exposed_ports or {}), **(user.exposed_ports or {})} or None,
        env=_environment(user.env or [], image.env or []),
        entrypoint=entrypoint or None,
        cmd=cmd or None,
        volumes={**(image.volumes or {}), **(user.volumes or {})} or None,
        working_dir=user.working_dir or image.working_dir,
        labels={**(image.labels or {}), **(user.labels or {})},
        stop_signal=user.stop_signal or image.stop_signal,
        stop_timeout=user.stop_timeout if user.stop_timeout is not None else image.stop_timeout,
        shell=user.shell or image.shell,
        healthcheck=_health(user.healthcheck, image),
    )
    if not [*(merged.entrypoint or []), *(merged.cmd or [])]:
        raise InvalidParameter("no command specified")
    return merged


def _environment(user: list[str], image: list[str]) -> list[str]:
    """The client's variables, then those of the image that it does not set."""
    names = {item.partition("=")[0] for item in user}
    return [*user, *(item for item in image if item.partition("=")[0] not in names)]


def _health(user: Healthcheck | None, image: RunConfig) -> Healthcheck | None:
    if image.healthcheck is None:
        return user
    names = Healthcheck.__struct_fields__
    base = Healthcheck(**{name: getattr(image.healthcheck, name) for name in names})
    if user is None:
        return base
    if user.test and user.test[0] == "NONE":
        return user
    return Healthcheck(**{name: getattr(user, name) or getattr(base, name) for name in names})
