"""The `labctl` command: words in, words out. Only this room prints or exits."""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import NoReturn

import click

from labctl import __version__
from labctl.cli import checks, experiments, image, labs, results
from labctl.errors import ExitCode, LabctlError
from labctl.topology import TopologyError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="labctl")
def cli() -> None:
    """Virtual network labs from YAML: real guests, real bridges, and the truth about checksums.

    Exit codes: 0 done or passed, 1 an experiment failed, 2 wrong words or input, 3 could not tell
    or could not do, 4 everything was skipped, 130 interrupted.
    """


for command in (
    *labs.COMMANDS,
    *experiments.COMMANDS,
    *results.COMMANDS,
    *checks.COMMANDS,
    *image.COMMANDS,
):
    cli.add_command(command)


def _stop(_number: int, _frame: object) -> NoReturn:
    """Let SIGTERM and SIGHUP take the same way out as Ctrl-C, through every `finally`."""
    raise KeyboardInterrupt


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


def main() -> NoReturn:
    """Run the command and exit with one of `ExitCode`."""
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGHUP, _stop)
    debug = bool(os.environ.get("LABCTL_DEBUG"))
    try:
        code = cli.main(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else ExitCode.OK)
    except LabctlError as error:
        if debug:
            raise
        _tell(error, "--json" in sys.argv)
        sys.exit(error.exit_code)
    except click.exceptions.Exit as wanted:
        sys.exit(wanted.exit_code)
    except click.ClickException as wrong:
        wrong.show()
        sys.exit(ExitCode.USAGE)
    except (KeyboardInterrupt, click.Abort):
        click.echo("labctl: interrupted; what this command had brought up is down again", err=True)
        sys.exit(ExitCode.INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output went away (`labctl ... | head`): nothing is wrong.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(ExitCode.OK)


if __name__ == "__main__":
    main()
