"""The `labctl` command: words in, words out. Only this room prints or exits."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
from pathlib import Path
from typing import NoReturn

import click

from labctl import __version__
from labctl.cli.verbs import Verbs
from labctl.errors import ExitCode, LabctlError
from labctl.topology import TopologyError


class ReaderGoneError(Exception):
    """Nobody reads our standard output any more."""


class _Commands(Verbs):
    """A group that says of itself what a broken pipe means: click would exit with 1, a failure."""

    def invoke(self, context: click.Context) -> object:
        try:
            return super().invoke(context)
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
    """Virtual network labs from YAML: real guests, real bridges, and the truth about checksums.

    Exit codes: 0 done or passed, 1 an experiment failed, 2 wrong words or input, 3 could not tell
    or could not do, 4 everything was skipped, 130 interrupted, 141 nobody reads the output.
    """


def _stop(_number: int, _frame: object) -> NoReturn:
    """Let SIGTERM and SIGHUP take the same way out as Ctrl-C, through every `finally`."""
    raise KeyboardInterrupt


def _wants_json(words: list[str]) -> bool:
    """Whether labctl itself was asked for JSON; what follows a NODE is a guest's business."""
    return "--json" in words and not {"ssh", "exec"} & set(words[1:2])


def _tell(error: LabctlError, as_json: bool) -> None:
    if as_json:
        told = {"error": error.message, "hint": error.hint, "detail": error.detail}
        click.echo(json.dumps(told))
        return
    # Problems of a file begin with their place, one a line, so that editors can jump there.
    prefix = "" if isinstance(error, TopologyError) else "labctl: "
    click.echo(f"{prefix}{error.message}", err=True)
    if error.hint:
        click.echo(f"  {error.hint}", err=True)
    if error.detail:
        click.echo(error.detail, err=True)


def _fault(fault: Exception) -> LabctlError:
    """Tell of a fault of labctl's own in one line."""
    import traceback  # only here: every verb would wait for it

    last = traceback.extract_tb(fault.__traceback__)[-1]
    return LabctlError(
        f"{type(fault).__name__}: {fault} ({Path(last.filename).name}:{last.lineno})",
        "this is a fault of labctl; LABCTL_DEBUG=1 shows all of it",
    )


def main() -> NoReturn:
    """Run the command and exit with one of `ExitCode`."""
    signal.signal(signal.SIGTERM, _stop)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup(1) means it
        signal.signal(signal.SIGHUP, _stop)
    # pydantic looks through every installed package for plugins before its first model.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    debug = bool(os.environ.get("LABCTL_DEBUG"))
    try:
        code = cli.main(standalone_mode=False)
        sys.stdout.flush()
        sys.exit(code if isinstance(code, int) else ExitCode.OK)
    except LabctlError as error:
        if debug:
            raise
        _tell(error, _wants_json(sys.argv))
        sys.exit(error.exit_code)
    except click.exceptions.Exit as wanted:
        sys.exit(wanted.exit_code)
    except click.ClickException as wrong:
        wrong.show()
        sys.exit(ExitCode.USAGE)
    except (KeyboardInterrupt, click.Abort):
        click.echo("labctl: interrupted; nothing that this command had brought up stays", err=True)
        sys.exit(ExitCode.INTERRUPTED)
    except (ReaderGoneError, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what is left to be flushed
        sys.exit(ExitCode.READER_GONE)
    except Exception as fault:
        if debug:
            raise
        _tell(_fault(fault), _wants_json(sys.argv))
        sys.exit(ExitCode.ERROR)


if __name__ == "__main__":
    main()
