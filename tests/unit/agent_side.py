"""Functions for the tests of the agent: what is called inside must be importable there."""

from __future__ import annotations

import os
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from labctl.errors import LabctlError, UsageError
from labctl.events import Emit, Event
from labctl.sandbox.remote import remote

START = f"""\
import sys
sys.path.append({str(Path(__file__).parent)!r})
import agent_side
from labctl.sandbox import agent, framing
framing.MOST = {1 << 20}
agent.main()
"""
"""An agent that has this module, and sends no long answers."""
WORDS = [sys.executable, "-P", "-c", START]


class OwnError(UsageError):
    """An error of a kind that only its own module knows."""


@dataclass(frozen=True)
class Thing:
    name: str
    file: Path


@remote
def pid() -> int:
    return os.getpid()


@remote
def count(names: str, emit: Emit) -> int:
    for name in names:
        emit(Event("counting", name, "progress"))
    return len(names)


@remote
def own() -> None:
    raise OwnError("a mistake of the user's", "do it another way", "some\nlines")


@remote
def plain_error() -> None:
    raise LabctlError("up\x1b[2J\nand down", "hint\x07", "one\ntwo\x1b")


@remote
def lie() -> int:
    return cast("int", "no number")


@remote
def lock() -> str:
    return cast("str", threading.Lock())


@remote
def long(size: int) -> str:
    return "x" * size


@remote
def same(value: int) -> int:
    return value


@remote
def below(thing: Thing, name: str = "z") -> Thing:
    return Thing(thing.name.upper(), thing.file / name)


@remote
def leave(status: int) -> None:
    sys.exit(status)


@remote
def listed(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir()]


@remote
def fill() -> None:
    Path("/dev/full").write_text("more")


def unmarked() -> int:
    return 1
