"""Positions in a Dockerfile, and the excerpt that shows one."""

from __future__ import annotations

from dataclasses import dataclass

CONTEXT = 3  # lines shown before and after the marked ones


@dataclass(frozen=True, slots=True)
class Span:
    """Lines ``line`` to ``end``, from 1, inclusive; ``column`` from 1, or 0 for the whole lines."""

    line: int
    end: int
    column: int = 0


@dataclass(frozen=True, slots=True)
class Source:
    """A Dockerfile's text under the name that messages give it."""

    name: str
    lines: tuple[str, ...]

    def excerpt(self, span: Span) -> str:
        """The marked lines with their neighbours, and a caret where a column is known.

        ::

            Dockerfile:3
            --------------------
               2 |     WORKDIR /app
               3 | >>> COPPY . .
                 |     ^
               4 |     CMD ["true"]
            --------------------
        """
        first = max(1, span.line - CONTEXT)
        lines = self.lines or ("",)
        last = min(len(lines), span.end + CONTEXT)
        rule = "-" * 20
        out = [f"{self.name}:{span.line}", rule]
        for number in range(first, last + 1):
            marked = span.line <= number <= span.end
            mark = ">>>" if marked else "   "
            out.append(f"{number:4} | {mark} {lines[number - 1]}".rstrip())
            if marked and span.column and number == span.line:
                # Tabs are kept, so that the caret stands under its character.
                before = lines[number - 1][: span.column - 1]
                pad = "".join("\t" if c == "\t" else " " for c in before)
                out.append(f"     |     {pad}^")
        out.append(rule)
        return "\n".join(out)
