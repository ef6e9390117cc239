"""What is put off to the end: calls that undo what a step did, whatever happens meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ParamSpec

from labctl.errors import LabctlError

P = ParamSpec("P")


class Deferred:
    """Calls for the end, in reverse order; none is left out because another one failed."""

    def __init__(self) -> None:
        """Start with none."""
        self._calls: list[partial[object]] = []

    def add(self, call: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Put a call off."""
        self._calls.append(partial(call, *args, **kwargs))

    def run(self, tell: Callable[[LabctlError], None]) -> None:
        """Make all calls, and `tell` of each that failed, with its name.

        What is no `Exception`, such as an interrupt, is raised when all have been made.
        """
        interrupt: BaseException | None = None
        while self._calls:
            call = self._calls.pop()
            try:
                call()
            except LabctlError as error:
                message = f"{_name(call)}: {error.message}"
                tell(LabctlError(message, error.hint, error.detail))
            except Exception as fault:
                text = f"{type(fault).__name__}: {fault}".rstrip(": ")
                tell(LabctlError(f"{_name(call)}: {text}"))
            except BaseException as stop:
                interrupt = interrupt or stop
        if interrupt:
            raise interrupt


def _name(call: partial[object]) -> str:
    return str(getattr(call.func, "__qualname__", type(call.func).__name__))
