"""``inspect``, of one kind of object or of any."""

from __future__ import annotations

import sys

from sampan import wirejson
from sampan.cli.command import Command
from sampan.cli.failure import Failure
from sampan.cli.flags import Flag
from sampan.cli.images import platform_json
from sampan.client.http import quote
from sampan.errors import NotFound, SampanError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sampan.cli.flags import Options
    from sampan.cli.session import Session

_PATHS = {
    "container": "/containers/{}/json",
    "image": "/images/{}/json",
    "network": "/networks/{}",
    "volume": "/volumes/{}",
}


def _one(session: Session, kind: str, name: str, query: dict[str, object]) -> Any:
    return session.api.get(_PATHS[kind].format(quote(name)), query)


def _any(session: Session, name: str, query: dict[str, object]) -> Any:
    for kind in _PATHS:
        try:
            return _one(session, kind, name, query if kind == "container" else {})
        except NotFound:
            continue
        except SampanError as error:
            # A name that cannot be of this kind may be of the next.
            if error.status != 400:
                raise
    raise NotFound(f"Error: No such object: {name}")


def _show(session: Session, form: str, names: list[str], fetch: Callable[[str], Any]) -> int:
    from sampan.cli.main import describe

    found: list[Any] = []
    failures: list[str] = []
    for name in names:
        try:
            found.append(fetch(name))
        except SampanError as error:
            failures.append(describe(error))
    print_objects(found, form)
    if failures:
        raise Failure("\n".join(failures))
    return 0


def print_objects(found: list[Any], form: str) -> None:
    """Objects as an array of indented JSON, or each through a format."""
    if not form:
        sys.stdout.write(wirejson.dumps(found, "    ") + "\n")
    elif form == "json":
        sys.stdout.write("".join(wirejson.dumps(value) + "\n" for value in found))
    else:
        _templated(found, form)


def _templated(found: list[Any], form: str) -> None:
    from sampan.cli.goshape import nothing, shaped
    from sampan.gotemplate import Template, TemplateError

    try:
        template = Template(form, strict=True, nothing=nothing)
    except TemplateError as error:
        raise Failure(f"template parsing error: {error}", 64) from None
    try:
        for value in found:
            sys.stdout.write(template.render(shaped(value)) + "\n")
    except TemplateError as error:
        sys.stdout.write("\n")
        raise Failure(f"template parsing error: {error}") from None


def any_object(session: Session, options: Options, arguments: list[str]) -> int:
    """Inspect objects of whatever kind the names are of."""
    kind = options["type"]
    query: dict[str, object] = {"size": options["size"]}
    if kind and kind not in _PATHS:
        raise Failure(f'unknown type: "{kind}"', 1)
    if kind:
        query = query if kind == "container" else {}
        return _show(
            session,
            options["format"],
            arguments,
            lambda name: _one(session, kind, name, query),
        )
    return _show(session, options["format"], arguments, lambda name: _any(session, name, query))


def container(session: Session, options: Options, arguments: list[str]) -> int:
    """Inspect containers."""
    query: dict[str, object] = {"size": options["size"]}
    return _show(
        session,
        options["format"],
        arguments,
        lambda name: _one(session, "container", name, query),
    )


def image(session: Session, options: Options, arguments: list[str]) -> int:
    """Inspect images."""
    query: dict[str, object] = {}
    if options["platform"]:
        query["platform"] = platform_json(options["platform"])
    return _show(
        session, options["format"], arguments, lambda name: _one(session, "image", name, query)
    )


def network(session: Session, options: Options, arguments: list[str]) -> int:
    """Inspect networks."""
    query: dict[str, object] = {"verbose": options["verbose"]}
    return _show(
        session, options["format"], arguments, lambda name: _one(session, "network", name, query)
    )


def volume(session: Session, options: Options, arguments: list[str]) -> int:
    """Inspect volumes."""
    return _show(
        session, options["format"], arguments, lambda name: _one(session, "volume", name, {})
    )


_FORMAT = Flag(
    "format",
    "string",
    "Format output using a custom template:\n"
    "'json':             Print in JSON format\n"
    "'TEMPLATE':         Print output using the given Go template",
    "f",
)
ANY = Command(
    "[OPTIONS] NAME|ID [NAME|ID...]",
    "Return low-level information on container engine objects",
    any_object,
    (
        _FORMAT,
        Flag("size", "", "Display total file sizes if the type is container", "s"),
        Flag("type", "string", "Only inspect objects of the given type"),
    ),
    least=1,
)
CONTAINER = Command(
    "[OPTIONS] CONTAINER [CONTAINER...]",
    "Display detailed information on one or more containers",
    container,
    (_FORMAT, Flag("size", "", "Display total file sizes", "s")),
    least=1,
)
IMAGE = Command(
    "[OPTIONS] IMAGE [IMAGE...]",
    "Display detailed information on one or more images",
    image,
    (
        _FORMAT,
        Flag("platform", "string", 'Inspect a specific platform of the image ("os/arch")'),
    ),
    least=1,
)
NETWORK = Command(
    "[OPTIONS] NETWORK [NETWORK...]",
    "Display detailed information on one or more networks",
    network,
    (_FORMAT, Flag("verbose", "", "Verbose output for diagnostics", "v")),
    least=1,
)
VOLUME = Command(
    "[OPTIONS] VOLUME [VOLUME...]",
    "Display detailed information on one or more volumes",
    volume,
    (_FORMAT,),
    least=1,
)
