"""What may be called in an agent, and what a call, its answer and its errors look like.

A function is called by its name, `module:function`, and only if it is marked `remote`. Arguments
and result are JSON, written and read by the function's own annotations (see `codec`), so neither
end can make the other use a type, or run a function, that is not in these.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple, TypeVar, get_type_hints

from labctl.errors import DeadlineError, GuestError, HostError, LabctlError, UsageError
from labctl.events import Event
from labctl.sandbox import codec
from labctl.sandbox.process import CommandError

F = TypeVar("F", bound=Callable[..., Any])

EMIT = "emit"
"""The parameter by which a function reports progress; it is not sent."""
LONGEST = 4000
LONGEST_DETAIL = 100_000
"""Characters of an error's line and of its evidence: an agent may be a stranger's."""


class AgentError(LabctlError):
    """A fault inside the agent that is not a labctl error; holds the traceback for the log."""


@dataclass(frozen=True)
class Request:
    """Call a function, with `emit=` if it is to report progress."""

    number: int
    function: str
    args: list[codec.Plain]
    events: bool


@dataclass(frozen=True)
class Failure:
    """An error: which of `ERRORS`, and its words."""

    kind: str
    message: str
    hint: str
    detail: str


@dataclass(frozen=True)
class Reply:
    """The end of a request (`value` or `error`), or an event on the way."""

    number: int
    value: codec.Plain | None = None
    error: Failure | None = None
    event: Event | None = None


class Signature(NamedTuple):
    """What a function takes and gives."""

    args: tuple[Any, ...]
    needed: int
    """How many of them have no default."""
    result: Any


_functions: dict[str, Callable[..., Any]] = {}


def remote(function: F) -> F:
    """Let a module-level function be called in an agent; its annotations say what is sent."""
    if function.__module__ != "__main__":  # an agent's own file, which is imported by its name too
        _functions[f"{function.__module__}:{function.__qualname__}"] = function
    return function


def name_of(function: Callable[..., Any]) -> str:
    """Return the name by which a function is called; raises `TypeError` unless it is `remote`."""
    module, within = getattr(function, "__module__", "?"), getattr(function, "__qualname__", "?")
    name = f"{module}:{within}"
    if _functions.get(name) is not function:
        raise TypeError(f"{name} cannot be called in an agent: it is not marked as remote")
    return name


def find(name: str) -> Callable[..., Any]:
    """Return the function of a name; raises `LookupError` unless it is `remote`.

    A module of labctl's own is imported for it, and none else.
    """
    module = name.partition(":")[0]
    if name not in _functions and module.startswith("labctl."):
        import_module(module)
    if name not in _functions:
        raise LookupError(f"{name} is no function that may be called here")
    return _functions[name]


@cache
def signature(name: str) -> Signature:
    """Return what the function of a name takes and gives."""
    function = find(name)
    hints = get_type_hints(function)
    parameters = [
        one for one in inspect.signature(function).parameters.values() if one.name != EMIT
    ]
    return Signature(
        tuple(hints[one.name] for one in parameters),
        sum(one.default is one.empty for one in parameters),
        hints["return"],
    )


def written(name: str, args: tuple[Any, ...]) -> list[Any]:
    """Return arguments as JSON; raises `TypeError` for what the function does not take."""
    known = signature(name)
    _count(name, known, len(args))
    try:
        return [codec.write(arg, kind) for arg, kind in zip(args, known.args, strict=False)]
    except codec.CodecError as wrong:
        raise TypeError(f"{name} does not take this: {wrong}") from None


def given(name: str, args: list[Any]) -> list[Any]:
    """Return the arguments that `written` gave; raises `CodecError`, `TypeError`."""
    known = signature(name)
    _count(name, known, len(args))
    return [codec.read(arg, kind) for arg, kind in zip(args, known.args, strict=False)]


def _count(name: str, known: Signature, given: int) -> None:
    if not known.needed <= given <= len(known.args):
        raise TypeError(f"{name} takes {len(known.args)} arguments, not {given}")


# --- errors -------------------------------------------------------------------------------------

ERRORS: dict[str, type[LabctlError]] = {
    kind.__name__: kind
    for kind in (
        LabctlError, UsageError, HostError, GuestError, DeadlineError, CommandError, AgentError,
    )
}  # fmt: skip
"""The errors that arrive as what they are; others as the one of these that they are a kind of."""


def failure(error: BaseException) -> Failure:
    """Return what is sent of an error; one that is not labctl's is told with its traceback."""
    if not isinstance(error, LabctlError):
        text = "".join(traceback.format_exception(error))
        error = AgentError(f"{type(error).__name__}: {error}", "", text)
    kind = next(one for one in type(error).__mro__ if one in ERRORS.values())
    return Failure(kind.__name__, str(error.message), str(error.hint), str(error.detail))


def error_of(told: Failure) -> LabctlError:
    """Return the error that was sent, its line a line; raises `CodecError` for an unknown one."""
    if told.kind not in ERRORS:
        raise codec.CodecError("is no error of labctl's").at("kind")
    message, hint = (" ".join(one[:LONGEST].splitlines()) for one in (told.message, told.hint))
    return ERRORS[told.kind](message, hint, told.detail[-LONGEST_DETAIL:])
