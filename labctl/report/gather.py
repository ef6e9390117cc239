"""From a run's directory to what its report says: arms and packet traces, what broke, what mends.

Everything is read from the record: `result.json`, `topology.json` and the captures. A capture that
is missing or damaged costs its packet traces, never the report.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from labctl.capture import pcapng
from labctl.errors import LabctlError
from labctl.report import recorded
from labctl.results.model import ArmResult, Check, Run, Verdict
from labctl.results.recorder import TOPOLOGY, capture_name
from labctl.topology import serialize
from labctl.topology.model import Topology
from labctl.topology.points import ObservationPoint
from labctl.tracing.packet_trace import PacketTrace
from labctl.tracing.recorded import KINDS, first_of, follow_along

_FAMILY = re.compile(r"[/ ]?(ipv[46])$", re.IGNORECASE)
_KERNEL = ("TcpInCsumErrors", "drop reason")
_CONSOLE_LINES = 30


@dataclass(frozen=True)
class Arm:
    """One arm, with what its capture shows."""

    number: int
    result: ArmResult
    path: tuple[ObservationPoint, ...] = ()
    packet_traces: tuple[PacketTrace, ...] = ()
    trouble: str = ""
    """Why the capture tells nothing, or not everything."""

    @property
    def name(self) -> str:
        """The arm's name."""
        return self.result.name

    @property
    def short(self) -> str:
        """The arm's name without the IP version at its end."""
        return _FAMILY.sub("", self.name) or self.name

    @property
    def family(self) -> str:
        """`IPv4` or `IPv6` as its packets are, else as its name says; empty where neither does."""
        packet_trace = self.main
        if packet_trace is not None:
            return "IPv6" if ":" in packet_trace.source else "IPv4"
        found = _FAMILY.search(self.name)
        return found[1].replace("ip", "IP") if found else ""

    @property
    def main(self) -> PacketTrace | None:
        """The packet trace that tells most: the first that ended badly, else the first kind's."""
        told = [packet_trace for packet_trace in self.packet_traces if packet_trace.kind in KINDS]
        told.sort(key=lambda packet_trace: KINDS.index(packet_trace.kind))
        return next((one for one in told if not one.ok), told[0] if told else None)

    def first(self, kind: str) -> PacketTrace | None:
        """Return the first packet trace of a kind."""
        return first_of(self.packet_traces, kind)

    @property
    def ssh(self) -> Check | None:
        """The check that tells what became of SSH."""
        return next((check for check in self.result.checks if check.name == "ssh"), None)

    @property
    def outcome(self) -> str:
        """What became of the traffic in a word, such as `works` or `hangs`; empty: not tried."""
        if self.ssh is not None:
            if self.ssh.verdict in (Verdict.ERROR, Verdict.SKIP):
                return "not told"
            return self.ssh.observed.partition(":")[0].strip()[:40]
        if self.main is None:
            return ""
        return "arrives" if self.main.ok else str(self.main.outcome)

    @property
    def broken(self) -> bool:
        """Whether traffic that should pass did not."""
        return self.outcome not in ("", "not told", "works", "arrives")

    @property
    def healthy(self) -> bool:
        """Whether traffic passed."""
        return self.outcome in ("works", "arrives")

    @property
    def told(self) -> list[Check]:
        """The checks that say what the receivers' kernels counted and gave as their reason."""
        return [check for check in self.result.checks if check.name.startswith(_KERNEL)]

    @property
    def count(self) -> str:
        """How many checks pass, such as `8 of 8`."""
        passed = sum(check.verdict is Verdict.PASS for check in self.result.checks)
        return f"{passed} of {len(self.result.checks)}"


@dataclass(frozen=True)
class Report:
    """All that a report shows."""

    run: Run
    arms: tuple[Arm, ...]
    topology: Topology | None = None
    consoles: dict[str, str] = field(default_factory=dict)
    """The last lines of each guest's console, where the run did not pass."""
    captures: tuple[str, ...] = ()
    """The capture files, relative to the run's directory."""
    directory: str = ""
    """The run's directory as the report's reader can find it; empty where there is none."""

    @property
    def groups(self) -> list[list[Arm]]:
        """The arms that were observed, put together by the path their packets took."""
        found: dict[tuple[str, ...], list[Arm]] = {}
        for arm in self.arms:
            if arm.path:
                found.setdefault(tuple(hop.name for hop in arm.path), []).append(arm)
        return list(found.values())


def from_record(directory: Path, run: Run) -> Report:
    """Return the report of the run that is recorded in `directory`."""
    topology = _topology(directory)
    nodes = list(topology.nodes) if topology else list(run.environment.guest_kernels)
    files = [capture_name(result.name) for result in run.arms]
    arms = tuple(
        _arm(number, result, directory, nodes, topology, shared=files.count(files[number]) > 1)
        for number, result in enumerate(run.arms)
    )
    told = {} if run.verdict in (Verdict.PASS, Verdict.SKIP) else _consoles(directory)
    captures = tuple(f"captures/{one.name}" for one in sorted(directory.glob("captures/*.pcapng")))
    return Report(run, arms, topology, told, captures, directory.name)


def _topology(directory: Path) -> Topology | None:
    try:
        return serialize.from_json(json.loads((directory / TOPOLOGY).read_bytes()))
    except (OSError, ValueError, RecursionError):
        return None  # a record from before topologies were kept, or a damaged one


def _arm(
    number: int,
    result: ArmResult,
    directory: Path,
    nodes: Sequence[str],
    topology: Topology | None,
    *,
    shared: bool,
) -> Arm:
    file = directory / "captures" / capture_name(result.name)
    try:
        evidence = pcapng.read(file)
    except FileNotFoundError:
        return Arm(number, result)
    except (LabctlError, OSError, ValueError) as wrong:  # ValueError: a name with a zero octet
        return Arm(number, result, trouble=f"its capture cannot be read: {wrong}")
    if shared:  # a record from before names that were used again were numbered
        trouble = "another arm wrote to the same capture: whose it is cannot be told"
        return Arm(number, result, trouble=trouble)
    path = recorded.path_of(evidence, nodes, topology)
    if not path:
        return Arm(number, result, trouble="its capture holds no hops")
    try:
        packet_traces = follow_along(evidence, path) + follow_along(evidence, path[::-1])
    except KeyError as missing:
        return Arm(number, result, path, trouble=f"its capture lacks the hop {missing}")
    blind = [hop.hop for hop in evidence.hops if not hop.complete]
    trouble = f"the capture is not complete at {', '.join(blind)}" if blind else ""
    return Arm(number, result, path, tuple(packet_traces), trouble)


def _consoles(directory: Path) -> dict[str, str]:
    found = {}
    for log in sorted(directory.glob("console/*.log")):
        try:
            text = log.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        lines = [printable(line) for line in text.splitlines()[-_CONSOLE_LINES:]]
        if any(lines):
            found[log.stem] = "\n".join(lines)
    return found


def printable(text: str) -> str:
    """Return a line without escape sequences and control characters, which HTML cannot hold."""
    plain = re.sub(r"\x1b(\[[0-?]*[ -/]*[@-~]|[@-_])", "", text)
    return "".join(letter for letter in plain if letter.isprintable() or letter == "\t").rstrip()
