"""The verb that judges the checksums of a capture file."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from labctl.cli.options import json_option, print_json, print_table
from labctl.cli.out import Styled, say
from labctl.errors import ExitCode

if TYPE_CHECKING:
    from labctl.inspect.report import Report
    from labctl.inspect.tally import Offender

STATES = ("valid", "partial", "bad", "absent", "unknown")
OFFENCES = ("bad", "partial")


def _chosen(_context: click.Context, _option: click.Parameter, words: str | None) -> set[str]:
    chosen = {word for word in (words or "").split(",") if word}
    if unknown := sorted(chosen - set(OFFENCES)):
        raise click.BadParameter(f"{', '.join(unknown)}; there are: {', '.join(OFFENCES)}")
    return chosen


@click.command("inspect")
@click.argument("file", type=click.Path(exists=True, allow_dash=True, path_type=Path))
@click.option(
    "--fail-on", metavar="STATES", callback=_chosen,
    help="Exit with 1 where packets are so: bad, partial, or bad,partial.",
)  # fmt: skip
@click.option(
    "--mtu", type=click.IntRange(68, 1 << 20), default=1500, show_default=True,
    help="Longer frames were merged by GRO or GSO; labctl's own files tell it.",
)  # fmt: skip
@click.option(
    "--flows", type=click.IntRange(0), default=10, show_default=True,
    help="Show so many flows; 0 for all.",
)  # fmt: skip
@click.option(
    "--first", type=click.IntRange(0, 100_000), default=5, show_default=True,
    help="Show so many of the first bad and of the first partial packets.",
)  # fmt: skip
@json_option
def inspect_file(
    file: Path, fail_on: set[str], mtu: int, flows: int, first: int, as_json: bool
) -> None:
    """Judge every checksum of a pcap or pcapng FILE.

    "-" reads standard input. Says how many are valid, partial (left open by offload), bad, absent
    or unknown, in which flows, which came first, and what that means.
    """
    from labctl.inspect.run import inspect

    report = inspect(None if str(file) == "-" else file, mtu=mtu, show=first)
    if as_json:
        print_json(report.to_json(flows or None))
    else:
        _print(report, flows)
    if any(count for state, count in report.offences.items() if state in fail_on):
        sys.exit(ExitCode.FAIL)


def _print(report: Report, flows: int) -> None:
    click.echo(f"{report.name}: {report.format}, {', '.join(report.links) or 'no frames'}")
    if report.note:
        say(
            Styled("partial evidence", fg="yellow", bold=True),
            f": {report.note}; what follows is of the whole part before",
        )
    times = f"{_clock(report.first_ns)} to {_clock(report.last_ns)}" if report.first_ns else ""
    click.echo(f"{report.frames:,} frames  {times}".rstrip())
    for sentence in report.meaning:
        click.echo(f"\n{sentence}")
    told = report.to_json(flows or None)
    _states(told["states"], told["reasons"], report.frames)
    inside = told["inside_vxlan"]
    if inside["frames"]:
        print_table(
            ["outer packet", *STATES],
            [
                [outer, *(f"{states[state]:,}" for state in STATES)]
                for outer, states in inside["by_outer_state"].items()
            ],
            title=f"{inside['frames']:,} frames inside VXLAN, by the state of what carried them",
        )
    if len(report.interfaces) > 1:
        print_table(
            ["interface", *STATES],
            [
                [one["name"] or one["link"], *(f"{one['states'][state]:,}" for state in STATES)]
                for one in told["interfaces"]
            ],
        )
    if report.flows:
        shown = told["flows"]
        print_table(
            ["flow", *STATES],
            [
                [str(flow), *(f"{one['states'][state] or ''}" for state in STATES)]
                for (flow, _), one in zip(report.flows, shown, strict=False)
            ],
            title=f"{len(shown)} of {len(report.flows):,} flows, those with most offences first",
        )
    if told["packets_of_other_flows"]:
        click.echo(f"{told['packets_of_other_flows']:,} packets in flows beyond those counted")
    for state, found in report.offenders.items():
        if found:
            _offenders(f"the first {state} packets", found)


def _states(states: dict[str, int], reasons: dict[str, int], frames: int) -> None:
    rows = [
        [state, f"{count:,}", f"{count / max(frames, 1):.1%}"]
        for state, count in states.items()
        if count
    ]
    if rows:
        print_table(["state", "frames", ""], rows)
    for words, count in reasons.items():
        click.echo(f"  {count:,} {words}")


def _offenders(title: str, found: list[Offender]) -> None:
    nested = any(one.outer for one in found)
    named = any(one.interface for one in found)

    def cells(one: Offender) -> list[str]:
        sums = ["" if value is None else f"0x{value:0{one.digits}x}"
                for value in (one.field, one.valid, one.partial)]  # fmt: skip
        row = [str(one.number), _clock(one.time_ns), one.flow, one.what, *sums]
        return row + [one.interface] * named + [str(one.outer or "")] * nested

    head = ["frame", "time", "flow", "what", "field", "would be valid", "would be partial"]
    head += ["interface"] * named + ["outer"] * nested
    print_table(head, [cells(one) for one in found], title=title)


def _clock(time_ns: int | None) -> str:
    if time_ns is None:
        return ""
    seconds, rest = divmod(time_ns, 10**9)
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}.{rest:09}"
    except (ValueError, OverflowError, OSError):
        return f"{seconds}.{rest:09}"  # a damaged time is shown as it stands


COMMANDS = (inspect_file,)
