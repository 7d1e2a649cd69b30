"""Small stand-ins for modules of the standard library whose import costs more than their use.

Half of what a command of ``sampan-oci`` would take is the import of ``typing``, ``re``, ``enum``,
``json``, ``ctypes``, ``socket`` and ``signal``, of which it needs a few functions that are written
in C anyway.  :func:`install` puts modules with just those in their place before anything else is
imported.  What a stand-in lacks is taken from the real module, which is imported then: nothing is
missing, it only comes later.  Inside a container that is too late, so whatever is used there must be
here.
"""

from __future__ import annotations

import _collections  # type: ignore[import-not-found]
import _collections_abc
import _ctypes as _plain_ctypes
import _json
import _signal  # type: ignore[import-not-found]
import errno
import os
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
    "ctypes",
    "socket",
    "fcntl",
)
# In machine code, without imports of their own: loaded when something of them is used.
_LATE = ("resource", "select", "struct")
_ctypes: Any = _plain_ctypes
_Module = type(sys)
_installed: dict[str, Any] = {}
_reals: dict[str, Any] = {}


def install() -> None:
    """Put the stand-ins in the place of modules that have not been imported yet."""
    library, ctypes = _Library(None, use_errno=True), _ctypes_()
    makers: tuple[Callable[[], dict[str, Any]], ...] = (
        _typing,
        lambda: vars(_collections_abc),
        _contextlib,
        _functools,
        lambda: {"array": lambda _, numbers: _packed(numbers)},
        _re,
        _json_,
        lambda: vars(_signal),
        lambda: ctypes,
        lambda: _socket_(library, ctypes),
        lambda: _fcntl(library, ctypes),
    )
    for name, make in zip(_NAMES, makers, strict=True):
        if name not in sys.modules:
            more = _sockets if name == "socket" else dict
            sys.modules[name] = _installed[name] = _stand_in(name, make(), more)
    for name in _LATE:
        if name not in sys.modules:
            sys.modules[name] = _installed[name] = _stand_in(name, {}, dict)


def _stand_in(name: str, content: dict[str, Any], more: Callable[[], dict[str, Any]]) -> Any:
    def missing(wanted: str) -> Any:
        if wanted.startswith("__"):
            # The import system asks whether it is a package.
            raise AttributeError(wanted)
        further = more()
        if wanted not in further:
            further = {wanted: getattr(_real(name), wanted)}
        own = {name: value for name, value in further.items() if not name.startswith("__")}
        vars(module).update({**own, **content})
        return further[wanted]

    module = _Module(name)
    vars(module).update(content)
    vars(module).update(__name__=name, __spec__=None, __getattr__=missing)
    return module


def _real(name: str) -> Any:
    """The module itself, whose own imports are real as well.  Others get the stand-ins still."""
    if name in _reals:
        return _reals[name]
    modules = sys.modules
    if name in _LATE:
        modules.pop(name, None)
        # What else the module in Python has is its documentation.
        _reals[name] = modules[name] = __import__("_struct" if name == "struct" else name)
        return _reals[name]
    aside = {other: modules.pop(other) for other in _NAMES if _stands_in(other)}
    modules.update(_reals)
    try:
        __import__(name, fromlist=["*"])
    finally:
        for other, stand_in in aside.items():
            if other in modules:
                _reals[other] = modules[other]
            modules[other] = stand_in
    return _reals[name]


def _stands_in(name: str) -> bool:
    return name in _installed and sys.modules.get(name) is _installed[name]


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

    def dumps(value: Any, indent: int | None = None, **options: Any) -> str:
        if options:
            return str(_real("json").dumps(value, indent=indent, **options))
        encode = _json.make_encoder(
            {}, _refuse, _json.encode_basestring_ascii, None, ": ", ", ", False, False, True
        )
        if indent is None:
            return "".join(encode(value, 0))
        return _indented(value, "\n", " " * indent, lambda part: "".join(encode(part, 0)))

    return {"loads": loads, "load": load, "dumps": dumps}


def _indented(value: Any, before: str, indent: str, encode: Callable[[Any], str]) -> str:
    """As the module's own encoder, which has no indentation when written in C."""
    inner = before + indent
    if value and isinstance(value, dict):
        parts = [
            f"{encode(str(k))}: {_indented(v, inner, indent, encode)}" for k, v in value.items()
        ]
        return f"{{{inner}{f',{inner}'.join(parts)}{before}}}"
    if value and isinstance(value, list | tuple):
        parts = [_indented(part, inner, indent, encode) for part in value]
        return f"[{inner}{f',{inner}'.join(parts)}{before}]"
    return encode(value)


def _refuse(value: object) -> None:
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


# --- ctypes, fcntl ------------------------------------------------------------------------------

_CODES = {
    "c_int": "i",
    "c_uint": "I",
    "c_long": "l",
    "c_ulong": "L",
    "c_ushort": "H",
    "c_char": "c",
    "c_char_p": "z",
    "c_void_p": "P",
}
_SAME = {
    "c_int32": "c_int",
    "c_uint32": "c_uint",
    "c_int64": "c_long",
    "c_uint64": "c_ulong",
    "c_size_t": "c_ulong",
}


class _Library:
    """The C library, whose functions keep the error number for :func:`_ctypes.get_errno`."""

    def __init__(self, name: None, *, use_errno: bool) -> None:
        self._handle = _ctypes.dlopen(name, 0)
        flags = _ctypes.FUNCFLAG_CDECL | _ctypes.FUNCFLAG_USE_ERRNO
        self._kind = type("_FuncPtr", (_ctypes.CFuncPtr,), {"_flags_": flags})

    def __getitem__(self, name: str) -> Any:
        return self._kind((name, self))

    def __getattr__(self, name: str) -> Any:
        return self[name]


def _checked(function: Any, *arguments: Any) -> int:
    """What a function returns, called again when a signal has interrupted it.  Raises OSError."""
    while (result := function(*arguments)) < 0:
        number = _ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))
    return int(result)


def _ctypes_() -> dict[str, Any]:
    types: dict[str, Any] = {
        name: type(name, (_ctypes._SimpleCData,), {"_type_": code}) for name, code in _CODES.items()
    }
    types |= {name: types[same] for name, same in _SAME.items()}
    pointer, size = types["c_void_p"], types["c_size_t"]

    def prototype(result: Any, *arguments: Any) -> Any:
        body = {
            "_argtypes_": arguments,
            "_restype_": result,
            "_flags_": _ctypes.FUNCFLAG_CDECL,
        }
        return type("CFunctionType", (_ctypes.CFuncPtr,), body)

    def memmove(to: Any, source: Any, count: int) -> Any:
        return prototype(pointer, pointer, pointer, size)(_ctypes._memmove_addr)(to, source, count)

    def create_string_buffer(init: bytes | int, length: int | None = None) -> Any:
        content = init if isinstance(init, bytes) else b""
        if length is None:
            length = init if isinstance(init, int) else len(init) + 1
        buffer = (types["c_char"] * length)()
        if content:
            buffer.value = content
        return buffer

    names = ("Array", "Structure", "POINTER", "addressof", "byref", "get_errno", "sizeof")
    return {
        **types,
        **{name: getattr(_ctypes, name) for name in names if hasattr(_ctypes, name)},
        "CDLL": _Library,
        "CFUNCTYPE": prototype,
        "create_string_buffer": create_string_buffer,
        "memmove": memmove,
    }


def _fcntl(library: _Library, ctypes: dict[str, Any]) -> dict[str, Any]:
    functions = {name: library[name] for name in ("fcntl", "flock", "ioctl")}
    for function in functions.values():
        function.argtypes = ctypes["c_int"], ctypes["c_ulong"], ctypes["c_ulong"]

    def call(name: str, fd: int, command: int, argument: int) -> int:
        return _checked(functions[name], fd, command, argument)

    def fcntl(fd: int, command: int, argument: int = 0) -> int:
        return call("fcntl", fd, command, argument)

    def flock(fd: int, operation: int) -> None:
        call("flock", fd, operation, 0)

    def ioctl(fd: int, request: int, argument: int | bytes = 0) -> int | bytes:
        if isinstance(argument, int):
            return call("ioctl", fd, request, argument)
        buffer = ctypes["create_string_buffer"](argument, len(argument))
        call("ioctl", fd, request, _ctypes.addressof(buffer))
        return bytes(buffer.raw)

    return {"fcntl": fcntl, "flock": flock, "ioctl": ioctl, "LOCK_EX": 2}


# --- socket -------------------------------------------------------------------------------------


def _packed(numbers: Sequence[int], size: int = 4) -> bytes:
    return b"".join(number.to_bytes(size, sys.byteorder, signed=True) for number in numbers)


def _numbers(packed: bytes) -> list[int]:
    return [
        int.from_bytes(packed[at : at + 4], sys.byteorder, signed=True)
        for at in range(0, len(packed) // 4 * 4, 4)
    ]


_AF_UNIX, _SOCK_SEQPACKET, _SOCK_CLOEXEC = 1, 5, 0o2000000
_SOL_SOCKET, _SCM_RIGHTS, _MSG_CMSG_CLOEXEC = 1, 1, 0x40000000
_WORD = 8 if sys.maxsize >> 32 else 4
_HEADER = _WORD + 8  # of a control message: its length, level and type


class _Pair:
    """One end of a connection that keeps the boundaries of messages, by system calls alone."""

    def __init__(self, fd: int, library: Any, ctypes: dict[str, Any]) -> None:
        self._fd = fd
        self._library, self._buffer = library, ctypes["create_string_buffer"]

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def setblocking(self, blocking: bool) -> None:
        os.set_blocking(self._fd, blocking)

    def send(self, data: bytes) -> int:
        return os.write(self._fd, data)

    def recv(self, size: int) -> bytes:
        return os.read(self._fd, size)

    def _message(self, call: str, data: Any, control: Any, flags: int) -> tuple[int, int]:
        """The result of sendmsg(2) or recvmsg(2), and how much of the buffer for control messages
        was filled."""
        vector = self._buffer(_packed((_ctypes.addressof(data), len(data)), _WORD), 2 * _WORD)
        words = 0, 0, _ctypes.addressof(vector), 1, _ctypes.addressof(control), len(control), 0
        header = self._buffer(_packed(words, _WORD), 7 * _WORD)
        result = _checked(self._library[call], self._fd, _ctypes.byref(header), flags)
        return result, int.from_bytes(header.raw[5 * _WORD : 6 * _WORD], sys.byteorder)

    def sendmsg(self, buffers: Sequence[bytes], rights: Sequence[tuple[int, int, bytes]]) -> int:
        data = b"".join(buffers)
        ((level, kind, packed),) = rights
        packed = bytes(packed)
        head = _packed((_HEADER + len(packed),), _WORD) + _packed((level, kind))
        control = self._buffer(head + packed, _HEADER + -(-len(packed) // _WORD) * _WORD)
        return self._message("sendmsg", self._buffer(data, len(data)), control, 0)[0]

    def recv_fds(self, size: int, most: int, flags: int) -> tuple[bytes, list[int]]:
        data, control = self._buffer(size), self._buffer(_HEADER + -(-most * 4 // _WORD) * _WORD)
        count, filled = self._message("recvmsg", data, control, flags)
        if filled < _HEADER:
            return data.raw[:count], []
        length = int.from_bytes(control.raw[:_WORD], sys.byteorder)
        return data.raw[:count], _numbers(control.raw[_HEADER:length])


def _socket_(library: _Library, ctypes: dict[str, Any]) -> dict[str, Any]:
    functions = {name: library[name] for name in ("sendmsg", "recvmsg")}
    make = library["socketpair"]

    def socketpair(family: int, kind: int) -> tuple[_Pair, _Pair]:
        ends = ctypes["create_string_buffer"](8)
        _checked(make, family, kind | _SOCK_CLOEXEC, 0, _ctypes.byref(ends))
        one, other = (_Pair(fd, functions, ctypes) for fd in _numbers(ends.raw))
        return one, other

    def send_fds(sock: Any, buffers: Sequence[bytes], fds: Sequence[int]) -> int:
        return int(sock.sendmsg(buffers, [(_SOL_SOCKET, _SCM_RIGHTS, _packed(fds))]))

    def recv_fds(
        sock: Any, size: int, most: int, flags: int = 0
    ) -> tuple[bytes, list[int], int, Any]:
        if isinstance(sock, _Pair):
            return *sock.recv_fds(size, most, flags), 0, None
        data, extra, told, address = sock.recvmsg(size, _HEADER + most * 4, flags)
        fds: list[int] = []
        for level, kind, packed in extra:
            if (level, kind) == (_SOL_SOCKET, _SCM_RIGHTS):
                fds += _numbers(packed)
        return data, fds, told, address

    return {
        "AF_UNIX": _AF_UNIX,
        "SOCK_SEQPACKET": _SOCK_SEQPACKET,
        "SOL_SOCKET": _SOL_SOCKET,
        "SCM_RIGHTS": _SCM_RIGHTS,
        "MSG_CMSG_CLOEXEC": _MSG_CMSG_CLOEXEC,
        "socketpair": socketpair,
        "send_fds": send_fds,
        "recv_fds": recv_fds,
    }


def _sockets() -> Any:
    """What a connection to others needs."""
    import _socket

    class Socket(_socket.socket):
        """A socket that a ``with`` statement closes."""

        def __enter__(self) -> Socket:
            return self

        def __exit__(
            self,
            kind: type[BaseException] | None,
            failure: BaseException | None,
            _: TracebackType | None,
        ) -> None:
            self.close()

        def accept(self) -> tuple[Socket, Any]:
            fd, address = self._accept()  # type: ignore[attr-defined]
            return Socket(self.family, self.type, self.proto, fileno=fd), address

    return {**vars(_socket), "socket": Socket}
