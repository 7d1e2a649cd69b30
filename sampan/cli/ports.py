"""``--publish`` and ``--expose``."""

from __future__ import annotations

from sampan.cli.values import bad_flag, csv, refuse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    Bindings = dict[str, list[dict[str, str]]]

PROTOCOLS = ("tcp", "udp", "sctp")
HIGHEST = 65535


def published(given: Iterable[str]) -> Bindings:
    """``8080:80``, ``127.0.0.1:8000-8002:80-82/udp``, ``target=80,published=8080`` as the
    API's PortBindings."""
    found: Bindings = {}
    for text in given:
        address, host, container, protocol = _split(_short_form(text))
        first, last = _range(container, "invalid containerPort: {}")
        low, high = _range(host, "invalid hostPort: {}") if host else (0, -1)
        spread = host and high - low == last - first
        if host and not spread and (first != last):
            raise refuse(
                f"invalid ranges specified for container and host Ports: {container} and {host}"
            )
        for number in range(first, last + 1):
            if not host:
                host_port = ""
            elif spread:
                host_port = str(low + number - first)
            else:
                host_port = f"{low}-{high}"
            binding = {"HostIp": address, "HostPort": host_port}
            found.setdefault(f"{number}/{protocol}", []).append(binding)
    return found


def exposed(given: Iterable[str]) -> list[str]:
    """``80``, ``80/udp``, ``7000-7002`` as ``80/tcp`` and so on."""
    found: list[str] = []
    for text in given:
        if ":" in text:
            raise refuse(f"invalid port format for --expose: {text}")
        numbers, slash, protocol = text.partition("/")
        protocol = protocol.lower() if slash else "tcp"
        if protocol not in PROTOCOLS:
            raise refuse(f"invalid port format for --expose: {text}: invalid proto: {protocol}")
        first, last = _range(numbers, f"invalid range format for --expose: {text}")
        found += [f"{number}/{protocol}" for number in range(first, last + 1)]
    return found


def _short_form(text: str) -> str:
    """The long syntax rewritten as the short one."""
    if "=" not in text:
        return text
    keys: dict[str, str] = {}
    try:
        fields = csv(text)
    except ValueError as error:
        raise bad_flag("-p, --publish", text, str(error)) from None
    for field in fields:
        key, equals, value = field.partition("=")
        if not equals:
            raise bad_flag("-p, --publish", text, f"invalid field: {field}")
        if key not in ("protocol", "mode", "target", "published"):
            raise bad_flag("-p, --publish", text, f"invalid field key: {key}")
        keys[key] = value
    if keys.get("mode", "ingress") not in ("ingress", "host"):
        raise bad_flag("-p, --publish", text, f"invalid publish mode value: {keys['mode']}")
    if "target" not in keys:
        raise bad_flag("-p, --publish", text, "missing mandatory field 'target'")
    host = f"{keys['published']}:" if keys.get("published") else ""
    return f"{host}{keys['target']}/{keys.get('protocol', 'tcp')}"


def _split(text: str) -> tuple[str, str, str, str]:
    body, slash, protocol = text.rpartition("/")
    if not slash:
        body, protocol = text, "tcp"
    protocol = protocol.lower()
    if protocol not in PROTOCOLS:
        raise refuse(f"invalid proto: {protocol}")
    left, _, container = body.rpartition(":")
    address = host = ""
    if left.startswith("["):
        inside, bracket, host = left[1:].partition("]")
        if not bracket or (host and host[0] != ":"):
            raise refuse(f"invalid IP address: {left}")
        address, host = inside, host[1:]
    elif left.count(":") > 1:
        raise refuse(f"invalid IP address: {left.rpartition(':')[0]}")
    elif ":" in left:
        address, _, host = left.partition(":")
    else:
        host = left
    if address:
        _check_address(address)
    if not container:
        raise refuse(f"no port specified: {text}<empty>")
    return address, host, container, protocol


def _check_address(address: str) -> None:
    import _socket

    for family in (_socket.AF_INET, _socket.AF_INET6):
        try:
            _socket.inet_pton(family, address.partition("%")[0])
            return
        except OSError:
            continue
    raise refuse(f"invalid IP address: {address}")


def _range(text: str, complaint: str) -> tuple[int, int]:
    low, dash, high = text.partition("-")
    high = high if dash else low
    if not (low.isascii() and low.isdigit() and high.isascii() and high.isdigit()):
        raise refuse(complaint.format(text))
    first, last = int(low), int(high)
    if not first <= last <= HIGHEST:
        raise refuse(complaint.format(text))
    return first, last
