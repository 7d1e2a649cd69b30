"""The API's own description (OpenAPI 3.1), read off the code that serves it.

Paths and methods are the application's routes.  Query parameters are those that a handler, or a
helper that it hands its request to, reads by a literal name; bodies are the documents that it
decodes.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from aiohttp import web

from sampan import __version__
from sampan.api import versions

_PLACE = re.compile(r"\{(\w+)(?::[^{}]*(?:\{[^{}]*\}[^{}]*)*)?\}")
_READERS: dict[str, dict[str, Any]] = {
    "flag": {"type": "boolean"},
    "truth": {"type": "boolean"},
    "integer": {"type": "integer"},
    "string_map": {"type": "string", "contentMediaType": "application/json"},
    "nullable_map": {"type": "string", "contentMediaType": "application/json"},
    "json_value": {"type": "string", "contentMediaType": "application/json"},
    "get": {"type": "string"},
    "getall": {"type": "array", "items": {"type": "string"}},
    "_repeated": {"type": "array", "items": {"type": "string"}},
}
ERROR = {
    "type": "object",
    "properties": {"message": {"type": "string"}},
    "required": ["message"],
}


def describe(app: web.Application) -> dict[str, Any]:
    """The description of the routes of ``app``."""
    paths: dict[str, dict[str, Any]] = {}
    documents: dict[str, type[msgspec.Struct]] = {}
    for route in app.router.routes():
        resource = route.resource
        method = route.method.lower()
        if resource is None or method not in _METHODS:
            continue
        path = _PLACE.sub(r"{\1}", resource.canonical)
        operation, body = _operation(path, method, route.handler)
        if body is not None:
            documents[body.__name__] = body
        paths.setdefault(path, {})[method] = operation
    _, schemas = msgspec.json.schema_components(
        documents.values(), ref_template="#/components/schemas/{name}"
    )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Engine API",
            "version": versions.NEWEST,
            "description": f"The Engine API of sampan {__version__}.  Every path may begin with "
            f"/v{versions.OLDEST} to /v{versions.NEWEST}.",
        },
        "paths": dict(sorted(paths.items())),
        "components": {"schemas": {**schemas, "Error": ERROR}},
    }


_METHODS = ("get", "head", "post", "put", "delete")


def _operation(
    path: str, method: str, handler: Any
) -> tuple[dict[str, Any], type[msgspec.Struct] | None]:
    read = _Reading()
    read.function(handler)
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _PLACE.findall(path)
    ]
    parameters += [
        {"name": name, "in": "query", "schema": schema}
        for name, schema in sorted(read.parameters.items())
    ]
    words = [word for word in re.split(r"\W+", path) if word]
    operation: dict[str, Any] = {
        "operationId": "_".join([method, *words]),
        "parameters": parameters,
        "responses": {
            "2XX": {"description": "done"},
            "default": {
                "description": "refused, or failed",
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
            },
        },
    }
    if handler.__doc__:
        operation["summary"] = inspect.cleandoc(handler.__doc__).splitlines()[0]
    if read.body is not None:
        schema = {"$ref": f"#/components/schemas/{read.body.__name__}"}
        operation["requestBody"] = {"content": {"application/json": {"schema": schema}}}
    return operation, read.body


class _Reading:
    """What a handler takes from its request."""

    def __init__(self) -> None:
        self.parameters: dict[str, dict[str, Any]] = {}
        self.body: type[msgspec.Struct] | None = None
        self._seen: set[Callable[..., Any]] = set()

    def function(self, function: Any) -> None:
        if function in self._seen or not inspect.isfunction(function):
            return
        self._seen.add(function)
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        names = {**function.__globals__, **inspect.getclosurevars(function).nonlocals}
        for call in _calls(tree):
            self._call(call, names)
        for node in ast.walk(tree):
            if isinstance(node, ast.Subscript) and _is_query(node.value):
                self._parameter(node.slice, "get")

    def _call(self, call: ast.Call, names: dict[str, Any]) -> None:
        target = call.func
        name = target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", "")
        if name in ("get", "getall"):
            if isinstance(target, ast.Attribute) and _is_query(target.value) and call.args:
                self._parameter(call.args[0], name)
        elif name in _READERS and len(call.args) > 1:
            self._parameter(call.args[1], name)
        elif name in ("document", "decode", "convert") and len(call.args) > 1:
            kind = names.get(getattr(call.args[1], "id", ""))
            if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
                self.body = kind
        elif isinstance(target, ast.Name) and any(_is_request(item) for item in call.args):
            self.function(names.get(name))

    def _parameter(self, node: ast.expr, reader: str) -> None:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            self.parameters.setdefault(node.value, _READERS[reader])


def _calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def _is_query(node: ast.expr) -> bool:
    """``request.query``, or the local name ``query`` for it."""
    if isinstance(node, ast.Attribute):
        return node.attr == "query" and _is_request(node.value)
    return isinstance(node, ast.Name) and node.id == "query"


def _is_request(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "request"
