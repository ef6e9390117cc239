"""What is fuzzed, and what counts as a finding.

A target is a door of labctl through which others' bytes come in. Whatever they are, the answer is a
value or one of labctl's own errors, soon, in bounded memory, and in printable words.
"""

from __future__ import annotations

import io
import re
import time
import traceback
import zlib
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from random import Random

import labctl
from labctl.cli.out import CleanStream
from labctl.errors import LabctlError

SECONDS = 2.0
"""CPU time an input may take; wall time would tell of the machine's other work."""
LONGEST_MESSAGE = 2000
"""Characters of one line of an error."""

_PACKAGE = str(Path(labctl.__file__).parent)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""What a terminal may obey, line ends and tabs left out; and what turns the order of letters."""


@dataclass(frozen=True)
class Target:
    """A door, how to knock, and what is behind it."""

    name: str
    summary: str
    goal: int
    """How many inputs a whole campaign has."""
    packages: tuple[str, ...]
    """Modules whose branches guide the choice of inputs; those inside them too."""
    seeds: Callable[[], Sequence[bytes]]
    """Inputs to begin with, mostly sound ones."""
    make: Callable[[Random], bytes]
    """Makes an input from what is known of its structure."""
    check: Callable[[bytes], None]
    """Uses an input as labctl would. Raises whatever labctl does, or `WrongError`."""
    words: Sequence[str] = ()
    """What means something at this door."""
    longest: int = 4096
    """Octets of an input."""


class WrongError(Exception):
    """An answer that breaks a promise although nothing was raised."""


@dataclass(frozen=True)
class Finding:
    """An input that got another answer than it should."""

    key: str
    """The same for all inputs that show the same fault."""
    text: str
    """A traceback, or what is wrong in words."""


def classify(target: Target, data: bytes) -> Finding | None:
    """Let a target answer one input; return what is wrong with its answer."""
    begun = time.process_time()
    found = None
    try:
        target.check(data)
    except LabctlError as error:
        found = _badly_told(error)
    except Exception as error:
        found = Finding(_key(error), "".join(traceback.format_exception(error, limit=-30)))
    spent = time.process_time() - begun
    if found is None and spent > SECONDS:
        found = Finding("slow", f"{spent:.1f} s of CPU time")
    return found


def _key(error: BaseException) -> str:
    if isinstance(error, WrongError):
        return str(error).partition(":")[0]
    frames = traceback.extract_tb(error.__traceback__)
    ours = [one for one in frames if one.filename.startswith(_PACKAGE)] or list(frames)
    where = f"{Path(ours[-1].filename).name}:{ours[-1].name}" if ours else "nowhere"
    return f"{type(error).__name__} in {where}"


def _badly_told(error: LabctlError) -> Finding | None:
    lines = error.message.split("\n")
    hint = error.hint.split("\n")
    if not error.message.strip() or len(hint) > 1:
        return Finding("an error without its one line", repr(error))
    if max(map(len, [*lines, *hint])) > LONGEST_MESSAGE:
        return Finding("an endless error message", repr(error)[:LONGEST_MESSAGE])
    return None


def chosen(data: bytes, one_of: int) -> bool:
    """Tell whether a costly part of a check is due: for one of so many inputs, always the same."""
    return zlib.crc32(data) % one_of == 0


class Terminal(io.StringIO):
    """A terminal that nobody looks at."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def printed(run: Callable[[], object], colours: bool = True) -> str:
    """Return what `run` prints on a terminal.

    Raises what `run` raises, and `WrongError` for characters that a terminal would obey, apart from
    the `colours` of labctl's own.
    """
    terminal = Terminal()
    stream = CleanStream(terminal)  # as `labctl` begins with it
    with redirect_stdout(stream), redirect_stderr(stream):
        run()
    text = terminal.getvalue()
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text) if colours else text
    if odd := _CONTROL.search(plain):
        around = plain[max(0, odd.start() - 40) : odd.end() + 40]
        raise WrongError(f"a control character is printed: {around!r}")
    return text
