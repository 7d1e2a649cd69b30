"""Template text to a tree.

Nodes are small objects with ``at``, the offset of their text in the template; the grammar is that
of Go's text/template/parse.
"""

from __future__ import annotations

from sampan.gotemplate.errors import TemplateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container
    from typing import Any

_SPACE = " \t\r\n"
_ESCAPES = {
    "a": "\a",
    "b": "\b",
    "f": "\f",
    "n": "\n",
    "r": "\r",
    "t": "\t",
    "v": "\v",
    "\\": "\\",
    "'": "'",
    '"': '"',
}


class Node:
    """A node of the tree: ``kind`` says what ``value`` and ``parts`` hold.

    Operands: ``literal`` (value), ``dot``, ``nil``, ``field`` (value: names), ``variable``
    (value: name then fields), ``function`` (value: name), ``chain`` (value: names, parts: one
    operand), ``pipe`` (value: (declared names, is_assignment), parts: commands), ``command``
    (parts: words).  Statements: ``text``, ``action``, ``if``, ``with``, ``range`` (parts: pipe;
    ``body`` and ``orelse``), ``break``, ``continue``, ``template`` (value: name).
    """

    __slots__ = ("at", "body", "kind", "orelse", "parts", "source", "value")

    def __init__(self, kind: str, at: int, value: Any = None, parts: list[Node] | None = None):
        self.kind, self.at, self.value = kind, at, value
        self.parts: list[Node] = parts if parts is not None else []
        self.body: list[Node] = []
        self.orelse: list[Node] = []
        self.source = ""


class Token:
    __slots__ = ("at", "kind", "spaced", "value")

    def __init__(self, kind: str, at: int, value: Any, spaced: bool) -> None:
        self.kind, self.at, self.value, self.spaced = kind, at, value, spaced


class Parser:
    """Parses one template; ``functions`` are the names that may be called."""

    def __init__(self, text: str, functions: Container[str]) -> None:
        self._text = text
        self._functions = functions
        self._items = self._split()
        self._next = 0
        self._names: list[set[str]] = [{"$"}]
        self._loops = 0
        self.defined: dict[str, list[Node]] = {}

    def parse(self) -> list[Node]:
        body, ended, _ = self._block(())
        assert not ended
        return body

    def fail(self, at: int, message: str) -> TemplateError:
        line = self._text.count("\n", 0, at) + 1
        return TemplateError(f"template: :{line}: {message}")

    # Text and actions.

    def _split(self) -> list[tuple[str, int, str]]:
        """``(kind, offset, text)`` for each piece of text and each action's inside."""
        text, items, position, trim = self._text, [], 0, False
        while True:
            start = text.find("{{", position)
            piece = text[position:] if start < 0 else text[position:start]
            if trim:
                piece = piece.lstrip(_SPACE)
            if (
                start >= 0
                and text[start + 2 : start + 3] == "-"
                and text[start + 3 : start + 4] in (*_SPACE,)
            ):
                piece = piece.rstrip(_SPACE)
            if piece:
                items.append(("text", position, piece))
            if start < 0:
                return items
            inside = start + 2
            if text[inside : inside + 1] == "-" and text[inside + 1 : inside + 2] in (*_SPACE,):
                inside += 2
            end = self._action_end(inside)
            stop = end
            trim = text[end - 1] == "-" and text[end - 2] in _SPACE and end - 2 >= inside
            if trim:
                stop = end - 1
            items.append(("action", inside, text[inside:stop]))
            position = end + 2

    def _action_end(self, start: int) -> int:
        text, position = self._text, start
        stripped = text[position:].lstrip(_SPACE)
        if stripped.startswith("/*"):
            end = text.find("*/", position)
            close = text.find("}}", end)
            if end < 0 or close < 0:
                raise self.fail(start, "unclosed comment")
            return close
        while position < len(text):
            letter = text[position]
            if letter == "}" and text.startswith("}}", position):
                return position
            if letter in "\"'":
                position += 1
                while position < len(text) and text[position] not in (letter, "\n"):
                    position += 2 if text[position] == "\\" else 1
                if position >= len(text) or text[position] == "\n":
                    what = "quoted string" if letter == '"' else "character constant"
                    raise self.fail(start, f"unterminated {what}")
            elif letter == "`":
                position = text.find("`", position + 1)
                if position < 0:
                    raise self.fail(start, "unterminated raw quoted string")
            position += 1
        raise self.fail(start, "unclosed action")

    def _block(self, enders: tuple[str, ...]) -> tuple[list[Node], str, list[Token]]:
        """Statements up to one of ``enders``: the body, which ended it, and its other tokens."""
        body: list[Node] = []
        while self._next < len(self._items):
            kind, at, piece = self._items[self._next]
            self._next += 1
            if kind == "text":
                body.append(Node("text", at, piece))
                continue
            if piece.strip(_SPACE).startswith("/*"):
                continue
            tokens = self._tokens(at, piece)
            if not tokens:
                raise self.fail(at, "missing value for command")
            word = tokens[0].value if tokens[0].kind == "word" else ""
            if word in ("end", "else"):
                if word not in enders:
                    raise self.fail(at, f"unexpected {{{{{word}}}}}")
                return body, word, tokens[1:]
            self._statement(body, word, tokens, at)
        if enders:
            raise self.fail(len(self._text), "unexpected EOF")
        return body, "", []

    def _statement(self, body: list[Node], word: str, tokens: list[Token], at: int) -> None:
        if word in ("if", "with", "range"):
            body.append(self._control(word, tokens[1:], at))
        elif word in ("break", "continue"):
            if not self._loops:
                raise self.fail(at, f"{{{{{word}}}}} outside {{{{range}}}}")
            body.append(Node(word, at))
        elif word in ("define", "block", "template"):
            self._template(body, word, tokens, at)
        else:
            node = Node("action", at)
            node.parts = [self._pipeline(tokens, at, declare=True)]
            body.append(node)

    def _template(self, body: list[Node], word: str, tokens: list[Token], at: int) -> None:
        if len(tokens) < 2 or tokens[1].kind != "literal" or not isinstance(tokens[1].value, str):
            raise self.fail(at, f"missing template name in {word} clause")
        name = tokens[1].value
        if word in ("define", "block"):
            self._names.append({"$"})
            self.defined[name], _, _ = self._block(("end",))
            self._names.pop()
        if word in ("template", "block"):
            node = Node("template", at, name)
            if tokens[2:]:
                node.parts = [self._pipeline(tokens[2:], at)]
            body.append(node)

    def _control(self, word: str, tokens: list[Token], at: int) -> Node:
        node = Node(word, at)
        if not tokens:
            raise self.fail(at, f"missing value for {word}")
        self._names.append(set(self._names[-1]))
        node.parts = [self._pipeline(tokens, at, declare=True, pair=word == "range")]
        self._loops += word == "range"
        node.body, ended, rest = self._block(("end", "else"))
        self._loops -= word == "range"
        if ended == "else":
            if rest and rest[0].value in ("if", "with") and word in ("if", "with"):
                node.orelse = [self._control(rest[0].value, rest[1:], rest[0].at)]
            elif rest:
                raise self.fail(rest[0].at, f"unexpected <{rest[0].value}> in else")
            else:
                node.orelse, _, _ = self._block(("end",))
        self._names.pop()
        return node

    # Pipelines.

    def _pipeline(
        self, tokens: list[Token], at: int, *, declare: bool = False, pair: bool = False
    ) -> Node:
        names, assigns, tokens = self._declaration(tokens, declare, pair)
        commands: list[Node] = []
        rest = tokens
        while True:
            words, rest, piped = self._command(rest, at)
            if not words:
                raise self.fail(at, "missing value for command")
            if commands and words[0].kind not in ("function", "field", "variable", "chain"):
                raise self.fail(
                    words[0].at, f"non executable command in pipeline stage {len(commands) + 1}"
                )
            command = Node("command", words[0].at, None, words)
            commands.append(command)
            if not piped:
                break
        node = Node("pipe", commands[0].at, (names, assigns), commands)
        if not assigns:
            self._names[-1].update(names)
        return node

    def _declaration(
        self, tokens: list[Token], declare: bool, pair: bool
    ) -> tuple[list[str], bool, list[Token]]:
        if not tokens or tokens[0].kind != "variable" or len(tokens[0].value) != 1:
            return [], False, tokens
        names = [tokens[0].value[0]]
        position = 1
        if pair and len(tokens) > 2 and tokens[1].value == "," and tokens[2].kind == "variable":
            names.append(tokens[2].value[0])
            position = 3
        if position < len(tokens) and tokens[position].kind == "sign":
            sign = tokens[position].value
            if sign in (":=", "=") and declare:
                if sign == "=":
                    self._known(names[0], tokens[0].at)
                return names, sign == "=", tokens[position + 1 :]
        return [], False, tokens

    def _known(self, name: str, at: int) -> None:
        if name not in self._names[-1]:
            raise self.fail(at, f'undefined variable "{name}"')

    def _command(self, tokens: list[Token], at: int) -> tuple[list[Node], list[Token], bool]:
        words: list[Node] = []
        while tokens:
            token = tokens[0]
            if token.kind == "sign" and token.value == "|":
                if len(tokens) == 1:
                    raise self.fail(token.at, "missing value for command")
                return words, tokens[1:], True
            node, tokens = self._operand(tokens, at)
            words.append(node)
        return words, [], False

    def _operand(self, tokens: list[Token], at: int) -> tuple[Node, list[Token]]:
        token, rest = tokens[0], tokens[1:]
        kind, value = token.kind, token.value
        if kind == "literal":
            node = Node("literal", token.at, value)
        elif kind == "field":
            node = Node("field", token.at, list(value))
        elif kind == "dot":
            node = Node("dot", token.at)
        elif kind == "variable":
            self._known(value[0], token.at)
            node = Node("variable", token.at, list(value))
        elif kind == "word":
            node = self._word(token)
        elif kind == "sign" and value == "(":
            depth, end = 1, 0
            while end < len(rest) and depth:
                if rest[end].kind == "sign":
                    depth += (rest[end].value == "(") - (rest[end].value == ")")
                end += 1
            if depth:
                raise self.fail(token.at, "unclosed left paren")
            node = self._pipeline(rest[: end - 1], token.at)
            rest = rest[end:]
        else:
            raise self.fail(token.at, f"unexpected {value!r} in operand")
        if rest and rest[0].kind == "field" and not rest[0].spaced:
            names = list(rest[0].value)
            if node.kind == "field" or node.kind == "variable":
                node.value.extend(names)
            else:
                node = Node("chain", node.at, names, [node])
            rest = rest[1:]
        return node, rest

    def _word(self, token: Token) -> Node:
        if token.value in ("true", "false"):
            return Node("literal", token.at, token.value == "true")
        if token.value == "nil":
            return Node("nil", token.at)
        if token.value not in self._functions:
            raise self.fail(token.at, f'function "{token.value}" not defined')
        return Node("function", token.at, token.value)

    # Tokens of one action.

    def _tokens(self, offset: int, piece: str) -> list[Token]:
        tokens: list[Token] = []
        position = 0
        spaced = False
        while position < len(piece):
            letter, at = piece[position], offset + position
            if letter in _SPACE:
                position += 1
                spaced = True
                continue
            position, kind, value = self._token(piece, position, at)
            tokens.append(Token(kind, at, value, spaced))
            spaced = False
        return tokens

    def _token(self, piece: str, position: int, at: int) -> tuple[int, str, Any]:
        letter = piece[position]
        if letter in "\"'":
            return self._quoted(piece, position, at)
        if letter == "`":
            end = piece.index("`", position + 1)
            return end + 1, "literal", piece[position + 1 : end]
        following = piece[position + 1 : position + 2]
        if letter == "." and not following.isdecimal():
            end, names = self._names_after(piece, position)
            return (end, "field", names) if names else (position + 1, "dot", ".")
        if letter == "$":
            end = position + 1
            while end < len(piece) and _is_name(piece[end]):
                end += 1
            name = piece[position:end]
            end, names = self._names_after(piece, end)
            return end, "variable", [name, *names]
        if (
            letter.isdecimal()
            or letter == "."
            or (letter in "+-" and (following.isdecimal() or following == "."))
        ):
            return self._number(piece, position, at)
        if _is_name(letter):
            end = position
            while end < len(piece) and _is_name(piece[end]):
                end += 1
            return end, "word", piece[position:end]
        if piece.startswith(":=", position):
            return position + 2, "sign", ":="
        if letter in "|(),=":
            return position + 1, "sign", letter
        raise self.fail(at, f"unexpected {letter!r} in command")

    def _names_after(self, piece: str, position: int) -> tuple[int, list[str]]:
        names: list[str] = []
        while piece[position : position + 1] == ".":
            end = position + 1
            while end < len(piece) and _is_name(piece[end]):
                end += 1
            if end == position + 1:
                break
            names.append(piece[position + 1 : end])
            position = end
        return position, names

    def _number(self, piece: str, position: int, at: int) -> tuple[int, str, Any]:
        end = position + 1
        while end < len(piece) and (piece[end].isalnum() or piece[end] in "._+-"):
            if piece[end] in "+-" and piece[end - 1] not in "eEpP":
                break
            end += 1
        text = piece[position:end]
        try:
            return end, "literal", int(text, 0)
        except ValueError:
            pass
        try:
            return end, "literal", float(text)
        except ValueError:
            raise self.fail(at, f"bad number syntax: {text!r}") from None

    def _quoted(self, piece: str, position: int, at: int) -> tuple[int, str, Any]:
        quote = piece[position]
        letters: list[str] = []
        position += 1
        while piece[position] != quote:
            if piece[position] != "\\":
                letters.append(piece[position])
                position += 1
                continue
            escape = piece[position + 1]
            digits = {"x": 2, "u": 4, "U": 8}.get(escape)
            if escape in _ESCAPES:
                letters.append(_ESCAPES[escape])
                position += 2
            elif digits:
                code = piece[position + 2 : position + 2 + digits]
                try:
                    letters.append(chr(int(code, 16)))
                except ValueError:
                    raise self.fail(at, "invalid syntax") from None
                position += 2 + digits
            else:
                raise self.fail(at, "invalid syntax")
        text = "".join(letters)
        if quote == "'":
            if len(text) != 1:
                raise self.fail(at, "malformed character constant")
            return position + 1, "literal", ord(text)
        return position + 1, "literal", text


def _is_name(letter: str) -> bool:
    return letter == "_" or letter.isalnum()
