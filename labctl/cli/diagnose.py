"""The verb `diagnose`: what is wrong with a flow, and which knobs mend it."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from labctl.cli.display import display
from labctl.cli.options import json_option, lab_option, print_json, print_table, writable
from labctl.cli.out import Styled, say
from labctl.cli.trace import (
    chosen_protocol,
    chosen_version,
    print_packet_trace,
    write_pcapng,
)
from labctl.diagnosis import diagnose as diagnosing
from labctl.diagnosis.remedies import Fix, Proof
from labctl.diagnosis.verdict import Finding
from labctl.errors import ExitCode
from labctl.lab.lab import Lab
from labctl.sandbox.deadline import Deadline
from labctl.tracing.plan import plan


@click.command("diagnose")
@lab_option
@click.argument("source", metavar="SRC")
@click.argument("destination", metavar="DST")
@click.option("--tcp", type=int, metavar="PORT", help="A TCP connection.")
@click.option("--udp", type=int, metavar="PORT", help="A UDP datagram.")
@click.option("--icmp", is_flag=True, help="An echo request (the default).")
@click.option("-4", "four", is_flag=True, help="IPv4.")
@click.option("-6", "six", is_flag=True, help="IPv6.")
@click.option("--prove", is_flag=True, help="Try each possible fix, one by one, and undo it.")
@click.option(
    "--timeout", type=click.FloatRange(1, 3600), metavar="SECONDS", default=600.0,
    show_default=True, help="When all of it is to be over.",
)  # fmt: skip
@click.option("--pcapng", "file", type=click.Path(path_type=Path), help="Write the packets there.")
@json_option
def diagnose_flow(
    lab: str | None,
    source: str,
    destination: str,
    tcp: int | None,
    udp: int | None,
    icmp: bool,
    four: bool,
    six: bool,
    prove: bool,
    timeout: float,
    file: Path | None,
    as_json: bool,
) -> None:
    """Say what is wrong from SRC to DST, why, and how to fix it.

    Exits with 0 when it is healthy, 1 when a problem was found, 3 when that could not be told.
    """
    protocol, port = chosen_protocol(tcp, udp, icmp)
    version = chosen_version(four, six)
    writable(file)
    within = Deadline(timeout, "the diagnosis")
    running = Lab.attach(lab)
    flow, path = plan(running, source, destination, protocol, port, version=version)
    with display() as show:
        found = diagnosing.diagnose(running, flow, path, proving=prove, emit=show, within=within)
    if as_json:
        print_json(found.to_json())
    else:
        _print(found)
    if file is not None:
        frames = write_pcapng(file, found.trace)
        if not as_json:
            click.echo(f"written: {file} ({frames} frames)")
    running.close()
    sys.exit({True: ExitCode.OK, False: ExitCode.FAIL, None: ExitCode.ERROR}[found.healthy])


def _print(found: diagnosing.Diagnosis) -> None:
    colour = {Finding.HEALTHY: "green", Finding.UNKNOWN: "yellow"}.get(found.verdict.finding, "red")
    say(Styled(found.verdict.sentence, fg=colour, bold=True))
    if found.verdict.packet_trace is not None:
        print_packet_trace(found.verdict.packet_trace)
    if found.verdict.evidence:
        click.echo("\nevidence:")
    for line in found.verdict.evidence:
        click.echo(f"  {line}")
    for note in (*found.notes, *found.trace.notes):
        click.echo(f"  note: {note}")
    if found.trace.partial:
        say(Styled("  partial: evidence is missing, see the notes", fg="yellow"))
    if found.proof:
        _print_proof(found.proof)
    elif found.fixes:
        _print_fixes(found.fixes)


def _print_fixes(fixes: tuple[Fix, ...]) -> None:
    click.echo("")
    rows = [[fix.name, fix.how, fix.cost] for fix in fixes if fix.should]
    print_table(["should fix it", "how", "cost"], rows)
    click.echo("--prove tries these and the rest on the running lab, and undoes each")


def _print_proof(proof: Proof) -> None:
    click.echo(f"\nwith nothing changed: {proof.before}\n")
    told = {True: "fixes it", False: "does not", None: "not known"}
    rows = [
        [t.fix.name, told[t.works], t.text, t.fix.cost if t.works else ""] for t in proof.trials
    ]
    print_table(["tried, one at a time", "", "what was seen", "cost"], rows)
    working = [trial.fix for trial in proof.trials if trial.works]
    if working:
        click.echo("to keep one:")
    for fix in working:
        click.echo(f"  {fix.name}: {fix.how}")
    click.echo(f"left as it was: {proof.values} values read before and after, all equal")


COMMANDS = (diagnose_flow,)
