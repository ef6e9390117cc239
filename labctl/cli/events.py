"""The verb `events`: what changes in labs and experiments, a JSON object a line."""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import click

from labctl.cli.options import printable_json
from labctl.lab import changes, orphans, state, status
from labctl.results import store

INTERVAL = 1.0


@click.command("events")
@click.option("--lab", "-l", metavar="NAME", help="Of this lab alone, and of no experiments.")
@click.option(
    "--interval", type=click.FloatRange(0.1, 3600), default=INTERVAL, show_default=True,
    metavar="SECONDS", help="How often to look.",
)  # fmt: skip
@click.option(
    "--for", "seconds", type=click.FloatRange(0), metavar="SECONDS",
    help="Watch so long. [default: until interrupted]",
)  # fmt: skip
@click.option(
    "--results", "root", type=click.Path(path_type=Path), envvar="LABCTL_RESULTS",
    show_envvar=True, help="Where the records of experiments are.",
)  # fmt: skip
def events(lab: str | None, interval: float, seconds: float | None, root: Path | None) -> None:
    """Print what is there, then what changes: a JSON object a line.

    Each has time, type (lab, node, router, program, link or experiment), lab, name, state, was (the
    state before; null where it was not there) and detail. What comes and goes between two looks is
    not seen.
    """
    end = None if seconds is None else time.monotonic() + seconds
    before: dict[changes.Key, changes.State] = {}
    runs = _Runs(root)
    while True:
        after = changes.of_labs(one for one in _labs() if lab is None or one["name"] == lab) | (
            {} if lab else runs.look()
        )
        for event in changes.between(before, after):
            when = datetime.now(UTC).isoformat(timespec="milliseconds")
            click.echo(printable_json(json.dumps({"time": when} | event)))
        sys.stdout.flush()
        before = after
        left = interval if end is None else min(interval, end - time.monotonic())
        if left <= 0:
            return
        time.sleep(left)


def _labs() -> list[dict[str, object]]:
    found = [status.describe(folder) for folder in state.known()]
    return found + [one.describe() for one in orphans.find()]


class _Runs:
    """The states of recorded runs; a finished one is read once."""

    def __init__(self, root: Path | None) -> None:
        self._root = root
        self._over: dict[changes.Key, changes.State] = {}

    def look(self) -> dict[changes.Key, changes.State]:
        found: dict[changes.Key, changes.State] = {}
        for name in store.ids(self._root):
            key = ("experiment", "", name)
            if key not in self._over:
                run = store.find(name, self._root)
                said = str(run.verdict or run.problem)
                told = changes.State(str(run.state), said if run.verdict or run.problem else "")
                found[key] = told
                if run.state is not store.RunState.RUNNING:
                    self._over[key] = told
            else:
                found[key] = self._over[key]
        return found


COMMANDS = (events,)
