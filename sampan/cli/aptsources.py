"""The host's APT sources, and what of them is Debian of one suite."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

APT = "/etc/apt"
_DISTRIBUTION = ("debian", "debian-security")


class Source:
    """One repository: where, which suites and components, and the keys that sign it."""

    __slots__ = ("components", "signed_by", "suites", "uri")

    def __init__(
        self, uri: str, suites: list[str], components: list[str], signed_by: str = ""
    ) -> None:
        self.uri, self.suites, self.components = uri, suites, components
        self.signed_by = signed_by

    def stanza(self) -> str:
        """The source in deb822 form."""
        lines = [
            "Types: deb",
            f"URIs: {self.uri}",
            f"Suites: {' '.join(self.suites)}",
            f"Components: {' '.join(self.components)}",
        ]
        if self.signed_by:
            lines.append(f"Signed-By: {self.signed_by}")
        return "\n".join(lines) + "\n"


def read(root: str = APT) -> list[Source]:
    """All sources of binary packages that the host uses."""
    found: list[Source] = []
    paths = [f"{root}/sources.list"]
    folder = f"{root}/sources.list.d"
    if os.path.isdir(folder):
        paths += [f"{folder}/{name}" for name in sorted(os.listdir(folder))]
    for path in paths:
        try:
            with open(path, encoding="utf-8") as file:
                text = file.read()
        except (FileNotFoundError, IsADirectoryError):
            continue
        if path.endswith(".list"):
            found += parse_lines(text)
        elif path.endswith(".sources"):
            found += parse_stanzas(text)
    return found


def parse_lines(text: str) -> list[Source]:
    """The one-line form: ``deb [signed-by=FILE] URI SUITE COMPONENT...``."""
    found = []
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if not words or words[0] != "deb":
            continue
        signed_by, rest = "", words[1:]
        if rest and rest[0].startswith("["):
            options: list[str] = []
            while rest:
                word = rest.pop(0)
                options.append(word.strip("[]"))
                if word.endswith("]"):
                    break
            for option in options:
                if option.startswith("signed-by="):
                    signed_by = option.partition("=")[2]
        if len(rest) >= 2:
            found.append(Source(rest[0], [rest[1]], rest[2:], signed_by))
    return found


def parse_stanzas(text: str) -> list[Source]:
    """The deb822 form; disabled stanzas and keys written into the file are left out."""
    found = []
    for stanza in _stanzas(text):
        if "deb" not in stanza.get("types", "").split() or stanza.get("enabled") == "no":
            continue
        signed_by = stanza.get("signed-by", "").strip()
        for uri in stanza.get("uris", "").split():
            found.append(
                Source(
                    uri,
                    stanza.get("suites", "").split(),
                    stanza.get("components", "").split(),
                    signed_by if signed_by.startswith("/") else "",
                )
            )
    return found


def _stanzas(text: str) -> Iterable[dict[str, str]]:
    current: dict[str, str] = {}
    key = ""
    for line in [*text.splitlines(), ""]:
        if line.startswith("#"):
            continue
        if not line.strip():
            if current:
                yield current
            current, key = {}, ""
        elif line[0] in " \t" and key:
            current[key] += "\n" + line.strip()
        else:
            key, _, value = line.partition(":")
            key = key.strip().lower()
            current[key] = value.strip()


def of_suite(sources: list[Source], suite: str) -> list[Source]:
    """Debian's repositories among ``sources``, for ``suite`` with its updates.

    A host of another suite lends its mirrors.
    """
    found: list[Source] = []
    for source in sources:
        if source.uri.rstrip("/").rpartition("/")[2] not in _DISTRIBUTION:
            continue
        suites = []
        for name in source.suites:
            base, dash, pocket = name.partition("-")
            if base and (not dash or pocket in ("updates", "security")):
                suites.append(f"{suite}-{pocket}" if dash else suite)
        if suites and source.components:
            found.append(
                Source(source.uri, suites, [*dict.fromkeys(source.components)], source.signed_by)
            )
    return found
