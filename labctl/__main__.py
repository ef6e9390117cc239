"""The program `labctl`: makes what it is started with fit to work with, then runs the commands.

Until the commands are imported, which takes a few tenths of a second, nobody catches Ctrl-C; and a
shell may close standard input or output (`>&-`), or have a locale without UTF-8.
"""

from __future__ import annotations

# ruff: noqa: E402 - all else is imported when Ctrl-C is no traceback any more
import _signal  # type: ignore[import-not-found]  # built into Python: no file is read for it
import sys

OURS = sys.argv[:1] != [] and sys.argv[0].endswith(("labctl", "__main__.py"))
"""Whether this process is the program: where it is imported, Ctrl-C is somebody else's."""
if OURS and _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    # Until `main` catches it, Ctrl-C ends this process as it ends any other, without a word.
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)

import contextlib
import io
import os
import signal
from collections.abc import Callable
from typing import NoReturn

INTERRUPTED = b"labctl: interrupted; nothing that this command had brought up stays\n"


def main() -> NoReturn:
    """Run the command of this process's arguments; exits as `labctl.errors.ExitCode` says."""
    try:
        if OURS and signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        command = _commands()
        command()
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is told; the way out is short
        with contextlib.suppress(OSError):
            os.write(2, INTERRUPTED)
        sys.exit(130)
    sys.exit(3)


def _commands() -> Callable[[], NoReturn]:
    """Prepare this process and import the commands; exits where this host has not enough for it."""
    try:
        prepare()
        from labctl.cli import main as command
    except (MemoryError, OSError, ImportError, SystemError) as error:
        # Where memory ends while a module is loaded, Python itself may say SystemError.
        text = f"labctl: it cannot start: {type(error).__name__} {error}".rstrip()
        with contextlib.suppress(OSError):
            os.write(2, f"{text}\n  see what a process may have: ulimit -a\n".encode())
        os._exit(3)  # without memory an exception may fail as well; nothing is to be flushed
    return command.main


def prepare() -> None:
    """Open what is closed of standard input, output and error, and let text be UTF-8.

    And let nobody else write to what is made: who could have written a file says if it is believed.
    """
    _open_closed()
    _speak_utf8()
    os.umask(os.umask(0o077) | 0o022)


def _open_closed() -> None:
    """Let closed descriptors lead nowhere: else the next file that is opened would be output."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            # The lowest that is free is this one: those below are open by now.
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def _speak_utf8() -> None:
    """Take names and texts of files as UTF-8 in any locale; what is not for the output becomes `?`.

    Names are decoded from the start on, so Python is started anew where it has begun otherwise.
    """
    if sys.getfilesystemencoding() != "utf-8" and not sys.flags.utf8_mode:
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.encoding.lower() != "utf-8":
            stream.reconfigure(errors="replace")


if __name__ == "__main__":
    main()
