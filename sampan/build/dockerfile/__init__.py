"""The Dockerfile language: text to a typed tree with positions, and back.

*logical line*
    A statement with its continuation lines joined and comments dropped (``lexer``).
*word*
    A piece of a statement between spaces; quotes and escapes are still in it (``words``).
*expansion*
    Replacing ``$name`` and ``${name…}`` and removing the quotes of a word (``expand``).  The tree
    holds words unexpanded, because their values depend on the stage.

``parse`` raises :class:`DockerfileError` and nothing else, for any text.
"""

from __future__ import annotations

from sampan.build.dockerfile.ast import Dockerfile
from sampan.build.dockerfile.errors import DockerfileError
from sampan.build.dockerfile.format import format_dockerfile
from sampan.build.dockerfile.parser import parse, parse_instruction

__all__ = ["Dockerfile", "DockerfileError", "format_dockerfile", "parse", "parse_instruction"]
