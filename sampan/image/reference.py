"""Image references as Docker reads them: ``ubuntu`` → ``docker.io/library/ubuntu:latest``.

The grammar is that of the distribution project's ``reference`` package::

    reference  = name [ ":" tag ] [ "@" digest ]
    name       = [ domain "/" ] path
    domain     = ( host | "[" IPv6 "]" ) [ ":" port ]
    path       = component { "/" component }
    component  = alphanumeric { separator alphanumeric }      separator: "_", "__", ".", "-"+
    tag        = [A-Za-z0-9_] [A-Za-z0-9_.-]{0,127}

A text is *familiar* when the default domain, ``library/`` and nothing else are left out; people
type and read that form.  A :class:`Reference` always holds the normalised form.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

DEFAULT_DOMAIN = "docker.io"
LEGACY_DEFAULT_DOMAIN = "index.docker.io"
OFFICIAL_PREFIX = "library/"
DEFAULT_TAG = "latest"
MAX_NAME_LENGTH = 255

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_HOST_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = rf"(?:{_HOST_LABEL}(?:\.{_HOST_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_PATH = rf"{_COMPONENT}(?:/{_COMPONENT})*"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_DIGEST = r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}"

_PATH_RE = re.compile(_PATH, re.ASCII)
_TAG_RE = re.compile(_TAG, re.ASCII)
_DOMAIN_RE = re.compile(_DOMAIN, re.ASCII)
_REFERENCE_RE = re.compile(
    rf"(?P<name>(?:{_DOMAIN}/)?{_PATH})(?::(?P<tag>{_TAG}))?(?:@(?P<digest>{_DIGEST}))?", re.ASCII
)
_IDENTIFIER_RE = re.compile(r"[a-f0-9]{64}", re.ASCII)
_HEX_LENGTH = {"sha256": 64, "sha384": 96, "sha512": 128}


class InvalidReference(ValueError):
    """A text that is not an image reference; the message is Docker's."""


@dataclass(frozen=True, slots=True, order=True)
class Reference:
    """A repository, with a tag, a digest, both or neither.

    ``domain`` is a registry's host with its port, ``path`` the repository in it; ``docker.io``
    stands for the configured default hub.
    """

    domain: str
    path: str
    tag: str | None = None
    digest: str | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read ``text``; without tag and digest it means the tag ``latest``.

        Raises :class:`InvalidReference`.
        """
        ref = cls.parse_name(text)
        return ref if ref.tag or ref.digest else replace(ref, tag=DEFAULT_TAG)

    @classmethod
    def parse_name(cls, text: str) -> Reference:
        """Read ``text`` and add no default tag.  Raises :class:`InvalidReference`."""
        if _IDENTIFIER_RE.fullmatch(text):
            raise InvalidReference(
                f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings"
            )
        domain, remainder = _split_domain(text)
        remote_name = remainder.split("@", 1)[0].split(":", 1)[0]
        if remote_name.lower() != remote_name:
            raise InvalidReference(
                f"invalid reference format: repository name ({remote_name}) must be lowercase"
            )
        match = _REFERENCE_RE.fullmatch(f"{domain}/{remainder}")
        if match is None or not _DOMAIN_RE.fullmatch(domain):
            raise InvalidReference("invalid reference format")
        name = match["name"]
        if len(name) > MAX_NAME_LENGTH:
            raise InvalidReference(
                f"repository name must not be more than {MAX_NAME_LENGTH} characters"
            )
        digest = match["digest"]
        if digest is not None:
            _check_digest(digest)
        return cls(domain, name[len(domain) + 1 :], match["tag"], digest)

    @property
    def name(self) -> str:
        """The full repository: ``docker.io/library/ubuntu``."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar_name(self) -> str:
        """The repository as people write it: ``ubuntu``, ``127.0.0.1:5000/app``."""
        if self.domain != DEFAULT_DOMAIN:
            return self.name
        short = self.path.removeprefix(OFFICIAL_PREFIX)
        # `library/a/b` must keep its prefix, and so must a first component that reads as a domain.
        return short if "/" not in short else self.path

    def familiar(self) -> str:
        """The whole reference as people write it: ``ubuntu:latest``."""
        return self.familiar_name + self._suffix()

    def with_tag(self, tag: str) -> Reference:
        """The same repository under ``tag``, without digest.  Raises :class:`InvalidReference`."""
        check_tag(tag)
        return Reference(self.domain, self.path, tag)

    def with_digest(self, digest: str) -> Reference:
        """The same repository at ``digest``, without tag.  Raises :class:`InvalidReference`."""
        _check_digest(digest)
        return Reference(self.domain, self.path, None, digest)

    def _suffix(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{tag}@{self.digest}" if self.digest else tag

    def __str__(self) -> str:
        return self.name + self._suffix()


def check_tag(tag: str) -> str:
    """Return ``tag`` if it is one; raise :class:`InvalidReference`."""
    if not _TAG_RE.fullmatch(tag):
        raise InvalidReference("invalid tag format")
    return tag


def is_repository_path(path: str) -> bool:
    """Whether ``path`` may name a repository inside a registry."""
    return len(path) <= MAX_NAME_LENGTH and _PATH_RE.fullmatch(path) is not None


def _split_domain(text: str) -> tuple[str, str]:
    head, slash, tail = text.partition("/")
    is_domain = slash and (
        any(c in head for c in ".:") or head == "localhost" or head.lower() != head
    )
    domain, remainder = (head, tail) if is_domain else (DEFAULT_DOMAIN, text)
    if domain == LEGACY_DEFAULT_DOMAIN:
        domain = DEFAULT_DOMAIN
    if domain == DEFAULT_DOMAIN and remainder and "/" not in remainder:
        remainder = OFFICIAL_PREFIX + remainder
    return domain, remainder


def _check_digest(digest: str) -> None:
    algorithm, colon, encoded = digest.partition(":")
    length = _HEX_LENGTH.get(algorithm)
    if not colon or not encoded:
        raise InvalidReference("invalid checksum digest format")
    if length is None:
        raise InvalidReference("unsupported digest algorithm")
    if len(encoded) != length:
        raise InvalidReference("invalid checksum digest length")
    if not re.fullmatch("[0-9a-f]+", encoded):
        raise InvalidReference("invalid checksum digest format")
