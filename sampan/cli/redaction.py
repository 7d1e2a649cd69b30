"""Take secrets out of what is going to be shown to others.

Environment variables keep their names and lose their values.  Labels, options and other fields
whose names look secret lose theirs, as do words of command lines.  A value that was taken out in
one place is taken out wherever it stands.
"""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

REMOVED = "<removed>"
_SECRET = (
    r"pass(?:w(?:or)?d|phrase|wd)?|pwd|secret|token|api[-_.]?key|private[-_.]?key|access[-_.]?key"
    r"|credential|auth(?!or)|cookie|session|salt|signature|license|dsn"
)
_NAME = re.compile(
    rf"(?i)(?:^|[^a-z])(?:{_SECRET})s?(?:$|[^a-z])|(?:password|passwd|secret|token|apikey)s?$"
)
# NAME=value and NAME: value, as in command lines and logs.
_PAIR = re.compile(rf"(?i)([\w.-]*(?:{_SECRET})s?[\"']?(?:=|:\s*))(\"[^\"]*\"|'[^']*'|[^\s,;\"']+)")
_HEADER = re.compile(
    r"(?i)((?:proxy-|x-registry-)?auth(?:orization)?\s*:\s*(?:basic|bearer)?\s*)\S+"
)
_USERINFO = re.compile(r"(\w[\w+.-]*://)[^/\s@\"']+@")
_KEY_BLOCK = re.compile(r"-----BEGIN [^-]*PRIVATE KEY-----.*?-----END [^-]*PRIVATE KEY-----", re.S)
_SHORTEST = 6
# Fields that look secret by their names and are not.
_HARMLESS = frozenset({"Authorization", "SecurityOptions", "SecurityOpt"})


def looks_secret(name: str) -> bool:
    """Whether something of this name is likely to be a secret."""
    return name not in _HARMLESS and bool(_NAME.search(re.sub(r"([a-z])([A-Z])", r"\1_\2", name)))


class Redactor:
    """Takes secrets out of documents and texts; remembers what they were.

    Documents first: :meth:`text` then finds their secrets again.
    """

    def __init__(self) -> None:
        self._known: set[str] = set()

    def document(self, value: Any) -> Any:
        """A JSON value without its secrets."""
        return self._walk("", value)

    def _walk(self, name: str, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self._walk(key, item) for key, item in value.items()}
        if isinstance(value, list):
            if name in ("Env", "env", "Environment"):
                return [self._variable(item) for item in value]
            return self._arguments(name, value)
        if isinstance(value, str) and value:
            if looks_secret(name):
                return self._remove(value)
            return self._patterns(value)
        return value

    def _variable(self, item: Any) -> Any:
        name, separator, value = str(item).partition("=")
        if looks_secret(name):
            self._remove(value)
        return f"{name}={REMOVED}" if separator else item

    def _arguments(self, name: str, items: list[Any]) -> list[Any]:
        """Words of a command line: after ``--password`` comes a secret."""
        found: list[Any] = []
        secret = False
        for item in items:
            if isinstance(item, str):
                if secret and not item.startswith("-"):
                    found.append(self._remove(item))
                    secret = False
                    continue
                secret = item.startswith("-") and "=" not in item and looks_secret(item)
            found.append(self._walk(name, item))
        return found

    def _remove(self, value: str) -> str:
        if len(value) >= _SHORTEST:
            self._known.add(value)
        return REMOVED if value else value

    def _patterns(self, text: str) -> str:
        text = _KEY_BLOCK.sub(REMOVED, text)
        text = _USERINFO.sub(rf"\1{REMOVED}@", text)
        text = _HEADER.sub(rf"\1{REMOVED}", text)
        return _PAIR.sub(lambda found: found[1] + self._remove(found[2].strip("\"'")), text)

    def text(self, text: str) -> str:
        """A text without what looks secret, and without what :meth:`document` has removed."""
        return self.known(self._patterns(text))

    def known(self, text: str) -> str:
        """A text without what was removed before."""
        for value in sorted(self._known - {REMOVED}, key=len, reverse=True):
            text = text.replace(value, REMOVED)
        return text
