"""What a container may ask for: malformed, contradictory and unsupported options are refused.  Pure.

Everything that the engine does not do is refused here by name, so that no option is ever ignored.
"""

from __future__ import annotations

import re
import signal

from sampan import ulimits
from sampan.engine import logoptions, resources
from sampan.engine.types import ContainerConfig, HostConfig
from sampan.errors import InvalidParameter, Unsupported
from sampan.linux import lsm

_HOSTNAME_LENGTH = 64
_PORT = re.compile(r"\d+(?:-\d+)?(?:/(?:tcp|udp|sctp))?\Z")
_LABEL = re.compile(r"disable|nested|(?:user|role|type|level|filetype):.+")
_SAFE_SYSCTLS = ("net.", "fs.mqueue.", "kernel.msg", "kernel.sem", "kernel.shm")


def check(config: ContainerConfig, host: HostConfig) -> None:
    """Raises InvalidParameter or Unsupported for the first thing that is wrong."""
    _check_config(config)
    resources.check(host)
    _check_namespaces(host)
    _check_lifetime(host)
    _check_security(host)
    _check_ulimits(host)
    log = host.log_config
    logoptions.check(log.type or "local", log.config)
    _check_unsupported(host)
    if "" in (host.annotations or {}):
        raise InvalidParameter(
            "invalid Annotations: the empty string is not permitted as an annotation key"
        )
    for port in [*(config.exposed_ports or {}), *host.port_bindings]:
        if not _PORT.match(port):
            raise InvalidParameter(f"invalid port specification: {port!r}")


def _check_config(config: ContainerConfig) -> None:
    for what, name in (("hostname", config.hostname), ("domainname", config.domainname)):
        # As Docker's engine: whatever the kernel takes; but no second line for /etc/hosts.
        if not all(letter.isprintable() for letter in name):
            raise InvalidParameter(f"invalid {what}: {name!r}")
    if len(config.hostname.encode()) > _HOSTNAME_LENGTH:
        raise InvalidParameter(
            f"invalid hostname: {config.hostname!r} is longer than {_HOSTNAME_LENGTH} bytes"
        )
    if config.working_dir and not config.working_dir.startswith("/"):
        raise InvalidParameter(
            f"the working directory '{config.working_dir}' is invalid, it needs to be an "
            "absolute path"
        )
    for item in config.env or []:
        if not item or item.startswith("="):
            raise InvalidParameter(f"invalid environment variable: {item}")
    if config.stop_signal:
        signal_number(config.stop_signal)
    health = config.healthcheck
    if health is None:
        return
    for name, value in (
        ("Interval", health.interval),
        ("Timeout", health.timeout),
        ("StartPeriod", health.start_period),
        ("StartInterval", health.start_interval),
    ):
        if value < 0 or 0 < value < 1_000_000:
            raise InvalidParameter(f"{name} in Healthcheck cannot be less than 1ms")
    if health.retries < 0:
        raise InvalidParameter("Retries in Healthcheck cannot be negative")
    if health.test and health.test[0] not in ("NONE", "CMD", "CMD-SHELL"):
        raise InvalidParameter(f"unknown type of health check: {health.test[0]!r}")


def signal_number(text: str) -> int:
    """A signal by number or name (``9``, ``KILL``, ``SIGKILL``, ``RTMIN+3``).

    Raises InvalidParameter with Docker's wording.
    """
    wrong = InvalidParameter(f"invalid signal: {text}")
    if text.isdecimal():
        number = int(text)
        if not 1 <= number <= signal.SIGRTMAX:
            raise wrong
        return number
    name = text.upper().removeprefix("SIG")
    base, sign, offset = name.partition("+") if "+" in name else name.partition("-")
    try:
        value = int(signal.Signals[f"SIG{base}"])
        if sign:
            value += int(offset) if sign == "+" else -int(offset)
    except (KeyError, ValueError):
        raise wrong from None
    if not 1 <= value <= signal.SIGRTMAX:
        raise wrong
    return value


def _check_namespaces(host: HostConfig) -> None:
    for option, mode, kinds in (
        ("IPC", host.ipc_mode, ("", "none", "private", "shareable", "host")),
        ("PID", host.pid_mode, ("", "host")),
        ("UTS", host.uts_mode, ("", "host")),
        ("cgroup namespace", host.cgroupns_mode, ("", "private", "host")),
    ):
        shared = mode.startswith("container:") and option in ("IPC", "PID")
        if shared and mode == "container:":
            raise InvalidParameter(f"invalid {option} mode: {mode}")
        if mode not in kinds and not shared:
            raise InvalidParameter(f"invalid {option} mode: {mode}")
    if host.userns_mode not in ("", "host"):
        raise InvalidParameter(f"invalid USER mode: {host.userns_mode}")
    if host.cgroup:
        raise Unsupported("the Cgroup option (a cgroup of another container) is not supported")
    if host.isolation not in ("", "default"):
        raise InvalidParameter(f"invalid isolation: {host.isolation!r} on linux")
    for name in host.sysctls or {}:
        if not name.startswith(_SAFE_SYSCTLS):
            raise InvalidParameter(f"sysctl '{name}' is not in a separate kernel namespace")
        if name.startswith("net.") and host.network_mode == "host":
            raise InvalidParameter(f"sysctl '{name}' not allowed in host network namespace")
        if not name.startswith("net.") and host.ipc_mode == "host":
            raise InvalidParameter(f"sysctl '{name}' not allowed in host ipc namespace")


def _check_lifetime(host: HostConfig) -> None:
    policy = host.restart_policy
    if policy.name not in ("", "no", "always", "on-failure", "unless-stopped"):
        raise InvalidParameter(
            f"invalid restart policy: unknown policy '{policy.name}'; use one of 'no', 'always', "
            "'on-failure', or 'unless-stopped'"
        )
    if policy.maximum_retry_count < 0:
        raise InvalidParameter("invalid restart policy: maximum retry count cannot be negative")
    if policy.maximum_retry_count and policy.name != "on-failure":
        raise InvalidParameter(
            "invalid restart policy: maximum retry count can only be used with 'on-failure'"
        )
    if host.auto_remove and policy.name not in ("", "no"):
        raise InvalidParameter("can't create 'AutoRemove' container with restart policy")


def _check_security(host: HostConfig) -> None:
    for option in host.security_opt or []:
        name, separator, value = option.partition("=")
        if not separator:
            name, separator, value = option.partition(":")
        if name == "no-new-privileges" and value in ("", "true", "false"):
            continue
        if name == "seccomp" and value:
            continue
        if name == "systempaths" and value == "unconfined":
            continue
        if name == "writable-cgroups" and value in ("", "true", "false"):
            continue
        if name == "apparmor" and value:
            continue  # on a host without AppArmor it means nothing, as under Docker
        if name == "label" and _LABEL.fullmatch(value):
            if value != "disable" and lsm.has_selinux():
                raise Unsupported(
                    f"security option {option!r} is not supported: the engine gives no SELinux "
                    "labels; label=disable says so"
                )
            continue
        raise InvalidParameter(f"invalid --security-opt: {option!r}")
    if not -1000 <= host.oom_score_adj <= 1000:
        raise InvalidParameter(
            f"Invalid value {host.oom_score_adj}, range for oom score adj is [-1000, 1000]"
        )
    if host.shm_size < 0:
        raise InvalidParameter("SHM size can not be less than 0")


def _check_ulimits(host: HostConfig) -> None:
    for limit in host.ulimits or []:
        if limit.name not in ulimits.NAMES:
            raise InvalidParameter(f"invalid ulimit type: {limit.name}")
        if limit.hard != -1 and (limit.soft == -1 or limit.soft > limit.hard):
            raise InvalidParameter(
                f"ulimit soft limit must be less than or equal to hard limit: "
                f"{limit.soft} > {limit.hard}"
            )


def storage_size(host: HostConfig) -> int:
    """The bytes that a container may write to its root, 0 for no limit.  Raises
    InvalidParameter."""
    size = 0
    for name, text in (host.storage_opt or {}).items():
        if name != "size":
            raise InvalidParameter(f"unknown option in storage-opt: {name} (only size is known)")
        size = logoptions.size(text)
        if size <= 0:
            raise InvalidParameter(f"invalid storage-opt size: {text!r}")
    return size


def _check_unsupported(host: HostConfig) -> None:
    storage_size(host)
