"""Lists of objects as ``--format`` shows them: a table, JSON, or a template a line."""

from __future__ import annotations

import sys

from sampan.cli import table
from sampan.cli.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    Columns = dict[str, tuple[str, Callable[["Row"], Any]]]


class Kind:
    """What there is to say of a kind of object.

    ``columns`` has, for each field, its heading and the function that computes it; ``type_name``
    is how Go's messages call it.  A field may be a function of arguments (``.Label "x"``), which
    is left out of JSON.  ``short`` is the field that ``--quiet`` shows.
    """

    __slots__ = ("columns", "methods", "short", "type_name")

    def __init__(
        self,
        type_name: str,
        columns: Columns,
        short: str = "ID",
        methods: tuple[str, ...] = (),
    ) -> None:
        self.type_name, self.columns, self.short, self.methods = (
            type_name,
            columns,
            short,
            methods,
        )


class Row:
    """One object: ``raw`` as the API gave it, and whether to shorten identifiers."""

    __slots__ = ("kind", "raw", "truncate")

    def __init__(self, kind: Kind, raw: Any, truncate: bool = True) -> None:
        self.kind, self.raw, self.truncate = kind, raw, truncate

    def field(self, name: str) -> Any:
        """The value of a field, for the template engine."""
        column = self.kind.columns.get(name)
        if column is None:
            from sampan.gotemplate import NoField

            raise NoField(self.kind.type_name)
        return column[1](self)

    def to_json(self) -> dict[str, Any]:
        """All fields, by name."""
        return {
            name: self.kind.columns[name][1](self)
            for name in sorted(self.kind.columns)
            if name not in self.kind.methods
        }


def row_json(row: Row) -> str:
    """A row as JSON, with the characters escaped that would mean something in HTML."""
    from sampan import wirejson

    return wirejson.dumps_safe(row.to_json())


def write(
    kind: Kind,
    raws: Iterable[Any],
    *,
    form: str,
    default: Iterable[str],
    quiet: bool = False,
    truncate: bool = True,
) -> None:
    """Print the objects.

    ``form`` is what the user gave for ``--format``; ``default`` names the columns of the table
    that is shown when that is empty or ``table``.
    """
    rows = [Row(kind, raw, truncate) for raw in raws]
    sys.stdout.write(text_of(kind, rows, form, tuple(default), quiet))


def text_of(kind: Kind, rows: list[Row], form: str, default: tuple[str, ...], quiet: bool) -> str:
    """What :func:`write` prints."""
    form = form.strip(" ")
    if form in ("", "table"):
        if quiet:
            return "".join(f"{row.field(kind.short)}\n" for row in rows)
        columns = [kind.columns[name] for name in default]
        cells = [[heading for heading, _ in columns]]
        cells += [[str(function(row)) for _, function in columns] for row in rows]
        return table.simple(cells)
    if form == "json":
        return "".join(f"{row_json(row)}\n" for row in rows)
    return _templated(kind, rows, form, quiet)


def _templated(kind: Kind, rows: list[Row], form: str, quiet: bool) -> str:
    from sampan.gotemplate import Template, TemplateError
    from sampan.gotemplate.functions import HEADERS

    as_table = form.startswith("table")
    body = (form[5:] if as_table else form).strip(" ")
    body = body.replace("\\t", "\t").replace("\\n", "\n")
    if as_table and quiet:
        return "".join(f"{row.field(kind.short)}\n" for row in rows)
    try:
        lines = []
        if as_table:
            headings: dict[str, Any] = {name: column[0] for name, column in kind.columns.items()}
            headings.update({name: _heading for name in kind.methods})
            lines.append(Template(body, functions=HEADERS).render(headings))
        template = Template(body)
    except TemplateError as error:
        raise Failure(f"template parsing error: {error}") from None
    try:
        lines += [template.render(row) for row in rows]
    except TemplateError as error:
        raise Failure(f"failed to execute template: {error}") from None
    text = "".join(f"{line}\n" for line in lines)
    return table.aligned(text) if as_table else text


def _heading(name: str) -> str:
    return name.rpartition(".")[2].replace("-", " ").replace("_", " ")


def wants(form: str, name: str) -> bool:
    """Whether a format mentions the field ``name``."""
    return f".{name}" in form


def filters(given: list[str]) -> dict[str, dict[str, bool]]:
    """``--filter`` options as the API's JSON: ``{"name": {"value": true}}``."""
    found: dict[str, dict[str, bool]] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals:
            from sampan.cli.failure import UsageFailure

            raise UsageFailure(
                f'invalid argument "{text}" for "-f, --filter" flag: '
                "bad format of filter (expected name=value)"
            )
        found.setdefault(key.strip().lower(), {})[value.strip()] = True
    return found


def labels_text(labels: dict[str, str] | None) -> str:
    """Labels as ``a=b,c=d``."""
    return ",".join(f"{key}={value}" for key, value in sorted((labels or {}).items()))
