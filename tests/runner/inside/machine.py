"""How a machine is read: its files below a folder, and the programs it has."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict

Things = dict[str, object]
"""All things of one kind: each name with what is said of it, as JSON has it."""

SECONDS = 120.0
"""For one program; only one that hangs takes that long, even on an emulated CPU."""


class Snapshot(TypedDict):
    """All that was taken of a machine."""

    ignore: list[str]
    """Globs of files which were left out."""
    skipped: dict[str, str]
    """Kinds that could not be taken, each with why."""
    kinds: dict[str, Things]


class SkippedError(Exception):
    """A kind of things cannot be taken here; the message says why."""


def run(command: Sequence[str]) -> str:
    """Return what a program prints; raise SkippedError where it is missing or fails."""
    # A login by SSH may have a PATH without the folders of system programs.
    path = os.environ.get("PATH", "") + ":/usr/sbin:/usr/bin:/sbin:/bin"
    program = shutil.which(command[0], path=path)
    if program is None:
        raise SkippedError(f"no {command[0]} here")
    done = subprocess.run(
        [program, *command[1:]],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=SECONDS,
        env={"PATH": path, "LC_ALL": "C.UTF-8"},
        check=False,
    )
    if done.returncode != 0:
        raise SkippedError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


@dataclass(frozen=True)
class Machine:
    """Where to read: the root of all files (another than / in tests), and how programs run."""

    root: str = "/"
    run: Callable[[Sequence[str]], str] = run

    def path(self, name: str) -> str:
        """Return where a file of the machine is, by its path without the leading slash."""
        return self.root.rstrip("/") + "/" + name

    def text(self, name: str) -> str | None:
        """Return a file's content; None where it is missing or cannot be read."""
        try:
            with open(self.path(name), "rb") as file:  # noqa: PTH123 - thousands are read
                return file.read().decode(errors="backslashreplace")
        except OSError:
            return None

    def names(self, folder: str) -> list[str]:
        """Return the names in a folder; none where it is missing."""
        try:
            return sorted(os.listdir(self.path(folder)))  # noqa: PTH208
        except OSError:
            return []

    def pids(self) -> Iterator[str]:
        """Give the number of every process."""
        return (name for name in self.names("proc") if name.isdecimal())

    def json(self, *command: str) -> list[dict[str, object]]:
        """Return the list of objects that a program prints as JSON."""
        told = json.loads(self.run(command).strip() or "[]")
        return [item for item in told if isinstance(item, dict)]


def matcher(globs: Sequence[str]) -> Callable[[str], object]:
    """Return what tells if a path matches a glob: `*` stays in one folder, `**` does not."""
    parts = {"**": ".*", "*": "[^/]*", "?": "[^/]"}
    patterns = []
    for glob in globs:
        tokens = re.split(r"(\*\*|\*|\?|\[[^]]+\])", glob)
        patterns.append(
            "".join(
                parts.get(token) or (token if token.startswith("[") else re.escape(token))
                for token in tokens
            )
        )
    return re.compile("|".join(patterns) or r"(?!)", re.DOTALL).fullmatch


def numbered(things: Things, name: str, value: object) -> None:
    """Add a thing whose name need not be the only one: the second of a name gets a number."""
    key, number = name, 2
    while key in things:
        key, number = f"{name} #{number}", number + 1
    things[key] = value
