"""Values of flags that are small languages: ``key=value`` lists, files of variables, CSV."""

from __future__ import annotations

import os

from sampan.cli.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def refuse(message: str) -> Failure:
    """The failure for a flag whose value cannot be used."""
    return Failure(message, 125)


def bad_flag(flag: str, value: str, reason: str) -> Failure:
    """The failure for a value that is not of the flag's language."""
    return refuse(f'invalid argument "{value}" for "{flag}" flag: {reason}')


def pairs(given: Iterable[str]) -> dict[str, str]:
    """``a=b`` options as an object; a lone key has an empty value."""
    found: dict[str, str] = {}
    for text in given:
        key, _, value = text.partition("=")
        found[key] = value
    return found


def csv(text: str) -> list[str]:
    """The fields of one CSV record (RFC 4180)."""
    fields: list[str] = []
    position = 0
    while True:
        if text[position : position + 1] == '"':
            field = ""
            position += 1
            while True:
                end = text.find('"', position)
                if end < 0:
                    raise ValueError('extraneous or missing " in quoted-field')
                field += text[position:end]
                position = end + 1
                if text[position : position + 1] != '"':
                    break
                field += '"'
                position += 1
            if position < len(text) and text[position] != ",":
                raise ValueError('extraneous or missing " in quoted-field')
        else:
            end = text.find(",", position)
            end = len(text) if end < 0 else end
            field = text[position:end]
            if '"' in field:
                raise ValueError('bare " in non-quoted-field')
            position = end
        fields.append(field)
        if position >= len(text):
            return fields
        position += 1


def variables(files: Iterable[str], given: Iterable[str]) -> list[str]:
    """The environment from ``--env-file`` and ``--env``; a lone name takes the client's value."""
    found: list[str] = []
    for path in files:
        found += _from_file(path, inherit=True)
    for text in given:
        name, equals, _ = text.partition("=")
        if not name:
            raise bad_flag("-e, --env", text, "invalid environment variable: " + text)
        if equals:
            found.append(text)
        elif name in os.environ:
            found.append(f"{name}={os.environ[name]}")
    return found


def labels(files: Iterable[str], given: Iterable[str], flag: str = "-l, --label") -> dict[str, str]:
    """Labels from ``--label-file`` and ``--label``; ``flag`` is what errors call the latter."""
    lines: list[str] = []
    for path in files:
        lines += _from_file(path, inherit=False)
    for text in given:
        if text.startswith("=") or not text:
            raise bad_flag(flag, text, f"invalid label format: {text!r}")
        lines.append(text)
    return pairs(lines)


def _from_file(path: str, *, inherit: bool) -> list[str]:
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise refuse(f"open {path}: {(error.strerror or str(error)).lower()}") from None
    found: list[str] = []
    for number, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            line = raw.decode().removesuffix("\r").lstrip()
        except UnicodeDecodeError:
            raise refuse(
                f"invalid env file ({path}): invalid utf8 bytes at line {number}"
            ) from None
        if not line or line.startswith("#"):
            continue
        name, equals, _ = line.partition("=")
        if not name:
            raise refuse(f"invalid env file ({path}): no variable name on line '{line}'")
        if any(letter in name for letter in " \t"):
            raise refuse(f"invalid env file ({path}): variable '{name}' contains whitespaces")
        if equals or not inherit:
            found.append(line)
        elif name in os.environ:
            found.append(f"{name}={os.environ[name]}")
    return found
