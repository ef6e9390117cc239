"""The verb `trace`: follow a flow through a running lab, hop by hop."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click
from rich import box
from rich.table import Table
from rich.text import Text

from labctl.capture import pcapng
from labctl.cli.console import Page
from labctl.cli.display import display
from labctl.cli.options import json_option, lab_option, print_json, writable
from labctl.cli.out import Styled, say
from labctl.diagnosis.settings import RESTORED, mend
from labctl.errors import ExitCode, LabctlError, UsageError
from labctl.lab.lab import Lab
from labctl.sandbox.deadline import Deadline
from labctl.tracing import trace as tracing
from labctl.tracing.flow import Protocol
from labctl.tracing.packet_trace import HopEvent, Outcome, PacketTrace, Step, summary
from labctl.tracing.plan import plan

TABLES = 8
"""At most so many tables unless all are asked for."""
STYLES = {
    HopEvent.LOST: "bold red",
    HopEvent.CORRUPTED: "bold red",
    HopEvent.DROPPED: "red",
    HopEvent.NOT_SEEN: "yellow",
    HopEvent.UNKNOWN: "yellow",
    HopEvent.COMPLETED: "cyan",
}


def chosen_protocol(tcp: int | None, udp: int | None, icmp: bool) -> tuple[Protocol, int | None]:
    """Return the protocol and port of `--tcp`, `--udp` or `--icmp`; ICMP where none is given."""
    if sum((tcp is not None, udp is not None, icmp)) > 1:
        raise UsageError("--tcp, --udp and --icmp contradict each other", "give one of them")
    if tcp is not None:
        return "tcp", tcp
    if udp is not None:
        return "udp", udp
    return "icmp", None


def chosen_version(four: bool, six: bool) -> int | None:
    """Return the IP version of `-4` or `-6`; None where neither is given."""
    if four and six:
        raise UsageError("-4 and -6 contradict each other", "give one of the two")
    return 4 if four else 6 if six else None


def write_pcapng(path: Path, found: tracing.Trace) -> int:
    """Write what was seen at every hop; return how many frames."""
    try:
        return pcapng.write(path, found.evidence.hops)
    except OSError as wrong:
        raise LabctlError(
            f"{path} cannot be written: {wrong.strerror}", "free some space or name another file"
        ) from None


def write_html(path: Path, found: tracing.Trace, lab: Lab) -> None:
    """Write the trace as a page."""
    from labctl.cli.report import write_whole  # here: most traces write no page
    from labctl.report import finding, page

    title = f"{found.flow.text}, {found.source} to {found.destination}"
    bad = [packet_trace for packet_trace in found.packet_traces if not packet_trace.ok]
    headline = finding.traced(len(found.packet_traces), bad)
    notes = [*(one.line for one in found.complaints), *found.notes]
    if found.partial:
        notes.append("Evidence is missing: what was not seen proves nothing.")
    text = page.render_packet_traces(
        title, headline, found.packet_traces, found.path, topology=lab.topology, notes=notes
    )
    write_whole(path, text)


@click.command("trace")
@lab_option
@click.argument("source", metavar="SRC")
@click.argument("destination", metavar="DST")
@click.option("--tcp", type=int, metavar="PORT", help="A TCP connection.")
@click.option("--udp", type=int, metavar="PORT", help="A UDP datagram.")
@click.option("--icmp", is_flag=True, help="An echo request (the default).")
@click.option(
    "--count", "-n", type=click.IntRange(1, 1000), default=1, show_default=True,
    help="How many connections, datagrams or echo requests to send.",
)  # fmt: skip
@click.option("-4", "four", is_flag=True, help="IPv4.")
@click.option("-6", "six", is_flag=True, help="IPv6.")
@click.option("--to", metavar="ADDRESS", default="", help="Another address of DST, as in a tunnel.")
@click.option(
    "--at", multiple=True, metavar="OWNER:LINK", help="Observe this device too (vm1:vxlan0)."
)
@click.option(
    "--observer", "observers", multiple=True, metavar="KIND",
    help="Let this observer look too, beside the packet sockets (labctl kinds).",
)  # fmt: skip
@click.option("--wait", is_flag=True, help="Send nothing: wait until somebody does.")
@click.option(
    "--timeout", type=click.FloatRange(1, 3600), metavar="SECONDS",
    help=f"When all of it is to be over. [default with --wait: {tracing.WAIT_SECONDS:g}]",
)  # fmt: skip
@click.option("--all", "everything", is_flag=True, help="Show a table for every packet.")
@click.option("--pcapng", "file", type=click.Path(path_type=Path), help="Write the packets there.")
@click.option("--html", "page", type=click.Path(path_type=Path), help="Write a page of it there.")
@json_option
def trace_flow(
    lab: str | None,
    source: str,
    destination: str,
    tcp: int | None,
    udp: int | None,
    icmp: bool,
    count: int,
    four: bool,
    six: bool,
    to: str,
    at: Sequence[str],
    observers: Sequence[str],
    wait: bool,
    timeout: float | None,
    everything: bool,
    file: Path | None,
    page: Path | None,
    as_json: bool,
) -> None:
    """Follow packets from node SRC to node DST and back.

    Shows what every hop saw and knew. Exits with 0 when all arrived unharmed, 1 when some did
    not, 3 when that could not be told.
    """
    protocol, port = chosen_protocol(tcp, udp, icmp)
    version = chosen_version(four, six)
    writable(file)
    writable(page)
    if wait and timeout is None:
        timeout = tracing.WAIT_SECONDS
    within = Deadline(timeout, "the trace") if timeout else None
    running = Lab.attach(lab)
    flow, path = plan(
        running, source, destination, protocol, port,
        version=version, to=to, at=at, observers=observers,
    )  # fmt: skip
    if mend(running):
        click.echo(f"note: {RESTORED}", err=True)
    with display() as show:
        found = tracing.trace(
            running,
            flow,
            path,
            count=count,
            wait=timeout if wait else None,
            within=within,
            emit=show,
        )
    if as_json:
        print_json(found.to_json())
    else:
        print_trace(found, everything=everything, waited=timeout if wait else None)
    if file is not None:
        frames = write_pcapng(file, found)
        if not as_json:
            click.echo(f"written: {file} ({frames} frames)")
    if page is not None:
        write_html(page, found, running)
        if not as_json:
            click.echo(f"written: {page}")
    running.close()
    sys.exit({True: ExitCode.OK, False: ExitCode.FAIL, None: ExitCode.ERROR}[found.ok])


def print_trace(
    found: tracing.Trace, *, everything: bool = False, waited: float | None = None
) -> None:
    """Print the packet traces: a table for what matters, a line for the rest."""
    say(Styled(f"{found.flow.text}, {found.source} to {found.destination}", bold=True))
    courses = summary(found.packet_traces)
    first = {id(way[0]) for way in (found.forward, found.reverse) if way}
    shown = [
        (packet_trace, times)
        for packet_trace, times in courses
        if everything or id(packet_trace) in first or not packet_trace.ok
    ]
    limit = len(shown) if everything else TABLES
    for packet_trace, times in shown[:limit]:
        print_packet_trace(packet_trace, times)
    rest = [pair for pair in courses if pair not in shown[:limit]]
    if rest:
        click.echo("\nalso:")
    for packet_trace, times in rest:
        click.echo(f"  {title(packet_trace, times)}: {ending(packet_trace)}")
    if not found.came:
        _print_nothing(found, waited)
    for one in found.complaints:
        click.echo(f"  {one.line}")
    for node, grown in found.errors.items():
        words = ", ".join(f"{name} grew by {count}" for name, count in grown.items())
        click.echo(f"  {node}: {words}")
    for note in found.notes:
        click.echo(f"  note: {note}")
    if found.partial:
        say(Styled("  partial: evidence is missing, see the notes", fg="yellow"))


def _print_nothing(found: tracing.Trace, waited: float | None) -> None:
    when = f" in {waited:g} s" if waited is not None else ""
    click.echo(f"  the flow never came{when}; seen meanwhile:")
    for hop, kinds in found.seen().items():
        words = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        click.echo(f"    {hop}: {words or 'nothing'}")
    for line in found.said:
        click.echo(f"  {found.source} said: {line}")


def title(packet_trace: PacketTrace, times: int = 1) -> str:
    """Name a packet trace, and how many there were of its course."""
    many = f" ({times} times)" if times > 1 else ""
    return f"{packet_trace.kind}  {packet_trace.source} → {packet_trace.destination}{many}"


def ending(packet_trace: PacketTrace) -> str:
    """Say how a packet trace ended and who is to blame."""
    words = str(packet_trace.outcome)
    if packet_trace.reason:
        words += f" ({packet_trace.reason})"
    if packet_trace.remark:
        words += f"; {packet_trace.remark}"
    if packet_trace.fault is not None:
        words += f"; {packet_trace.fault.happened} at {packet_trace.where}"
    elif packet_trace.outcome is Outcome.VANISHED:
        last = packet_trace.last
        words += f" after {last.hop if last else 'nowhere'}: {packet_trace.where}"
    elif packet_trace.outcome is Outcome.UNKNOWN:
        last = packet_trace.last
        words += f" after {last.hop if last else 'nowhere'}: the captures further on have gaps"
    elif packet_trace.where:
        words += f" at {packet_trace.where}"
    return words


def print_packet_trace(packet_trace: PacketTrace, times: int = 1) -> None:
    """Print one packet trace as a table."""
    console = Page(highlight=False)
    if not console.is_terminal:
        console.width = 160
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in ("hop", "ms", "checksum", "what happened", ""):
        table.add_column(name, justify="right" if name == "ms" else "left", overflow="fold")
    for step in packet_trace.steps:
        table.add_row(*_row(step, packet_trace.started_ns))
    click.echo("")
    console.print(Text(title(packet_trace, times), style="bold"))
    console.print(table)
    style = (
        "green"
        if packet_trace.ok
        else "yellow"
        if packet_trace.outcome is Outcome.UNKNOWN
        else "red"
    )
    console.print(Text(f"→ {ending(packet_trace)}", style=style))


def _row(step: Step, begun_ns: int) -> list[Text]:
    style = STYLES.get(step.happened, "")
    when = "" if step.time_ns is None else f"{(step.time_ns - begun_ns) / 1e6:.3f}"
    happened = f"{step.happened}" + (f": {step.reason}" if step.reason else "")
    return [
        Text(step.hop),
        Text(when),
        Text(step.knowledge, style="red" if style.endswith("red") else ""),
        Text(happened, style=style),
        Text(", ".join(step.notes)),
    ]


COMMANDS = (trace_flow,)
