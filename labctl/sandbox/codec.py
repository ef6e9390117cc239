"""Values as JSON and back, by types that the reader knows: what crosses to an agent, and files.

A value is written and read by a type annotation. Nothing in the data names a type, a module or a
function to use, but for a union, where it names one of the members that the reader lists. So what a
stranger wrote can be wrong, and then it is one `CodecError` that says where; it can do nothing.

Types: None, bool, int, float, str, bytes (base64), Path, addresses of `ipaddress`, Literal, Enum,
dataclasses, `list`, `tuple`, `dict` and their abstract kin, unions, `Plain` (JSON as it is), and
classes that travel as another type (`Travels`). Standard library only: it runs in a dom0 too.
"""

from __future__ import annotations

import base64
import binascii
import collections.abc
import dataclasses
import enum
import ipaddress
import math
import types
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, NewType, Protocol, Union, get_args, get_origin
from typing import get_type_hints as hints_of

from labctl.sandbox.jsontext import CodecError, parse, shown, text

__all__ = ["CodecError", "Plain", "dumps", "loads", "parse", "read", "text", "write"]

Plain = NewType("Plain", object)
"""What `json.loads` returns, not looked at."""


class Travels(Protocol):
    """A class whose values are written as those of another type, which `landed` takes."""

    def travelling(self) -> object:
        """Return what is written."""

    @classmethod
    def landed(cls, value: Any) -> Travels:
        """Make a value of what was written; its annotation is the type of that."""


class _Form(NamedTuple):
    """How the values of one type are written and read."""

    write: Callable[[Any], Any]
    """To what `json.dumps` takes; raises `CodecError`."""
    read: Callable[[Any], Any]
    """From what `json.loads` returned; raises `CodecError`."""


def dumps(value: object, kind: Any) -> bytes:
    """Write a value of the type `kind`; raises `CodecError` for one that is not of it."""
    return text(write(value, kind))


def loads(data: bytes, kind: Any) -> Any:
    """Read a value of the type `kind`; raises `CodecError` for anything else."""
    return read(parse(data), kind)


def write(value: object, kind: Any) -> Any:
    """Return a value as what `json.dumps` takes; raises `CodecError`."""
    try:
        return form(kind).write(value)
    except RecursionError:
        raise CodecError("it holds itself, or too much in each other") from None


def read(plain: Any, kind: Any) -> Any:
    """Return the value of type `kind` that `write` gave as `plain`; raises `CodecError`."""
    try:
        return form(kind).read(plain)
    except RecursionError:
        raise CodecError("too much in each other") from None


# --- types --------------------------------------------------------------------------------------


def form(kind: Any) -> _Form:
    """Return how values of a type are written and read; raises `TypeError` for an unknown type."""
    try:
        return _form(kind)
    except TypeError as unknown:
        if "unhashable" not in str(unknown):
            raise
        raise TypeError(f"values of {kind} cannot be written") from None


@cache
def _form(kind: Any) -> _Form:
    if kind is None or kind is type(None):
        return _exactly(type(None), "nothing")
    if kind in _SIMPLE:
        return _SIMPLE[kind]
    origin = get_origin(kind)
    if origin is Literal:
        return _literal(get_args(kind))
    if origin in (Union, types.UnionType):
        return _union(get_args(kind))
    if origin in _LISTS:
        return _list(_form(get_args(kind)[0]))
    if origin is tuple:
        return _tuple(get_args(kind))
    if origin in _DICTS:
        key, value = get_args(kind)
        return _dict(_form(key), _form(value))
    if isinstance(kind, type):
        if issubclass(kind, enum.Enum):
            return _enum(kind)
        if hasattr(kind, "travelling"):
            return _travelling(kind)
        if dataclasses.is_dataclass(kind):
            return _dataclass(kind)
    raise TypeError(f"values of {kind} cannot be written")


def _not(what: str, value: object) -> CodecError:
    found = repr(shown(value)) if isinstance(value, str) else shown(value)
    return CodecError(f"{what} should stand here, not {found}")


def _exactly(kind: type, what: str) -> _Form:
    def same(value: Any) -> Any:
        if type(value) is kind:
            return value
        raise _not(what, value)

    return _Form(same, same)


def _int() -> _Form:
    exact = _exactly(int, "a whole number")

    def read(value: Any) -> Any:
        if type(value) is int and not -(1 << 63) <= value < 1 << 63:
            raise CodecError("the number is too large")
        return exact.read(value)

    def write(value: Any) -> Any:
        # A signal's number is an int of a class of its own.
        same = isinstance(value, int) and not isinstance(value, bool)
        return int(value) if same else exact.write(value)

    return _Form(write, read)


def _float() -> _Form:
    def number(value: Any) -> float:
        if type(value) is float and math.isfinite(value):
            return value
        if type(value) is int and abs(value) < 1 << 53:
            return float(value)
        raise _not("a number", value)

    return _Form(number, number)


def _str() -> _Form:
    exact = _exactly(str, "text")

    def write(value: Any) -> str:
        return str.__str__(value) if isinstance(value, str) else exact.write(value)

    return _Form(write, exact.read)


def _bytes() -> _Form:
    def write(value: Any) -> str:
        if isinstance(value, bytes):
            return base64.b64encode(value).decode()
        raise _not("bytes", value)

    def read(value: Any) -> bytes:
        if isinstance(value, str):
            try:
                return base64.b64decode(value, validate=True)
            except (binascii.Error, ValueError):
                pass
        raise _not("base64", value)

    return _Form(write, read)


def _as_text(kind: type, what: str) -> _Form:
    """Return the form of a class whose values are made of their own text."""

    def write(value: Any) -> str:
        if isinstance(value, kind):
            return str(value)
        raise _not(what, value)

    def read(value: Any) -> Any:
        if type(value) is str and "\0" not in value:
            try:
                return kind(value)
            except ValueError:
                pass
        raise _not(what, value)

    return _Form(write, read)


def _same(value: Any) -> Any:
    return value


_SIMPLE: dict[Any, _Form] = {
    bool: _exactly(bool, "true or false"),
    int: _int(),
    float: _float(),
    str: _str(),
    bytes: _bytes(),
    Plain: _Form(_same, _same),
    Path: _as_text(Path, "a path"),
    ipaddress.IPv4Address: _as_text(ipaddress.IPv4Address, "an IPv4 address"),
    ipaddress.IPv6Address: _as_text(ipaddress.IPv6Address, "an IPv6 address"),
    ipaddress.IPv4Interface: _as_text(ipaddress.IPv4Interface, "an IPv4 address and prefix"),
    ipaddress.IPv6Interface: _as_text(ipaddress.IPv6Interface, "an IPv6 address and prefix"),
    ipaddress.IPv4Network: _as_text(ipaddress.IPv4Network, "an IPv4 network"),
    ipaddress.IPv6Network: _as_text(ipaddress.IPv6Network, "an IPv6 network"),
}
_LISTS = (list, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)
_DICTS = (dict, collections.abc.Mapping)


def _literal(values: tuple[Any, ...]) -> _Form:
    words = ", ".join(map(repr, values))

    def one(value: Any) -> Any:
        # Not `in` alone: True is 1.
        if any(type(value) is type(known) and value == known for known in values):
            return value
        raise _not(f"one of {words}", value)

    return _Form(one, one)


def _enum(kind: type[enum.Enum]) -> _Form:
    """Return the form of an enumeration: its members by their names."""

    def write(value: Any) -> str:
        if isinstance(value, kind):
            return value.name
        raise _not(kind.__name__, value)

    def read(value: Any) -> enum.Enum:
        if isinstance(value, str) and value in kind.__members__:
            return kind.__members__[value]
        raise _not(f"one of {', '.join(kind.__members__)}", value)

    return _Form(write, read)


def _list(item: _Form) -> _Form:
    def write(value: Any) -> list[Any]:
        if not isinstance(value, list | tuple):
            raise _not("a list", value)
        return _each(item.write, value)

    def read(value: Any) -> list[Any]:
        if type(value) is not list:
            raise _not("a list", value)
        return _each(item.read, value)

    return _Form(write, read)


def _each(do: Callable[[Any], Any], values: Any) -> list[Any]:
    done: list[Any] = []
    try:
        for value in values:
            done.append(do(value))
    except CodecError as wrong:
        raise wrong.at(f"[{len(done)}]") from None
    return done


def _tuple(kinds: tuple[Any, ...]) -> _Form:
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        items = _list(_form(kinds[0]))
        return _Form(items.write, lambda value: tuple(items.read(value)))
    forms = [_form(kind) for kind in kinds]

    def fixed(values: Any, which: int) -> list[Any]:
        if not isinstance(values, list | tuple) or len(values) != len(forms):
            raise _not(f"a list of {len(forms)}", values)
        done: list[Any] = []
        try:
            for one, value in zip(forms, values, strict=True):
                done.append(one[which](value))
        except CodecError as wrong:
            raise wrong.at(f"[{len(done)}]") from None
        return done

    return _Form(lambda value: fixed(value, 0), lambda value: tuple(fixed(value, 1)))


def _dict(key: _Form, item: _Form) -> _Form:
    def each(values: Any, which: int) -> dict[Any, Any]:
        done: dict[Any, Any] = {}
        name: Any = ""
        try:
            for name, value in values.items():
                done[key[which](name)] = item[which](value)
        except CodecError as wrong:
            raise wrong.at(name) from None
        return done

    def write(value: Any) -> dict[Any, Any]:
        if not isinstance(value, collections.abc.Mapping):
            raise _not("a table", value)
        done = each(value, 0)
        if not all(type(name) is str for name in done):
            raise CodecError("a table's keys must be text")
        return done

    def read(value: Any) -> dict[Any, Any]:
        if type(value) is not dict:
            raise _not("a table", value)
        return each(value, 1)

    return _Form(write, read)


def _union(kinds: tuple[Any, ...]) -> _Form:
    """Return the form of a union: None, or the only other member, or `{NAME OF MEMBER: value}`."""
    others = [kind for kind in kinds if kind is not type(None)]
    optional = len(others) < len(kinds)
    inner = _form(others[0]) if len(others) == 1 else _tagged(others)
    if not optional:
        return inner
    return _Form(
        lambda value: None if value is None else inner.write(value),
        lambda value: None if value is None else inner.read(value),
    )


def _tagged(kinds: list[Any]) -> _Form:
    if not all(isinstance(kind, type) for kind in kinds):
        raise TypeError(f"of {kinds} it could not be told which one a value is of")
    forms = {kind.__name__: _form(kind) for kind in kinds}
    names = ", ".join(forms)

    def write(value: Any) -> dict[str, Any]:
        name = type(value).__name__
        if type(value) not in kinds:
            raise _not(f"one of {names}", value)
        return {name: forms[name].write(value)}

    def read(value: Any) -> Any:
        if type(value) is dict and len(value) == 1:
            ((name, inner),) = value.items()
            if name in forms:
                return forms[name].read(inner)
        raise _not(f"one of {names}", value)

    return _Form(write, read)


def _travelling(kind: Any) -> _Form:
    hints = hints_of(kind.landed)
    hints.pop("return", None)
    ((_, other),) = hints.items()
    inner = _form(other)

    def write(value: Any) -> Any:
        if isinstance(value, kind):
            return inner.write(value.travelling())
        raise _not(f"a {kind.__name__}", value)

    return _Form(write, lambda value: kind.landed(inner.read(value)))


def _dataclass(kind: type) -> _Form:
    """Return the form of a dataclass: a table of its fields; one that has a default may be absent.

    Its fields' types are looked up when the first value comes, so it may hold others of its kind.
    """
    known: dict[str, _Form] = {}
    needed: set[str] = set()

    def fields() -> dict[str, _Form]:
        if not known:
            hints = hints_of(kind)
            found = {}
            for field in dataclasses.fields(kind):
                if not field.init:
                    continue
                found[field.name] = _form(hints[field.name])
                if (
                    field.default is dataclasses.MISSING
                    and field.default_factory is dataclasses.MISSING
                ):
                    needed.add(field.name)
            known.update(found)
        return known

    def write(value: Any) -> dict[str, Any]:
        if type(value) is not kind:
            raise _not(f"a {kind.__name__}", value)
        name, done = "", {}
        try:
            for name, one in fields().items():
                done[name] = one.write(getattr(value, name))
        except CodecError as wrong:
            raise wrong.at(name) from None
        except AttributeError:
            raise CodecError("is missing").at(name) from None
        return done

    def read(value: Any) -> Any:
        if type(value) is not dict:
            raise _not(f"a table ({kind.__name__})", value)
        known = fields()
        name, done = "", {}
        try:
            for name, inner in value.items():
                one = known.get(name)
                if one is None:
                    raise CodecError(f"is unknown in {kind.__name__}")
                done[name] = one.read(inner)
        except CodecError as wrong:
            raise wrong.at(name) from None
        if lacking := needed - done.keys():
            raise CodecError("is missing").at(min(lacking))
        return kind(**done)

    return _Form(write, read)
