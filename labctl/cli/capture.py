"""The verb `capture`: what passes at hops of a running lab, as it comes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from labctl.capture import live
from labctl.capture.live_pcapng import PcapngSink
from labctl.capture.packet_ids import PacketIds
from labctl.capture.pcap_filter import PcapFilter
from labctl.capture.pcapng_writer import LUA, begun
from labctl.capture.session import Capture, Evidence, Observation
from labctl.cli.options import json_option, lab_option, printable_json, writable
from labctl.cli.out import Styled, say
from labctl.errors import ExitCode, LabctlError, UsageError
from labctl.lab import hops as hops_of
from labctl.lab.lab import Lab
from labctl.lab.watch import START_SECONDS, capture_folder
from labctl.lab.watch import capture as prepare
from labctl.packet.checksum import knowledge
from labctl.sandbox.deadline import Deadline
from labctl.topology.graph import observed

STDOUT = 1


@click.command("capture")
@lab_option
@click.argument("words", metavar="[HOP]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="At all hops of the lab.")
@click.option("--path", nargs=2, metavar="SRC DST", help="At all hops between two nodes.")
@click.option(
    "--filter", "-f", "expression", metavar="EXPR", default="",
    help="Only frames that this expression of tcpdump's lets pass.",
)  # fmt: skip
@click.option(
    "--write", "-w", "target", metavar="FILE", type=click.Path(path_type=Path, allow_dash=True),
    help='Write pcapng there; "-" is standard output, for wireshark -k -i -.',
)  # fmt: skip
@click.option(
    "--count", "-c", type=click.IntRange(1), metavar="N", help="End after so many frames."
)
@click.option(
    "--duration", type=click.FloatRange(0.1), metavar="SECONDS", help="End after so long."
)
@click.option(
    "--observer", "observers", multiple=True, metavar="KIND",
    help="Let this observer look too, beside the packet sockets (labctl kinds).",
)  # fmt: skip
@click.option(
    "--lua", is_flag=True, help="Print where Wireshark's plugin is that shows metadata as columns."
)
@json_option
def capture_hops(
    lab: str | None,
    words: Sequence[str],
    everything: bool,
    path: tuple[str, str] | None,
    expression: str,
    target: Path | None,
    count: int | None,
    duration: float | None,
    observers: Sequence[str],
    lua: bool,
    as_json: bool,
) -> None:
    """Show what passes at HOPs of a running lab, as it comes.

    It goes on until Ctrl-C. A HOP is such as vm1:eth0 (inside vm1) or vm1-eth0 (the host's end of
    it), a shell pattern, or a node or router for all of its hops. Without -w each frame is a line,
    with what the kernel knew of its checksum.
    """
    if lua:
        click.echo(LUA)
        return
    _check_target(target, as_json)
    passes = PcapFilter(expression) if expression else None
    running = Lab.attach(lab)
    hops = hops_of.chosen(running.topology, words, everything=everything, path=path)
    hops = observed(hops, observers)
    names = [hop.name for hop in hops]
    try:
        running.check_programs()
    except LabctlError as fault:  # who looks at a lab may look for just that
        _note(fault.message)
    wanted = live.Wanted(
        lambda one: passes is None or passes(one.record.frame, one.record.original_length),
        count,
    )
    with (
        capture_folder(running) as folder,
        prepare(running, hops, folder, START_SECONDS, live.limits(len(hops))) as seeing,
        _signals() as came,
        _sink(target, seeing, names, expression, as_json) as sink,
    ):
        _note(f"capturing at {', '.join(names)}; Ctrl-C ends it")
        if duration is not None:
            wanted = replace(wanted, until=Deadline(duration, "the capture"))
        evidence, seen = live.pass_on(
            seeing, names, sink, wanted,
            folder=running.directory, stopping=lambda: bool(came), tell=_note,
        )  # fmt: skip
    _tell_counts(evidence, seen)
    with contextlib.suppress(LabctlError):  # the lab may be gone
        running.close()
    sys.exit(ExitCode.ERROR if seen.ended else ExitCode.OK)


def _check_target(target: Path | None, as_json: bool) -> None:
    if target is None:
        return
    if as_json:
        raise UsageError("-w and --json contradict each other", "give one of them")
    if str(target) != "-":
        writable(target)
    elif os.isatty(STDOUT):
        what = "pcapng is not for a terminal"
        raise UsageError(what, "pass it on: labctl capture … -w - | wireshark -k -i -")


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Note the first signal that asks for the end, so that it cuts no frame; the next one cuts."""
    came: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}

    def note(number: int, _frame: object) -> None:
        came.append(number)
        for one, handler in before.items():
            signal.signal(one, handler)

    try:
        for number in numbers:
            if before[number] is not signal.SIG_IGN:  # nohup(1) means it
                signal.signal(number, note)
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _sink(
    target: Path | None, seeing: Capture, names: Sequence[str], expression: str, as_json: bool
) -> Iterator[live.Sink]:
    if target is None:
        yield _Lines(max(map(len, names)), as_json)
        return
    described = []
    for name in names:
        header, arrived_ns = seeing.header(name)
        described.append((name, begun(header, arrived_ns) if header else ""))
    if str(target) == "-":
        sys.stdout.flush()
        yield PcapngSink(STDOUT, described, expression)
        return
    with target.open("wb", buffering=0) as file:
        yield PcapngSink(file.fileno(), described, expression)


class _Lines:
    """Frames as lines of text, or of JSON."""

    def __init__(self, width: int, as_json: bool) -> None:
        self._width, self._as_json = width, as_json
        self._ids = PacketIds()

    def frame(self, seen: Observation) -> bool:
        number = self._ids(seen)
        if self._as_json:
            click.echo(printable_json(json.dumps(as_data(seen, number))))
            return True
        judgement = seen.judgement
        clock = datetime.fromtimestamp(seen.time_ns // 10**9).astimezone()
        micro = seen.time_ns // 1000 % 10**6
        where = f"{seen.hop.ljust(self._width)} {seen.direction.ljust(3)}"
        known = ""
        if judgement.packet.protocol is not None:
            known = knowledge(judgement.state, judgement.metadata, judgement.gso)
        style = "red" if judgement.lost or judgement.state == "bad" else None
        say(
            f"{clock:%H:%M:%S}.{micro:06} {where} #{number & 0xFFFF:04x} {_flow(seen)}, ",
            Styled(f"{known}, " if known else "", fg=style),
            f"{seen.record.original_length} bytes",
        )
        return True

    def flush(self) -> None:
        sys.stdout.flush()

    def end(self, _evidence: Evidence, _seen: live.Seen) -> None:
        sys.stdout.flush()


def _flow(seen: Observation) -> str:
    packet = seen.judgement.packet
    ends = [
        f"[{address}]:{port}" if port is not None and ":" in address
        else f"{address}:{port}" if port is not None
        else address
        for address, port in ((packet.src, packet.sport), (packet.dst, packet.dport))
        if address is not None
    ]  # fmt: skip
    return f"{packet.kind} {' > '.join(ends)}".rstrip()


def as_data(seen: Observation, number: int) -> dict[str, Any]:
    """Return one frame of a live capture as plain data."""
    judgement, packet = seen.judgement, seen.judgement.packet
    return {
        "time_ns": seen.time_ns,
        "hop": seen.hop,
        "direction": seen.direction,
        "packet": f"{number:016x}",
        "kind": judgement.kind,
        "protocol": packet.protocol,
        "source": packet.src,
        "sport": packet.sport,
        "destination": packet.dst,
        "dport": packet.dport,
        "state": str(judgement.state),
        "metadata": str(judgement.metadata),
        "gso": judgement.gso,
        "gso_size": judgement.gso_size,
        "length": seen.record.original_length,
    }


def _note(words: str) -> None:
    click.echo(f"labctl: {words}", err=True)


def _tell_counts(evidence: Evidence, seen: live.Seen) -> None:
    """Say on standard error what was captured, and at which hops some of it was missed."""
    words = f"{seen.total} frame{'s'[: seen.total != 1]}"
    if left := seen.filtered.total():
        words += f", {left} left out by the filter"
    _note(words)
    for hop in evidence.hops:
        missed = seen.missed[hop.hop]
        if missed:
            _note(f"{hop.hop}: {missed} frames found no room: their reader was too slow")
        if hop.trailer is None:
            if hop.hop not in seen.ended:
                _note(f"{hop.hop}: the capture is cut: {hop.note}")
        elif hop.trailer.drops or hop.trailer.errors:
            _note(
                f"{hop.hop}: its observer missed {hop.trailer.drops} frames "
                f"and met {hop.trailer.errors} errors"
            )


COMMANDS = (capture_hops,)
