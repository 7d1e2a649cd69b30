"""What this engine and its host are: ``info``, ``version`` and ``ping``."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sampan import __version__
from sampan.engine import logoptions
from sampan.engine.containers import Containers
from sampan.engine.events import Events
from sampan.engine.runtimes import Runtimes
from sampan.runtime import cgroups

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}
API_NEWEST, API_OLDEST = "1.51", "1.24"


@dataclass(frozen=True, slots=True)
class Facts:
    """What is fixed while the daemon runs."""

    state_dir: str
    storage_driver: str
    storage_status: list[list[str]] = field(default_factory=list)
    log_driver: str = "local"
    labels: list[str] = field(default_factory=list)
    insecure_registries: list[str] = field(default_factory=list)
    registry_mirrors: list[str] = field(default_factory=list)
    default_registry: str = ""
    debug: bool = False
    host_id: str = ""
    default_address_pools: list[dict[str, Any]] = field(default_factory=list)
    runtimes: Runtimes = field(default_factory=Runtimes)
    cdi_directories: list[str] = field(default_factory=list)
    remapped: bool = False
    cgroup_driver: str = "cgroupfs"
    apparmor: bool = False


class System:
    """Answers about the whole."""

    def __init__(
        self,
        facts: Facts,
        containers: Containers,
        events: Events,
        count_images: Callable[[], int],
    ) -> None:
        self._facts = facts
        self._containers = containers
        self._events = events
        self._count_images = count_images

    def version(self) -> dict[str, Any]:
        """Docker's ``GET /version``."""
        kernel = os.uname().release
        common = {
            "Version": __version__,
            "ApiVersion": API_NEWEST,
            "MinAPIVersion": API_OLDEST,
            "Os": "linux",
            "Arch": architecture(),
            "KernelVersion": kernel,
            "BuildTime": "",
            "GitCommit": "",
            "GoVersion": "",
        }
        details = {
            "ApiVersion": API_NEWEST,
            "Arch": architecture(),
            "BuildTime": "",
            "Experimental": "false",
            "GitCommit": "",
            "GoVersion": "",
            "KernelVersion": kernel,
            "MinAPIVersion": API_OLDEST,
            "Os": "linux",
            "PythonVersion": platform.python_version(),
        }
        component = {"Name": "Engine", "Version": __version__, "Details": details}
        return {
            "Platform": {"Name": f"sampan {__version__}"},
            "Components": [component],
            **common,
        }

    def info(self) -> dict[str, Any]:
        """Docker's ``GET /info``."""
        facts = self._facts
        states = [container.record.state.status for container in self._containers.all()]
        paused = states.count("paused")
        running = states.count("running") + states.count("restarting")
        release = _os_release()
        version = cgroups.version()
        return {
            "ID": facts.host_id,
            "Containers": len(states),
            "ContainersRunning": running,
            "ContainersPaused": paused,
            "ContainersStopped": len(states) - paused - running,
            "Images": self._count_images(),
            "Driver": facts.storage_driver,
            "DriverStatus": facts.storage_status,
            "Plugins": {
                "Volume": ["local"],
                "Network": ["bridge", "host", "ipvlan", "macvlan", "null"],
                "Authorization": None,
                "Log": list(logoptions.DRIVERS),
            },
            "MemoryLimit": True,
            "SwapLimit": _swap_limit(version),
            "CpuCfsPeriod": True,
            "CpuCfsQuota": True,
            "CPUShares": True,
            "CPUSet": True,
            "PidsLimit": True,
            "IPv4Forwarding": _enabled("net/ipv4/ip_forward"),
            "Debug": facts.debug,
            "NFd": len(os.listdir("/proc/self/fd")),
            "OomKillDisable": version == 1,
            **({"KernelMemoryTCP": True} if version == 1 else {}),
            "NGoroutines": 1,
            "SystemTime": datetime.now(UTC)
            .isoformat(timespec="microseconds")
            .replace("+00:00", "Z"),
            "LoggingDriver": facts.log_driver,
            "CgroupDriver": facts.cgroup_driver,
            "CgroupVersion": str(version),
            "NEventsListener": self._events.listeners,
            "KernelVersion": os.uname().release,
            "OperatingSystem": release.get("PRETTY_NAME", "Linux"),
            "OSVersion": release.get("VERSION_ID", ""),
            "OSType": "linux",
            "Architecture": platform.machine(),
            "IndexServerAddress": facts.default_registry,
            "RegistryConfig": {
                "InsecureRegistryCIDRs": ["::1/128", "127.0.0.0/8"],
                "IndexConfigs": {
                    name: {"Name": name, "Mirrors": [], "Secure": False, "Official": False}
                    for name in facts.insecure_registries
                },
                "Mirrors": facts.registry_mirrors,
            },
            "NCPU": os.cpu_count() or 1,
            "MemTotal": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "GenericResources": None,
            "DockerRootDir": facts.state_dir,
            "HttpProxy": os.environ.get("HTTP_PROXY", ""),
            "HttpsProxy": os.environ.get("HTTPS_PROXY", ""),
            "NoProxy": os.environ.get("NO_PROXY", ""),
            "Name": os.uname().nodename,
            "Labels": facts.labels,
            "ExperimentalBuild": False,
            "ServerVersion": __version__,
            "Runtimes": facts.runtimes.document(),
            "DefaultRuntime": facts.runtimes.default,
            "Swarm": {
                "NodeID": "",
                "NodeAddr": "",
                "LocalNodeState": "inactive",
                "ControlAvailable": False,
                "Error": "",
                "RemoteManagers": None,
            },
            "LiveRestoreEnabled": True,
            "Isolation": "",
            "InitBinary": "sampan-init",
            "ContainerdCommit": {"ID": ""},
            "RuncCommit": {"ID": ""},
            "InitCommit": {"ID": ""},
            "SecurityOptions": [
                *(["name=apparmor"] if facts.apparmor else []),
                "name=seccomp,profile=builtin",
                *(["name=userns"] if facts.remapped else []),
                *(["name=cgroupns"] if version == 2 else []),
            ],
            "DefaultAddressPools": facts.default_address_pools,
            "CDISpecDirs": facts.cdi_directories,
            "Warnings": None,
        }


def architecture() -> str:
    """The machine's architecture by its OCI name."""
    machine = platform.machine()
    return ARCHITECTURES.get(machine, machine)


def _enabled(sysctl: str) -> bool:
    try:
        return Path("/proc/sys", sysctl).read_text().strip() == "1"
    except OSError:
        return False


def _swap_limit(version: int) -> bool:
    return version == 2 or Path("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists()


def _os_release() -> dict[str, str]:
    try:
        lines = Path("/etc/os-release").read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.partition("=") for line in lines if "=" in line)
    return {key: value.strip("\"'") for key, _, value in pairs}
