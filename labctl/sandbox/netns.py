"""Run a function in a named network namespace of the sandbox it is called in."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from labctl.sandbox.lazy_import import Late

if TYPE_CHECKING:
    from pyroute2 import netns
else:
    netns = Late("pyroute2.netns")

P = ParamSpec("P")
T = TypeVar("T")


def enter(name: str) -> None:
    """Move this thread, the only one of its process, to a named network namespace for good.

    Raises `OSError` when there is no such namespace.
    """
    netns.setns(name, flags=0)  # by default it would make a missing one


def inside(name: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `function` in the network namespace `name` ("" for the sandbox's own); return its result.

    setns(2) moves one thread only, so the function runs in a thread that ends with it and the
    caller never moves. Raises `OSError` when there is no such namespace.
    """
    if not name:
        return function(*args, **kwargs)
    results: list[T] = []
    errors: list[BaseException] = []

    def body() -> None:
        try:
            netns.setns(name, flags=0)  # by default it would make a missing one
            results.append(function(*args, **kwargs))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=body, name=f"netns-{name}")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
