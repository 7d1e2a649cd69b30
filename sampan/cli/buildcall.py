"""``build --call``: what a Dockerfile offers, instead of a build."""

from __future__ import annotations

import sys

from sampan import wirejson
from sampan.cli import buildcontext, buildextras
from sampan.cli.failure import Failure
from sampan.cli.table import simple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.flags import Options
    from sampan.cli.session import Session

METHODS = {
    "build": "",
    "check": "check",
    "lint": "check",
    "outline": "outline",
    "targets": "targets",
}


def parse(text: str) -> tuple[str, bool]:
    """``METHOD[,format=json]``: what the query's ``call`` says, and whether to print JSON.

    :raises Failure: a method or form that there is not.
    """
    method, _, rest = text.partition(",")
    if method not in METHODS:
        raise Failure(f"invalid call {method!r}: must be one of {', '.join(METHODS)}", 125)
    if rest not in ("", "format=json", "format=text"):
        raise Failure(f"invalid call {text!r}: the format is text or json", 125)
    return METHODS[method], rest == "format=json"


def ask(session: Session, options: Options, place: str, query: dict[str, object]) -> int:
    """Ask the daemon, and print what it says; the exit code is 1 for findings of the linter."""
    method, json = parse("check" if options["check"] else options["call"])
    if not method:
        raise Failure("invalid call: a build has no format", 125)
    context = buildcontext.from_argument(place, options["file"])
    query |= {"dockerfile": context.dockerfile, "call": method, "q": True, "t": []}
    answer: dict[str, Any] = {}
    for message in session.api.messages(
        "POST",
        "/build",
        query,
        body=context.chunks,
        headers={"Content-Type": "application/x-tar", **buildextras.header(session, options)},
    ):
        if "error" in message or "errorDetail" in message:
            raise Failure(
                str((message.get("errorDetail") or {}).get("message") or message["error"]), 1
            )
        if message.get("id") == "sampan.call":
            answer = message["aux"]["Answer"]
    sys.stdout.write(show(answer, json=json))
    return 1 if answer.get("warnings") else 0


def show(document: dict[str, Any], *, json: bool) -> str:
    """The daemon's answer as text."""
    if json:
        return wirejson.dumps(document) + "\n"
    if "warnings" in document:
        return _findings(document["warnings"])
    if "targets" in document:
        rows = [["TARGET", "DESCRIPTION"]]
        for target in document["targets"]:
            name = target["name"] + (" (default)" if target.get("default") else "")
            rows.append([name, target.get("description", "")])
        return _table(rows)
    parts = [_table([["TARGET:", document["name"]], *_described(document)])]
    if document["args"]:
        rows = [["BUILD ARG", "VALUE", "DESCRIPTION"]]
        for arg in document["args"]:
            rows.append([arg["name"], arg.get("value", ""), arg.get("description", "")])
        parts.append(_table(rows))
    for key, title in (("secrets", "SECRET"), ("ssh", "SSH")):
        if document[key]:
            rows = [[title, "REQUIRED"]]
            rows += [[x["name"], "true" if x["required"] else ""] for x in document[key]]
            parts.append(_table(rows))
    return "\n".join(parts)


def _described(document: dict[str, Any]) -> list[list[str]]:
    text = document.get("description")
    return [["DESCRIPTION:", text]] if text else []


def _findings(warnings: list[dict[str, Any]]) -> str:
    if not warnings:
        return "Check complete, no warnings found.\n"
    many = "1 warning has" if len(warnings) == 1 else f"{len(warnings)} warnings have"
    parts = [f"Check complete, {many} been found!\n"]
    for found in warnings:
        parts.append(
            f"WARNING: {found['ruleName']} - {found['url']}\n{found['description']}\n"
            f"{found['detail']}\n{found['excerpt'].rstrip()}\n"
        )
    return "\n".join(parts)


def _table(rows: list[list[str]]) -> str:
    return "".join(line.rstrip() + "\n" for line in simple(rows).splitlines())
