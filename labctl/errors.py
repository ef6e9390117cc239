"""The errors a user can meet: one line what is wrong, one line what to do.

Every error that labctl raises on purpose derives from `LabctlError`; only the command line turns
one into printed text and an exit code. Anything else that escapes is a fault of labctl itself.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable
from enum import IntEnum

UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufff9-\ufffb]"
)
"""Control characters but newline and tab, those that turn the direction of what follows, and halves
of surrogate pairs, which cannot be written at all."""


def clean(text: str) -> str:
    r"""Return foreign text as it can be shown on a terminal: what would act there is spelt out.

    Newlines and tabs stay, an escape becomes the four characters `\x1b`. What is clean stays the
    same.
    """
    return UNSAFE.sub(lambda found: _spelt(ord(found[0])), text)


def _spelt(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a hint that names the known word nearest to `word`, or all of them."""
    import difflib  # only here: most programs that know of errors never name one

    words = sorted(known)
    # One very long "word" of a hostile file must not cost a quadratic comparison.
    close = difflib.get_close_matches(word[:64].lower(), words, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]}?"
    if not words:
        return "none is defined"
    more = ", …" if len(words) > 12 else ""
    return f"known: {', '.join(words[:12])}{more}"


def shown(value: object) -> str:
    """Return `value` as an error message shows it: quoted, on one line, not too long."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "on" if value else "off"
    try:
        text = repr(value)
    except Exception:  # a caller's object (or an integer beyond Python's digit limit)
        text = type(value).__name__
    return text if len(text) <= 60 else text[:57] + "…"


class ExitCode(IntEnum):
    """What the `labctl` command exits with."""

    OK = 0
    """Done; every experiment that ran passed."""
    FAIL = 1
    """An experiment's verdict is fail."""
    USAGE = 2
    """The words or the input are wrong; nothing was started."""
    ERROR = 3
    """Could not tell, or could not do: the host, a guest or labctl failed."""
    SKIP = 4
    """Nothing was judged: every experiment was skipped."""
    INTERRUPTED = 130
    """Stopped by the user (Ctrl-C) or by SIGTERM; what was up is down again."""
    READER_GONE = 141
    """The reader of the output went away before its end: 128 + SIGPIPE, as for any tool."""


class LabctlError(Exception):
    """Something failed.

    `message` says what in one line, `hint` what to do in one line, and `detail` may show some lines
    of evidence, such as the end of a console.
    """

    exit_code = ExitCode.ERROR

    def __init__(self, message: str, hint: str = "", detail: str = "") -> None:
        # Whatever it quotes, of a guest's or of a stranger's file, is for a terminal in the end.
        self.message, self.hint, self.detail = clean(message), clean(hint), clean(detail)
        # All as args, which `repr` shows.
        super().__init__(self.message, self.hint, self.detail)

    def __str__(self) -> str:
        return self.message


class UsageError(LabctlError):
    """What the user asked for or brought is wrong; found before anything was started."""

    exit_code = ExitCode.USAGE


class HostError(LabctlError):
    """This host lacks something labctl needs."""


_ANOTHER_FOLDER = (
    "use a folder that you may write to: XDG_CACHE_HOME, LABCTL_RUNTIME_DIR and LABCTL_RESULTS "
    "name those of labctl"
)
_REFUSALS = {
    errno.ENOSPC: "free some space there; df -h shows what is full",
    errno.EDQUOT: "free some space there: your quota is used up",
    errno.EROFS: _ANOTHER_FOLDER,
    errno.EACCES: _ANOTHER_FOLDER,
    errno.EPERM: _ANOTHER_FOLDER,
    errno.ENOTDIR: "a part of this path is a file: remove it, or name another path",
}


def host_error(error: OSError, place: object = "") -> HostError | None:
    """Return what an `OSError` means by which the host refuses a file; None for any other.

    `place` tells what it was about where the error names no file, as after write(2).
    """
    named = error.filename
    what = os.fsdecode(named) if isinstance(named, str | bytes) and named else str(place)
    hint = _REFUSALS.get(error.errno or 0)
    if not hint or not what:
        return None  # without a file, "not permitted" may be about anything
    return HostError(f"{what}: {error.strerror}", hint)


_EXHAUSTED = {
    errno.EMFILE: ("this process may open no more files", "let it have more: ulimit -n 1024"),
    errno.ENFILE: ("this host has no more open files", "end other programs"),
    errno.ENOMEM: ("there is not enough memory", "see what a process may have: ulimit -v; free -m"),
    errno.EAGAIN: (
        "no more processes or threads can be started",
        "let this user have more (ulimit -u), or the container (pids.max of its control group)",
    ),
}


def exhausted(error: BaseException) -> HostError | None:
    """Return what an error means by which the host has no more of something; None for others."""
    number = error.errno if isinstance(error, OSError) else None
    no_room = isinstance(error, ImportError) and "failed to map segment" in str(error)
    if isinstance(error, MemoryError) or no_room:
        number = errno.ENOMEM
    elif isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        number = errno.EAGAIN
    told = _EXHAUSTED.get(number or 0)
    return HostError(*told) if told else None


class GuestError(LabctlError):
    """A guest died, never got ready, or could not run a command."""


class DeadlineError(LabctlError):
    """A stage did not end within its deadline."""
