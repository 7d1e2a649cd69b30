"""``events``: what happens, as it happens."""

from __future__ import annotations

import sys
import time

from sampan import wirejson
from sampan.cli import rows
from sampan.cli.command import Command
from sampan.cli.failure import Failure
from sampan.cli.flags import Flag
from sampan.cli.times import timestamp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.flags import Options
    from sampan.cli.session import Session


def _moment(event: dict[str, Any]) -> str:
    nanoseconds = int(event.get("timeNano") or 0) or int(event.get("time") or 0) * 10**9
    local = time.localtime(nanoseconds // 10**9)
    zone = time.strftime("%z", local)
    zone = "Z" if zone == "+0000" else f"{zone[:3]}:{zone[3:]}"
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', local)}.{nanoseconds % 10**9:09d}{zone}"


def line(event: dict[str, Any]) -> str:
    """An event in one line."""
    actor = event.get("Actor") or {}
    attributes = actor.get("Attributes") or {}
    text = f"{_moment(event)} {event.get('Type')} {event.get('Action')} {actor.get('ID')}"
    if attributes:
        pairs = ", ".join(f"{key}={attributes[key]}" for key in sorted(attributes))
        text += f" ({pairs})"
    return text


def events(session: Session, options: Options, arguments: list[str]) -> int:
    """Print events until ``--until``, or until interrupted."""
    query: dict[str, object] = {
        "since": timestamp(options["since"]) or None,
        "until": timestamp(options["until"]) or None,
    }
    if options["filter"]:
        query["filters"] = rows.filters(options["filter"])
    form = options["format"]
    template = None
    if form and form != "json":
        from sampan.gotemplate import Template, TemplateError

        try:
            template = Template(form.replace("\\t", "\t").replace("\\n", "\n"))
        except TemplateError as error:
            raise Failure(f"Error parsing format: {error}", 64) from None
    for event in session.api.messages("GET", "/events", query):
        if form == "json":
            session.say(wirejson.dumps(event))
        elif template is not None:
            session.say(template.render(event))
        else:
            session.say(line(event))
        sys.stdout.flush()
    return 0


EVENTS = Command(
    "[OPTIONS]",
    "Get real time events from the server",
    events,
    (
        Flag("filter", "filter", "Filter output based on conditions provided", "f"),
        Flag(
            "format",
            "string",
            "Format output using a custom template:\n"
            "'json':             Print in JSON format\n"
            "'TEMPLATE':         Print output using the given Go template",
        ),
        Flag("since", "string", "Show all events created since timestamp"),
        Flag("until", "string", "Stream events until this timestamp"),
    ),
    most=0,
)
