"""The `labctl` command: words in, words out. Only this room prints or exits."""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import click

from labctl.cli import options, out
from labctl.cli.options import print_error
from labctl.cli.verbs import Verbs
from labctl.errors import ExitCode, LabctlError, UsageError, exhausted, host_error
from labctl.version import __version__

INTERRUPTED = "labctl: interrupted; nothing that this command had brought up stays"


class ReaderGoneError(Exception):
    """Nobody reads our standard output any more."""


class _Commands(Verbs):
    """A group that says of itself what a broken pipe means: click would exit with 1, a failure."""

    def make_context(self, *words: Any, **more: Any) -> click.Context:
        with _asking_for_reader():  # here --help and --version are printed
            return super().make_context(*words, **more)

    def invoke(self, context: click.Context) -> object:
        with _asking_for_reader():
            return super().invoke(context)


@contextlib.contextmanager
def _asking_for_reader() -> Iterator[None]:
    """Tell a reader that left from a connection inside a lab that broke."""
    try:
        yield
    except BrokenPipeError as broken:
        if _reader_gone():
            raise ReaderGoneError from None
        raise LabctlError(f"a connection broke: {broken}", "run: labctl status") from broken


def _reader_gone() -> bool:
    """Whether standard output is a pipe that nobody reads (poll(2), POLLERR)."""
    poll = select.poll()
    poll.register(1, 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="labctl")
def cli() -> None:
    """Virtual network labs from YAML: real guests, real bridges, and checksums hop by hop.

    Exit codes: 0 done or passed, 1 an experiment failed or trace or diagnose found a problem, 2
    usage error or invalid input, 3 could not tell or could not do, 4 everything was skipped, 130
    interrupted, 141 the output was closed by its reader. `ssh` and `exec`: that of the command.
    """


def _stop(_number: int, _frame: object) -> NoReturn:
    """Let SIGTERM and SIGHUP take the same way out as Ctrl-C, through every `finally`."""
    raise KeyboardInterrupt


def _tell(error: LabctlError, as_json: bool) -> None:
    """Say what is wrong as far as there is somebody to say it to."""
    told = {"error": error.message, "hint": error.hint, "detail": error.detail}
    try:
        if as_json:
            click.echo(json.dumps(told))
            return
        sys.stdout.flush()
    except OSError:
        _forgo(1)  # better on standard error than nowhere
    _say(lambda: print_error(error))


def _say(words: Callable[[], None]) -> None:
    """Print on standard error, if that can be written to."""
    try:
        words()
    except OSError:
        _forgo(2)


def _forgo(descriptor: int) -> None:
    """Let what still waits to be written go nowhere: at its exit Python would fail once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def _output_full() -> bool:
    """Whether standard output takes no more, by one more line end: its errors name no file."""
    try:
        os.write(1, b"\n")
    except OSError:
        return True
    return False


def _misused(wrong: click.ClickException) -> LabctlError:
    """Tell in labctl's way what click finds wrong with the words of a command."""
    context = wrong.ctx if isinstance(wrong, click.UsageError) else None
    hint = f"run: {context.command_path if context else 'labctl'} --help"
    if isinstance(wrong, click.NoSuchOption):
        if wrong.possibilities:
            hint = f"did you mean {wrong.possibilities[0]}?"
        return UsageError(f"there is no option {wrong.option_name}", hint)
    message = " ".join(wrong.format_message().split()).rstrip(".")
    return UsageError(f"{message[:1].lower()}{message[1:]}", hint)


def _fault(fault: Exception) -> LabctlError:
    """Tell in one line what the host refused, or of a fault of labctl's own."""
    if told := exhausted(fault):  # first: there may be no memory for an import
        return told
    import traceback  # only here: every verb would wait for it

    last = traceback.extract_tb(fault.__traceback__)[-1]
    place = f"{Path(last.filename).name}:{last.lineno}"
    if isinstance(fault, OSError):
        unnamed = ""
        if fault.errno in (errno.ENOSPC, errno.EDQUOT):  # no fault of ours, whatever it was
            unnamed = "the output" if _output_full() else f"a file ({place})"
        if told := host_error(fault, unnamed):
            return told
    return LabctlError(
        f"{type(fault).__name__}: {fault} ({place})",
        "this is a fault of labctl; LABCTL_DEBUG=1 shows all of it",
    )


def main() -> NoReturn:
    """Run the command and exit with one of `ExitCode`."""
    out.install()
    options.json_asked = False
    signal.signal(signal.SIGTERM, _stop)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup(1) means it
        signal.signal(signal.SIGHUP, _stop)
    # pydantic looks through every installed package for plugins before its first model.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    debug = bool(os.environ.get("LABCTL_DEBUG"))
    if "_LABCTL_COMPLETE" in os.environ:
        from labctl.cli import completion

        completion.complete(cli)
    try:
        code = cli.main(standalone_mode=False)
        sys.stdout.flush()
        gc.freeze()  # else Python looks for garbage among all that is about to go: 0.01 s
        sys.exit(code if isinstance(code, int) else ExitCode.OK)
    except LabctlError as error:
        if debug:
            raise
        _tell(error, options.json_asked)
        sys.exit(error.exit_code)
    except click.exceptions.Exit as wanted:
        sys.exit(wanted.exit_code)
    except click.exceptions.NoArgsIsHelpError as asked:
        _say(asked.show)
        sys.exit(ExitCode.USAGE)
    except click.ClickException as wrong:
        _tell(_misused(wrong), options.json_asked)
        sys.exit(ExitCode.USAGE)
    except (KeyboardInterrupt, click.Abort):
        _say(lambda: click.echo(INTERRUPTED, err=True))
        sys.exit(ExitCode.INTERRUPTED)
    except (ReaderGoneError, BrokenPipeError):
        _forgo(1)
        sys.exit(ExitCode.READER_GONE)
    except Exception as fault:
        if debug:
            raise
        _tell(_fault(fault), options.json_asked)
        sys.exit(ExitCode.ERROR)


if __name__ == "__main__":
    main()
