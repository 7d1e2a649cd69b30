"""Apply a parsed template to a value."""

from __future__ import annotations

from sampan.gotemplate.errors import NoField, TemplateError, Trouble
from sampan.gotemplate.functions import FUNCTIONS, SHORT_CIRCUIT, truth
from sampan.gotemplate.parse import Node, Parser
from sampan.gotemplate.show import Struct, show

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

_DEEPEST = 1000


class _Break(Exception):
    pass


class _Continue(Exception):
    pass


class Template:
    """A parsed template.

    ``strict`` makes a missing key of a JSON object an error, as ``inspect`` has it; otherwise it
    prints ``<no value>``, and so does null unless ``nothing`` tells how a field of a name prints.

    :raises TemplateError: the text is not a template.
    """

    def __init__(
        self,
        text: str,
        *,
        strict: bool = False,
        functions: Mapping[str, Callable[..., Any]] = FUNCTIONS,
        nothing: Callable[[str], str] | None = None,
    ) -> None:
        names = {*functions, *SHORT_CIRCUIT}
        parser = Parser(text, names)
        self._text = text
        self._body = parser.parse()
        self._defined = parser.defined
        self._strict = strict
        self._functions = functions
        self._nothing = nothing

    def render(self, value: Any) -> str:
        """The text for ``value``; :class:`TemplateError` if the template asks the impossible."""
        run = _Run(self, value)
        run.walk(self._body, value)
        return "".join(run.out)


class _Run:
    """One application: the output so far, and the variables in scope."""

    def __init__(self, template: Template, value: Any) -> None:
        self._template = template
        self.out: list[str] = []
        self._scopes: list[dict[str, Any]] = [{"$": value}]
        self._depth = 0

    def _fail(self, node: Node, message: str) -> TemplateError:
        text = self._template._text
        line = text.count("\n", 0, node.at) + 1
        column = node.at - (text.rfind("\n", 0, node.at) + 1)
        return TemplateError(
            f'template: :{line}:{column}: executing "" at <{_source(node)}>: {message}'
        )

    # Statements.

    def walk(self, body: list[Node], dot: Any) -> None:
        for node in body:
            kind = node.kind
            if kind == "text":
                self.out.append(node.value)
            elif kind == "action":
                value = self.pipe(node.parts[0], dot)
                if not node.parts[0].value[0]:
                    self.out.append(self._null(node.parts[0]) if value is None else show(value))
            elif kind in ("if", "with"):
                self._choose(node, dot)
            elif kind == "range":
                self._loop(node, dot)
            elif kind == "template":
                self._include(node, dot)
            elif kind == "break":
                raise _Break
            else:
                raise _Continue

    def _null(self, pipe: Node) -> str:
        """How null prints: as an empty value of the field's type, where that is known."""
        nothing = self._template._nothing
        last = pipe.parts[-1].parts[0]
        if nothing and last.kind in ("field", "variable", "chain") and last.value:
            return nothing(last.value[-1])
        return show(None)

    def _choose(self, node: Node, dot: Any) -> None:
        self._scopes.append({})
        value = self.pipe(node.parts[0], dot)
        if truth(value):
            self.walk(node.body, value if node.kind == "with" else dot)
        else:
            self.walk(node.orelse, dot)
        self._scopes.pop()

    def _loop(self, node: Node, dot: Any) -> None:
        pipe = node.parts[0]
        names = pipe.value[0]
        depth = len(self._scopes)
        self._scopes.append({})
        value = self.pipe(pipe, dot, bind=False)
        pairs: list[tuple[Any, Any]]
        if isinstance(value, dict):
            pairs = [(key, value[key]) for key in sorted(value, key=str)]
        elif isinstance(value, list | tuple):
            pairs = list(enumerate(value))
        elif isinstance(value, int) and not isinstance(value, bool):
            pairs = [(number, number) for number in range(value)]
        elif value is None:
            pairs = []
        else:
            raise self._fail(pipe, f"range can't iterate over {show(value)}")
        for key, item in pairs:
            self._scopes.append(
                dict(zip(names, (key, item), strict=False))
                if len(names) == 2
                else dict.fromkeys(names, item)
            )
            try:
                self.walk(node.body, item)
            except _Break:
                break
            except _Continue:
                pass
            finally:
                del self._scopes[depth + 1 :]
        if not pairs:
            self.walk(node.orelse, dot)
        del self._scopes[depth:]

    def _include(self, node: Node, dot: Any) -> None:
        body = self._template._defined.get(node.value)
        if body is None:
            raise self._fail(node, f'template "{node.value}" not defined')
        if self._depth > _DEEPEST // 10:
            raise self._fail(node, "exceeded maximum template depth")
        value = self.pipe(node.parts[0], dot) if node.parts else None
        scopes, self._scopes = self._scopes, [{"$": value}]
        self._depth += 1
        self.walk(body, value)
        self._depth -= 1
        self._scopes = scopes

    # Values.

    def pipe(self, node: Node, dot: Any, *, bind: bool = True) -> Any:
        names, assigns = node.value
        value: Any = None
        for number, command in enumerate(node.parts):
            value = self._command(command, dot, (value,) if number else ())
        if bind:
            for name in names:
                self._set(name, value, assigns)
        return value

    def _set(self, name: str, value: Any, assigns: bool) -> None:
        if assigns:
            for scope in reversed(self._scopes):
                if name in scope:
                    scope[name] = value
                    return
        self._scopes[-1][name] = value

    def _command(self, node: Node, dot: Any, final: tuple[Any, ...]) -> Any:
        first, rest = node.parts[0], node.parts[1:]
        if first.kind == "function":
            return self._function(first, rest, dot, final)
        if first.kind in ("field", "variable", "chain"):
            return self._operand(first, dot, (rest, final))
        if rest or final:
            raise self._fail(first, f"can't give argument to non-function {_source(first)}")
        return self._operand(first, dot)

    def _function(self, node: Node, rest: list[Node], dot: Any, final: tuple[Any, ...]) -> Any:
        name = node.value
        if name in SHORT_CIRCUIT:
            value: Any = None
            for argument in rest:
                value = self._operand(argument, dot)
                if truth(value) == (name == "or"):
                    return value
            if not rest and not final:
                raise self._fail(node, f"wrong number of args for {name}: want at least 1 got 0")
            return final[0] if final else value
        values = [self._operand(argument, dot) for argument in rest]
        return self._call(node, self._template._functions[name], [*values, *final])

    def _call(self, node: Node, function: Callable[..., Any], values: list[Any]) -> Any:
        try:
            return function(*values)
        except Trouble as trouble:
            message = f"error calling {_source(node)}: {trouble}"
        except TypeError:
            message = f"wrong number or type of args for {_source(node)}: got {len(values)}"
        raise self._fail(node, message)

    def _operand(
        self, node: Node, dot: Any, given: tuple[list[Node], tuple[Any, ...]] | None = None
    ) -> Any:
        kind = node.kind
        if kind == "literal":
            return node.value
        if kind == "dot":
            return dot
        if kind == "nil":
            raise self._fail(node, "nil is not a command")
        if kind == "field":
            return self._fields(node, dot, node.value, dot, given)
        if kind == "variable":
            value = self._variable(node.value[0])
            return self._fields(node, value, node.value[1:], dot, given)
        if kind == "chain":
            value = self._operand(node.parts[0], dot)
            return self._fields(node, value, node.value, dot, given)
        if kind == "pipe":
            return self.pipe(node, dot)
        return self._function(node, [], dot, ())

    def _variable(self, name: str) -> Any:
        for scope in reversed(self._scopes):
            if name in scope:
                return scope[name]
        return None

    def _fields(
        self,
        node: Node,
        value: Any,
        names: list[str],
        dot: Any,
        given: tuple[list[Node], tuple[Any, ...]] | None,
    ) -> Any:
        arguments: list[Any] = []
        if given is not None:
            arguments = [*(self._operand(word, dot) for word in given[0]), *given[1]]
        for number, name in enumerate(names):
            value = self._field(node, value, name)
            last = number == len(names) - 1
            if callable(value):
                value = self._call(node, value, arguments if last else [])
            elif last and arguments:
                raise self._fail(node, f"{name} has arguments but cannot be invoked as function")
        return value

    def _field(self, node: Node, value: Any, name: str) -> Any:
        if isinstance(value, dict):
            if name in value:
                return value[name]
            folded = name.lower()
            # Go's field names differ from JSON's keys in case alone: ID for Id.
            for key in value:
                if key.lower() == folded:
                    return value[key]
            if isinstance(value, Struct) and name in value.absent:
                return value.absent[name]
            if self._template._strict:
                raise self._fail(node, f'map has no entry for key "{name}"')
            return None
        if hasattr(value, "field"):
            try:
                return value.field(name)
            except NoField as error:
                raise self._fail(node, f"can't evaluate field {name} in type {error}") from None
        if value is None:
            raise self._fail(node, f"nil pointer evaluating interface {{}}.{name}")
        kinds = {bool: "bool", int: "int", float: "float64", str: "string", list: "[]interface {}"}
        kind = kinds.get(type(value), type(value).__name__)
        raise self._fail(node, f"can't evaluate field {name} in type {kind}")


def _source(node: Node) -> str:
    """The text of an operand, as messages quote it."""
    kind = node.kind
    if kind == "field":
        return "." + ".".join(node.value)
    if kind == "variable":
        return ".".join(node.value)
    if kind == "chain":
        return f"({_source(node.parts[0])}).{'.'.join(node.value)}"
    if kind == "dot":
        return "."
    if kind == "function":
        return str(node.value)
    if kind == "pipe":
        return " | ".join(_source(part) for part in node.parts)
    if kind == "command":
        return " ".join(_source(part) for part in node.parts)
    if kind == "literal":
        return show(node.value) if not isinstance(node.value, str) else f'"{node.value}"'
    return kind
