"""Small stand-ins for modules of the standard library whose import costs more than their use.

Half of what a command of ``sampan-oci`` would take is the import of ``typing``, ``re``, ``enum``,
``json``, ``socket`` and ``signal``, of which it needs a few functions that are written in C anyway.
:func:`install` puts modules with just those in their place before anything else is imported.  What
a stand-in lacks is taken from the real module, which is imported then: nothing is missing, it only
comes later.
"""

from __future__ import annotations

import _collections  # type: ignore[import-not-found]
import _collections_abc
import _json
import _signal  # type: ignore[import-not-found]
import _socket
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType
    from typing import Any

_NAMES = (
    "typing",
    "collections.abc",
    "contextlib",
    "functools",
    "array",
    "re",
    "json",
    "signal",
    "socket",
)
_Module = type(sys)
_installed: dict[str, Any] = {}


def install() -> None:
    """Put the stand-ins in the place of modules that have not been imported yet."""
    makers: tuple[Callable[[], dict[str, Any]], ...] = (
        _typing,
        lambda: vars(_collections_abc),
        _contextlib,
        _functools,
        lambda: {"array": lambda _, numbers: _packed(numbers)},
        _re,
        _json_,
        lambda: vars(_signal),
        _socket_,
    )
    for name, make in zip(_NAMES, makers, strict=True):
        if name not in sys.modules:
            sys.modules[name] = _installed[name] = _stand_in(name, make())


def _stand_in(name: str, content: dict[str, Any]) -> Any:
    def missing(wanted: str) -> Any:
        if wanted.startswith("__"):
            # The import system asks whether it is a package.
            raise AttributeError(wanted)
        return getattr(_real(name), wanted)

    module = _Module(name)
    vars(module).update(content)
    vars(module).update(__name__=name, __spec__=None, __getattr__=missing)
    return module


def _real(name: str) -> Any:
    """The module itself, whose own imports must be real as well."""
    for other in _NAMES:
        if sys.modules.get(other) is _installed.get(other):
            sys.modules.pop(other, None)
    return __import__(name, fromlist=["*"])


# --- typing -------------------------------------------------------------------------------------


class _Fields(type):
    """Makes a subclass's annotations the names of a tuple's elements."""

    def __new__(cls, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> Any:
        fields = tuple(body.get("__annotations__", ()))
        defaults = {field: body.pop(field) for field in fields if field in body}
        body |= {field: _collections._tuplegetter(i, "") for i, field in enumerate(fields)}
        made = type.__new__(cls, name, bases, {"__slots__": (), **body})
        made._fields = fields  # type: ignore[attr-defined]
        made._field_defaults = defaults  # type: ignore[attr-defined]
        return made


class _NamedTuple(tuple):  # type: ignore[type-arg]
    """As ``typing.NamedTuple``'s classes."""

    __slots__ = ()
    _fields: tuple[str, ...] = ()
    _field_defaults: dict[str, Any]

    def __new__(cls, *values: Any, **named: Any) -> Any:
        fields = cls._fields
        if len(values) != len(fields):
            given = {**cls._field_defaults, **named}
            values += tuple(given[field] for field in fields[len(values) :] if field in given)
            named = {name: value for name, value in named.items() if name not in fields}
        if named or len(values) != len(fields):
            raise TypeError(f"{cls.__name__} takes {', '.join(fields)}")
        return tuple.__new__(cls, values)

    def _asdict(self) -> dict[str, Any]:
        return dict(zip(self._fields, self, strict=True))

    def _replace(self, **changed: Any) -> Any:
        return type(self)(**{**self._asdict(), **changed})

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({', '.join(f'{n}={v!r}' for n, v in self._asdict().items())})"
        )


class _Base:
    """What a class statement takes in the place of ``typing.NamedTuple``."""

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        return (_named,)


_named = _Fields("NamedTuple", (_NamedTuple,), {})


def _typing() -> dict[str, Any]:
    return {"Any": object, "NamedTuple": _Base(), "NoReturn": None, "Protocol": object}


# --- contextlib, functools, re ------------------------------------------------------------------


class _Context:
    """A generator of one value as a context manager."""

    def __init__(self, steps: Iterator[Any]) -> None:
        self._steps = steps

    def __enter__(self) -> Any:
        return next(self._steps)

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, _: object
    ) -> bool:
        try:
            if failure is None:
                next(self._steps)
            else:
                self._steps.throw(failure)  # type: ignore[attr-defined]
        except StopIteration:
            return failure is not None
        except BaseException as raised:
            if raised is failure:
                return False
            raise
        raise RuntimeError("the generator did not stop")


class _Nothing:
    """A context that does nothing."""

    def __init__(self, enter_result: Any = None) -> None:
        self._result = enter_result

    def __enter__(self) -> Any:
        return self._result

    def __exit__(self, *_: object) -> None:
        pass


class _Suppressed:
    """A context that ends quietly at exceptions of these types."""

    def __init__(self, *kinds: type[BaseException]) -> None:
        self._kinds = kinds

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        return kind is not None and issubclass(kind, self._kinds)


def _contextlib() -> dict[str, Any]:
    def contextmanager(function: Callable[..., Iterator[Any]]) -> Callable[..., _Context]:
        return lambda *args, **kwargs: _Context(function(*args, **kwargs))

    return {
        "contextmanager": contextmanager,
        "nullcontext": _Nothing,
        "suppress": _Suppressed,
        "AbstractContextManager": object,
    }


def _functools() -> dict[str, Any]:
    # A command ends before it would ask a second time.
    return {"cache": lambda function: function, "lru_cache": lambda **_: lambda function: function}


class _Pattern:
    """Compiled when it is used."""

    def __init__(self, text: str, flags: int = 0) -> None:
        self._text, self._flags = text, flags

    def __getattr__(self, name: str) -> Any:
        return getattr(_real("re").compile(self._text, self._flags), name)


def _re() -> dict[str, Any]:
    return {"compile": _Pattern, "ASCII": 256}


# --- json ---------------------------------------------------------------------------------------


class _Settings:
    """What the scanner written in C reads from the decoder."""

    def __init__(self) -> None:
        numbers = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": -float("inf")}
        self.strict = True
        self.object_hook = self.object_pairs_hook = None
        self.parse_float, self.parse_int = float, int
        self.parse_constant = numbers.__getitem__
        self.memo: dict[str, str] = {}


def _json_() -> dict[str, Any]:
    scan = _json.make_scanner(_Settings())  # type: ignore[arg-type]

    def loads(text: str | bytes | bytearray) -> Any:
        try:
            words = text if isinstance(text, str) else text.decode()
            start = len(words) - len(words.lstrip(" \t\n\r"))
            found, end = scan(words, start)
            if not words[end:].strip(" \t\n\r"):
                return found
        except (StopIteration, ImportError, UnicodeDecodeError):
            pass
        # Byte order marks, UTF-16, and what is wrong and where.
        return _real("json").loads(text)

    def load(file: Any) -> Any:
        return loads(file.read())

    def dumps(value: Any, **options: Any) -> str:
        if options:
            return str(_real("json").dumps(value, **options))
        encode = _json.make_encoder(
            {}, _refuse, _json.encode_basestring_ascii, None, ": ", ", ", False, False, True
        )
        return "".join(encode(value, 0))

    return {"loads": loads, "load": load, "dumps": dumps}


def _refuse(value: object) -> None:
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


# --- socket -------------------------------------------------------------------------------------


def _packed(numbers: Sequence[int]) -> bytes:
    return b"".join(number.to_bytes(4, sys.byteorder, signed=True) for number in numbers)


class _Socket(_socket.socket):
    """A socket that a ``with`` statement closes."""

    def __enter__(self) -> _Socket:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        failure: BaseException | None,
        _: TracebackType | None,
    ) -> None:
        self.close()

    def accept(self) -> tuple[_Socket, Any]:
        fd, address = self._accept()  # type: ignore[attr-defined]
        return _Socket(self.family, self.type, self.proto, fileno=fd), address


def _socket_() -> dict[str, Any]:
    def socketpair(family: int, kind: int) -> tuple[_Socket, _Socket]:
        one, other = _socket.socketpair(family, kind)
        return (
            _Socket(family, kind, 0, fileno=one.detach()),
            _Socket(family, kind, 0, fileno=other.detach()),
        )

    def send_fds(sock: _Socket, buffers: Sequence[bytes], fds: Sequence[int]) -> int:
        return sock.sendmsg(buffers, [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, _packed(fds))])

    def recv_fds(
        sock: _Socket, size: int, most: int, flags: int = 0
    ) -> tuple[bytes, list[int], int, Any]:
        data, extra, told, address = sock.recvmsg(size, _socket.CMSG_LEN(most * 4), flags)
        fds: list[int] = []
        for level, kind, packed in extra:
            if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS):
                fds += (
                    int.from_bytes(packed[at : at + 4], sys.byteorder, signed=True)
                    for at in range(0, len(packed) // 4 * 4, 4)
                )
        return data, fds, told, address

    return {
        **vars(_socket),
        "socket": _Socket,
        "socketpair": socketpair,
        "send_fds": send_fds,
        "recv_fds": recv_fds,
    }
