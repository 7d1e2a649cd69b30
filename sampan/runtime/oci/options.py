"""Options of a command line, in the forms that Go's and glibc's parsers take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sampan.runtime.oci.errors import OciError


class Options:
    """What was given: values by the option's first name, and the other arguments."""

    def __init__(self) -> None:
        self.values: dict[str, list[str]] = {}
        self.arguments: list[str] = []

    def flag(self, name: str) -> bool:
        """Whether a flag was given, and not as ``=false``."""
        return self.values.get(name, ["false"])[-1] in ("true", "1")

    def text(self, name: str, default: str = "") -> str:
        """The last value."""
        return self.values.get(name, [default])[-1]

    def given(self, name: str) -> bool:
        return name in self.values

    def all(self, name: str) -> list[str]:
        return self.values.get(name, [])

    def number(self, name: str, default: int = 0) -> int:
        """Raises OciError for what is no number."""
        text = self.text(name)
        if not text:
            return default
        try:
            return int(text)
        except ValueError:
            raise OciError(f"--{name} wants a number, not {text!r}") from None


def parse(
    words: Sequence[str],
    flags: str,
    valued: str,
    short: Mapping[str, str] | None = None,
    *,
    mixed: bool = False,
) -> Options:
    """Read options up to the first other word (``mixed``: anywhere before ``--``).

    ``flags`` and ``valued`` are the names, separated by spaces; ``short`` maps letters to them.
    Raises OciError for an unknown option.
    """
    known_flags, known_valued, letters = flags.split(), valued.split(), short or {}
    result = Options()
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            result.arguments += rest
            break
        if not word.startswith("-") or word == "-":
            result.arguments.append(word)
            if not mixed:
                result.arguments += rest
                break
            continue
        name, equals, value = word.lstrip("-").partition("=")
        if not word.startswith("--") and name not in (*known_flags, *known_valued):
            rest = [*_spelled_out(word[1:], known_flags, letters), *rest]
            continue
        if name in known_flags:
            result.values.setdefault(name, []).append(value if equals else "true")
        elif name in known_valued:
            if not equals:
                if not rest:
                    raise OciError(f"option --{name} needs a value")
                value = rest.pop(0)
            result.values.setdefault(name, []).append(value)
        else:
            raise OciError(f"unknown option {word}")
    return result


def _spelled_out(word: str, flags: Sequence[str], letters: Mapping[str, str]) -> list[str]:
    """Letters with their options' names: ``te`` followed by a value, ``eNAME=VALUE``, ``t=false``."""
    found: list[str] = []
    while word:
        name = letters.get(word[0])
        if name is None:
            raise OciError(f"unknown option -{word}")
        word = word[1:]
        if word.startswith("=") or (word and name not in flags):
            return [*found, f"--{name}={word.removeprefix('=')}"]
        found.append(f"--{name}")
    return found
