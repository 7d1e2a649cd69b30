"""From the flags of ``run`` and ``create`` to the body of ``POST /containers/create``."""

from __future__ import annotations

from sampan.cli import netopts, resources, values
from sampan.cli.values import bad_flag, refuse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.flags import Options
    from sampan.cli.ports import Bindings

_SIMPLE_HOST = {
    "cap-add": "CapAdd",
    "cap-drop": "CapDrop",
    "cgroupns": "CgroupnsMode",
    "cidfile": "ContainerIDFile",
    "dns": "Dns",
    "dns-option": "DnsOptions",
    "dns-search": "DnsSearch",
    "group-add": "GroupAdd",
    "init": "Init",
    "ipc": "IpcMode",
    "isolation": "Isolation",
    "link": "Links",
    "oom-score-adj": "OomScoreAdj",
    "pid": "PidMode",
    "privileged": "Privileged",
    "publish-all": "PublishAllPorts",
    "read-only": "ReadonlyRootfs",
    "rm": "AutoRemove",
    "runtime": "Runtime",
    "shm-size": "ShmSize",
    "userns": "UsernsMode",
    "uts": "UTSMode",
    "volume-driver": "VolumeDriver",
    "volumes-from": "VolumesFrom",
}
_MAPS_HOST = {
    "annotation": "Annotations",
    "storage-opt": "StorageOpt",
    "sysctl": "Sysctls",
}
_SIMPLE_CONFIG = {
    "domainname": "Domainname",
    "hostname": "Hostname",
    "mac-address": "MacAddress",
    "stop-signal": "StopSignal",
    "stop-timeout": "StopTimeout",
    "user": "User",
    "workdir": "WorkingDir",
}
_HEALTH = {
    "health-interval": "Interval",
    "health-retries": "Retries",
    "health-start-interval": "StartInterval",
    "health-start-period": "StartPeriod",
    "health-timeout": "Timeout",
}
STREAMS = ("stdin", "stdout", "stderr")


def body(
    options: Options, arguments: list[str], *, detach: bool, proxies: dict[str, str]
) -> dict[str, Any]:
    """The request's body; ``proxies`` are variables that the user's configuration adds.

    :raises Failure: a value that is not of its flag's language, or two flags in conflict.
    """
    config: dict[str, Any] = {"Image": arguments[0]}
    config.update(_attachments(options, detach))
    config.update(
        {key: options[flag] for flag, key in _SIMPLE_CONFIG.items() if options.given(flag)}
    )
    config["Tty"] = options["tty"]
    config["OpenStdin"] = options["interactive"]
    config["StdinOnce"] = options["interactive"] and config["AttachStdin"]
    environment = values.variables(options["env-file"], options["env"])
    named = {text.partition("=")[0] for text in environment}
    config["Env"] = environment + [
        f"{name}={value}" for name, value in proxies.items() if name not in named
    ]
    config["Labels"] = values.labels(options["label-file"], options["label"])
    if arguments[1:]:
        config["Cmd"] = arguments[1:]
    if options.given("entrypoint"):
        config["Entrypoint"] = [options["entrypoint"]]
    health = _health(options)
    if health is not None:
        config["Healthcheck"] = health
    bindings: Bindings = {}
    if options["publish"] or options["expose"]:
        from sampan.cli import ports

        bindings = ports.published(options["publish"])
        open_ports = [*bindings, *ports.exposed(options["expose"])]
        config["ExposedPorts"] = {port: {} for port in open_ports}
    binds: list[str] = []
    if options["volume"]:
        from sampan.cli import mounts

        binds, anonymous = mounts.volumes(options["volume"])
        if anonymous:
            config["Volumes"] = {path: {} for path in anonymous}
    mode, endpoints = netopts.networks(options)
    config["HostConfig"] = _host(options, bindings, binds, mode)
    config["NetworkingConfig"] = {"EndpointsConfig": endpoints}
    return config


def _attachments(options: Options, detach: bool) -> dict[str, bool]:
    wanted = [name.lower() for name in options["attach"]]
    for name in wanted:
        if name not in STREAMS:
            raise bad_flag("-a, --attach", name, "valid streams are STDIN, STDOUT and STDERR")
    if detach:
        if wanted:
            raise refuse("conflicting options: cannot specify both --attach and --detach")
        return {"AttachStdin": False, "AttachStdout": False, "AttachStderr": False}
    if not wanted:
        return {
            "AttachStdin": options["interactive"],
            "AttachStdout": True,
            "AttachStderr": True,
        }
    return {f"Attach{name.capitalize()}": name in wanted for name in STREAMS}


def _health(options: Options) -> dict[str, Any] | None:
    given = [flag for flag in ("health-cmd", *_HEALTH) if options.given(flag)]
    if options["no-healthcheck"]:
        if given:
            raise refuse("--no-healthcheck conflicts with --health-* options")
        return {"Test": ["NONE"]}
    if not given:
        return None
    for flag in given:
        if flag != "health-cmd" and options[flag] < 0:
            raise refuse(f"--{flag} cannot be negative")
    health: dict[str, Any] = {
        key: options[flag] for flag, key in _HEALTH.items() if options.given(flag)
    }
    if options["health-cmd"]:
        health["Test"] = ["CMD-SHELL", options["health-cmd"]]
    return health


def _host(options: Options, bindings: Bindings, binds: list[str], mode: str) -> dict[str, Any]:
    host: dict[str, Any] = {"NetworkMode": mode}
    host.update({key: options[flag] for flag, key in _SIMPLE_HOST.items() if options.given(flag)})
    host.update(
        {key: values.pairs(options[flag]) for flag, key in _MAPS_HOST.items() if options[flag]}
    )
    host.update(resources.limits(options))
    if bindings:
        host["PortBindings"] = bindings
    if binds:
        host["Binds"] = binds
    if options["mount"] or options["tmpfs"]:
        from sampan.cli import mounts

        if options["mount"]:
            host["Mounts"] = [mounts.mount(text) for text in options["mount"]]
        if options["tmpfs"]:
            host["Tmpfs"] = mounts.tmpfs(options["tmpfs"])
    if options["add-host"]:
        host["ExtraHosts"] = [extra_host(text) for text in options["add-host"]]
    if options["log-driver"] or options["log-opt"]:
        if options["log-driver"] == "none" and options["log-opt"]:
            raise refuse("invalid logging opts for driver none")
        host["LogConfig"] = {
            "Type": options["log-driver"],
            "Config": values.pairs(options["log-opt"]),
        }
    if options["security-opt"]:
        found, unconfined = resources.security(options["security-opt"])
        host["SecurityOpt"] = found
        if unconfined:
            host["MaskedPaths"], host["ReadonlyPaths"] = [], []
    host["RestartPolicy"] = restart_policy(options["restart"])
    if options["rm"] and host["RestartPolicy"]["Name"] not in ("no", ""):
        raise refuse("conflicting options: cannot specify both --restart and --rm")
    return host


def restart_policy(text: str) -> dict[str, Any]:
    """``on-failure:3`` as the API's RestartPolicy."""
    name, colon, count = text.partition(":")
    if colon and not name:
        raise refuse("invalid restart policy format: no policy provided before colon")
    if colon and not (count.isascii() and count.lstrip("-").isdigit()):
        raise refuse("invalid restart policy format: maximum retry count must be an integer")
    return {"Name": name or "no", "MaximumRetryCount": int(count) if colon else 0}


def extra_host(text: str) -> str:
    """``name:address`` or ``name=address`` as the API has it."""
    name, separator, address = text.partition("=" if "=" in text else ":")
    if not separator or not name:
        raise bad_flag("--add-host", text, f'bad format for add-host: "{text}"')
    if address.startswith("[") and address.endswith("]"):
        address = address[1:-1]
    if address != "host-gateway":
        import _socket

        for family in (_socket.AF_INET, _socket.AF_INET6):
            try:
                _socket.inet_pton(family, address)
                break
            except OSError:
                continue
        else:
            raise bad_flag("--add-host", text, f'invalid IP address in add-host: "{address}"')
    return f"{name}:{address}"


def proxies(config: dict[str, Any], address: str) -> dict[str, str]:
    """The proxy variables of the user's configuration for the daemon at ``address``."""
    all_settings = config.get("proxies") or {}
    found = all_settings.get(address) or all_settings.get("default") or {}
    variables: dict[str, str] = {}
    for key, name in (
        ("httpProxy", "HTTP_PROXY"),
        ("httpsProxy", "HTTPS_PROXY"),
        ("noProxy", "NO_PROXY"),
        ("ftpProxy", "FTP_PROXY"),
        ("allProxy", "ALL_PROXY"),
    ):
        if found.get(key):
            variables[name] = variables[name.lower()] = str(found[key])
    return variables
