"""The verb `trace`: follow a flow through a running lab, hop by hop."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich import box
from rich.table import Table
from rich.text import Text

from labctl.capture import pcapng
from labctl.capture.pcap_filter import PcapFilter
from labctl.cli.console import Page
from labctl.cli.display import display
from labctl.cli.options import json_option, lab_option, print_json, printable_json, writable
from labctl.cli.out import Styled, say
from labctl.diagnosis.settings import RESTORED, mend
from labctl.errors import ExitCode, LabctlError, UsageError
from labctl.lab.lab import Lab
from labctl.sandbox.deadline import Deadline
from labctl.tracing import events
from labctl.tracing import trace as tracing
from labctl.tracing.flow import Protocol
from labctl.tracing.packet_trace import HopEvent, Outcome, PacketTrace, Step, summary
from labctl.tracing.plan import plan
from labctl.tracing.result import Trace
from labctl.tracing.selection import Selection
from labctl.tracing.where import Where

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


def write_pcapng(path: Path, found: Trace) -> int:
    """Write what was seen at every hop; return how many frames."""
    try:
        return pcapng.write(path, found.evidence.hops)
    except OSError as wrong:
        raise LabctlError(
            f"{path} cannot be written: {wrong.strerror}", "free some space or name another file"
        ) from None


def write_html(path: Path, found: Trace, lab: Lab) -> None:
    """Write the trace as a page."""
    from labctl.cli.report import write_whole  # here: most traces write no page
    from labctl.lab.router_kinds import router_kinds
    from labctl.report import finding, page

    title = f"{found.flow.text}, {found.source} to {found.destination}"
    bad = [packet_trace for packet_trace in found.packet_traces if not packet_trace.ok]
    headline = finding.traced(len(found.packet_traces), bad)
    notes = [*(one.line for one in found.complaints), *found.notes]
    if found.partial:
        notes.append("Evidence is missing: what was not seen proves nothing.")
    text = page.render_packet_traces(
        title,
        headline,
        found.packet_traces,
        found.path,
        topology=lab.topology,
        notes=notes,
        routers=router_kinds(lab),
        lab=lab.name,
        command=shlex.join(["labctl", *sys.argv[1:]]),
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
    "--cmd", "command", metavar="LINE", default="",
    help="Let SRC's shell run this, and follow what comes of it until it ends.",
)  # fmt: skip
@click.option(
    "--stop-after", type=click.IntRange(1, 1000), metavar="N",
    help="End waiting, or the command, after so many packets of the flow.",
)  # fmt: skip
@click.option(
    "--filter", "-f", "expression", metavar="EXPR", default="",
    help="Tell only of packets that this expression of tcpdump's lets pass.",
)  # fmt: skip
@click.option(
    "--where", "condition", metavar="COND", default="",
    help="Only of those of which it holds at some hop: 'state==partial and not needs_csum'.",
)  # fmt: skip
@click.option(
    "--timeout", type=click.FloatRange(1, 3600), metavar="SECONDS",
    help=f"When all of it is to be over. [default with --wait: {tracing.WAIT_SECONDS:g}]",
)  # fmt: skip
@click.option("--all", "everything", is_flag=True, help="Show a table for every packet.")
@click.option("--pcapng", "file", type=click.Path(path_type=Path), help="Write the packets there.")
@click.option("--html", "page", type=click.Path(path_type=Path), help="Write a page of it there.")
@click.option(
    "--json-lines",
    "as_lines",
    is_flag=True,
    help="Print events as they come, a JSON object a line (labctl schema trace).",
)
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
    command: str,
    stop_after: int | None,
    expression: str,
    condition: str,
    timeout: float | None,
    everything: bool,
    file: Path | None,
    page: Path | None,
    as_lines: bool,
    as_json: bool,
) -> None:
    """Follow packets from node SRC to node DST and back.

    Shows what every hop saw and knew. Exits with 0 when all arrived unharmed, 1 when some did
    not, 3 when that could not be told.
    """
    protocol, port = chosen_protocol(tcp, udp, icmp)
    version = chosen_version(four, six)
    selection = Selection(
        PcapFilter(expression) if expression else None, Where(condition) if condition else None
    )
    _check_words(wait, command, stop_after, as_json, as_lines)
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

    def ready() -> None:
        if as_lines:
            print_line("ready", events.ready(running.name, flow, path))
        elif wait:
            click.echo(f"labctl: ready, waiting for {flow.text}", err=True)

    with display() as show:
        found = tracing.trace(
            running,
            flow,
            path,
            count=count,
            wait=timeout if wait else None,
            within=within,
            emit=show,
            command=command,
            stop_after=stop_after,
            selection=selection,
            ready=ready,
        )
    if as_lines:
        for packet_trace in found.packet_traces:
            print_line("packet", packet_trace.to_json())
        print_line("end", events.end(found))
    elif as_json:
        print_json(found.to_json())
    else:
        print_trace(found, everything=everything, waited=timeout if wait else None)
        if command and found.came:
            _print_said(found)
    if file is not None:
        frames = write_pcapng(file, found)
        if not (as_json or as_lines):
            click.echo(f"written: {file} ({frames} frames)")
    if page is not None:
        write_html(page, found, running)
        if not (as_json or as_lines):
            click.echo(f"written: {page}")
    running.close()
    sys.exit({True: ExitCode.OK, False: ExitCode.FAIL, None: ExitCode.ERROR}[found.ok])


def _check_words(
    wait: bool, command: str, stop_after: int | None, as_json: bool, as_lines: bool
) -> None:
    if wait and command:
        raise UsageError("--wait and --cmd contradict each other", "give one of them")
    if stop_after is not None and not (wait or command):
        hint = "give one of them, or --count N"
        raise UsageError("--stop-after is for --wait and --cmd", hint)
    if as_json and as_lines:
        raise UsageError("--json and --json-lines contradict each other", "give one of them")


def print_line(event: str, known: Mapping[str, Any]) -> None:
    """Print an event as a line of JSON."""
    click.echo(printable_json(json.dumps({"event": event, **known})))
    sys.stdout.flush()


def print_trace(found: Trace, *, everything: bool = False, waited: float | None = None) -> None:
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
    if found.left_out:
        click.echo(f"  {found.left_out} more packets of the flow: the selection leaves them out")
    for mapping in found.translations:
        click.echo(f"  {mapping.line}")
    for one in found.complaints:
        click.echo(f"  {one.line}")
    for node, grown in found.errors.items():
        words = ", ".join(f"{name} grew by {count}" for name, count in grown.items())
        click.echo(f"  {node}: {words}")
    click.echo(f"  {_missed(found.points())}")
    for note in found.notes:
        click.echo(f"  note: {note}")
    if found.partial:
        say(Styled("  partial: evidence is missing, see the notes", fg="yellow"))


def _missed(points: Sequence[Mapping[str, Any]]) -> str:
    """Say at which hops how many frames were missed."""
    known = [
        f"{one['hop']} {missed}"
        for one in points
        if (missed := (one["missed"] or 0) + (one["errors"] or 0) + one["left_out"])
    ]
    known += [f"{one['hop']} cannot tell" for one in points if one["missed"] is None]
    return f"frames missed: {', '.join(known) or f'none at {len(points)} hops'}"


def _print_nothing(found: Trace, waited: float | None) -> None:
    when = f" in {waited:g} s" if waited is not None else ""
    click.echo(f"  the flow never came{when}; seen meanwhile:")
    for hop, kinds in found.seen().items():
        words = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        click.echo(f"    {hop}: {words or 'nothing'}")
    _print_said(found)


def _print_said(found: Trace) -> None:
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
    left = step.left_to_cut
    happened = f"{step.happened}" + (f": {step.reason}" if step.reason else "")
    return [
        Text(step.hop),
        Text(when),
        Text(step.knowledge, style="red" if style.endswith("red") else ""),
        Text(happened, style=style),
        Text(", ".join((*step.notes, *([left.words] if left else [])))),
    ]


COMMANDS = (trace_flow,)
