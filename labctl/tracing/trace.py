"""Trace a flow through a running lab: send it or wait for it, and follow each of its packets.

The result is plain data (`Trace.to_json`); the evidence it was made from stays with it.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from labctl.capture import counters as kernel_counters
from labctl.capture.limits import Limits
from labctl.capture.session import Capture, Evidence
from labctl.errors import LabctlError
from labctl.events import Emit, Event, silent
from labctl.lab import hop_links
from labctl.lab.lab import Lab
from labctl.lab.node import COMMAND_SECONDS, Job, Node
from labctl.lab.state import alive
from labctl.lab.watch import START_SECONDS, DropWatch, capture, counters, watch_drops
from labctl.sandbox.deadline import Deadline
from labctl.topology.points import ObservationPoint
from labctl.tracing.clocks import Clock
from labctl.tracing.command import run_command
from labctl.tracing.drop_events import MOST_DROPS, SILENT_REASONS, GuestDrop
from labctl.tracing.evidence import (
    clocks_command,
    cut,
    early,
    limited,
    missed,
    nanoseconds,
    on_clock,
    untold,
)
from labctl.tracing.flow import Flow, receive_command, send_command
from labctl.tracing.follow import ARRIVING_NS, PacketPredicate, clocks, follow
from labctl.tracing.icmp_errors import complaints
from labctl.tracing.packet_trace import Outcome, PacketTrace
from labctl.tracing.result import Trace
from labctl.tracing.selection import Selection
from labctl.tracing.translations import translations

CONNECT_SECONDS = 6.0
"""For a connection to be established: long enough for two retransmissions of a SYN."""
WAIT_SECONDS = 60.0
STOP_SECONDS = 60.0
QUIET_SECONDS = 0.3
"""How long nothing may be written at any hop before the packets are taken to have arrived."""
LINGER_SECONDS = 3.0
"""How long something may still be under way before it is taken to be lost."""
LOOK_SECONDS = 0.1
COMMAND_LONGEST = 3600.0
STOP_LEAST_SECONDS = 5.0
"""For observers to end even where the time given is over: what they saw is still wanted."""
ASK_LEAST_SECONDS = 2.0
"""The same for a command in a guest."""
MOST_SHARE, SHARE_SECONDS = 0.25, 6.0
"""Of the time given, for what comes after waiting: at most so many seconds."""
DOWN = "the lab went down meanwhile"


@contextlib.contextmanager
def _folder(lab: Lab) -> Iterator[Path]:
    """Give a folder that the lab's sandbox sees; one left by a killed trace goes with the lab."""
    captures = lab.directory / "captures"
    captures.mkdir(mode=0o700, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="trace-", dir=captures))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def trace(
    lab: Lab,
    flow: Flow,
    path: Sequence[ObservationPoint],
    *,
    count: int = 1,
    wait: float | None = None,
    receive: bool = True,
    within: Deadline | None = None,
    emit: Emit = silent,
    command: str = "",
    stop_after: int | None = None,
    selection: Selection | None = None,
    ready: Callable[[], None] = lambda: None,
) -> Trace:
    """Send the flow `count` times, or wait at most `wait` seconds for it, and follow its packets.

    A `command`, a line for the source's shell, takes the place of sending: what it causes is
    followed until it ends. `stop_after` so many packets there, waiting or the command ends; of
    them all those are told of that `selection` wants. `ready` is called once nothing is missed.

    Where nothing takes in UDP datagrams, a program of labctl's own does so unless `receive` is off.
    Once the observers are ready there is always a result: what fails later makes it partial. Where
    all is to be over `within` a deadline, each stage gets what is left of it, and waiting leaves
    some for what comes after. Raises `LabctlError` when the observers cannot be started.
    """
    path = tuple(path)
    lab.check_programs()
    asked = _Asked(count, receive, command, stop_after, selection or Selection(), ready)
    run = _Run(lab, flow, path, asked, emit, within)
    with _folder(lab) as folder:
        return run.go(folder, wait)


@dataclass(frozen=True)
class _Asked:
    """What is to be sent, and of what to tell; see `trace`."""

    count: int
    receive: bool
    command: str
    stop_after: int | None
    selection: Selection
    ready: Callable[[], None]


class _Run:
    """One trace on its way."""

    def __init__(
        self,
        lab: Lab,
        flow: Flow,
        path: tuple[ObservationPoint, ...],
        asked: _Asked,
        emit: Emit,
        within: Deadline | None,
    ) -> None:
        self.within = within
        self.asked, self.selection = asked, asked.selection
        self.lab, self.flow, self.path, self.emit = lab, flow, path, emit
        self.count, self.receive = asked.count, asked.receive
        self.source, self.destination = path[0].element, path[-1].element
        ends = filter(lab.topology.answers, (self.source, self.destination))
        self.nodes = {name: lab.node(name) for name in ends}
        self.said: list[str] = []
        self.notes: list[str] = []
        self.trouble = ""
        self.broken = False
        self.missing: list[str] = []
        """What is lacking in the evidence besides the captures."""
        self.waiting = False
        self.until_ns: int | None = None
        """When all of the flow was taken to have been sent; what begins later is not followed."""
        self._arriving = Deadline(0, "arriving")
        self.errors: dict[str, dict[str, int]] = {}
        self.forwarded: dict[str, dict[str, int]] = {}
        self.drops: list[GuestDrop] = []
        names = dict.fromkeys(hop.element for hop in path if hop.of_router)
        self.routers = {name: lab.forwarder(name) for name in filter(lab.topology.answers, names)}

    def go(self, folder: Path, wait: float | None) -> Trace:
        self.emit(Event("trace", self.flow.text, "start", "starting the observers"))
        with contextlib.ExitStack() as stack:
            starting = self._left(START_SECONDS)
            limits = Limits.of(len(self.path), self.within.seconds if self.within else None)
            seeing = stack.enter_context(capture(self.lab, self.path, folder, starting, limits))
            try:
                self._traffic(seeing, wait)
            except LabctlError as wrong:
                self.trouble = wrong.message
            self._find_faults()
            self._go_on()
            asked_ns = time.time_ns()
            ending = Deadline(self._left(STOP_SECONDS, STOP_LEAST_SECONDS), "ending the capture")
            evidence = seeing.stop(ending)
        if self.trouble and not alive(self.lab.directory):
            # Which of its parts failed first is chance: why they did is what must be told.
            self.trouble = DOWN if self.trouble == DOWN else f"{DOWN}: {self.trouble}"
        found = self._result(evidence, asked_ns)
        state = "done" if found.came else "failed"
        detail = f"packets followed: {len(found.packet_traces)}"
        self.emit(Event("trace", self.flow.text, state, detail))  # type: ignore[arg-type]
        return found

    def _left(self, usual: float, least: float = 0.0) -> float:
        """Return the seconds a stage may take: `usual`, or what is left, but at least `least`."""
        return usual if self.within is None else max(least, min(usual, self.within.left))

    def _asking(self) -> float:
        """Return the seconds a command in a guest may take."""
        return self._left(COMMAND_SECONDS, ASK_LEAST_SECONDS)

    def _counters(self, node: Node) -> dict[str, int]:
        return counters(node, self._asking())

    def _traffic(self, seeing: Capture, wait: float | None) -> None:
        before = {name: self._counters(node) for name, node in self.nodes.items()}
        passed = {name: router.counters() for name, router in self.routers.items()}
        with contextlib.ExitStack() as stack:
            watches = {
                name: stack.enter_context(watch_drops(node, seconds=self._asking))
                for name, node in self.nodes.items()
            }
            self.emit(Event("trace", self.flow.text, "progress", "sending"))
            self.waiting = wait is not None
            self.asked.ready()
            if self.asked.command:
                self._run_command(seeing)
            elif wait is None:
                self._send()
            else:
                self._wait(seeing, wait)
            self._settle(seeing)
            for name, watch in watches.items():
                self.drops += self._told(self.nodes[name], watch)
        for name, node in self.nodes.items():
            if grown := kernel_counters.grown(before[name], self._counters(node)):
                self.errors[name] = grown
        for name, router in self.routers.items():
            after = router.counters()
            self.forwarded[name] = kernel_counters.grown(passed[name], after, sorted(after))

    def _find_links_down(self, ways: Sequence[Sequence[PacketTrace]]) -> None:
        """Name the links that are down where packets did not come, or went out of sight."""
        lost = (Outcome.VANISHED, Outcome.UNKNOWN)
        came = [one for way in ways for one in way]
        if came and not any(one.outcome in lost for one in came):
            return
        if self.within is not None and self.within.left < ASK_LEAST_SECONDS:
            return
        with contextlib.suppress(LabctlError):  # who does not answer is told of elsewhere
            self.notes += hop_links.troubles(self.lab, self.path)

    def _find_faults(self) -> None:
        """Look whether a part of the lab has ended that packets pass."""
        try:
            self.lab.check_programs()
        except LabctlError as fault:
            self.broken = True
            self.trouble = f"{fault.message}; {self.trouble}" if self.trouble else fault.message

    def _send(self) -> None:
        with contextlib.ExitStack() as stack:
            job = None
            receives = self.receive and self.destination in self.nodes
            if self.flow.protocol == "udp" and receives:
                job = stack.enter_context(self._receiving())
            node = self.nodes[self.source]
            command = send_command(self.flow, self.count, CONNECT_SECONDS, node.model)
            limit = 60 + self.count * (CONNECT_SECONDS + 2)
            limit = self._left(limit, ASK_LEAST_SECONDS)
            result = node.run(command, check=False, timeout=limit)
            if job is not None:
                self._let_read(job)
        text = result.stdout if result.stdout.strip() else result.stderr
        lines = [line.strip()[:200] for line in text.splitlines() if line.strip()]
        self.said = lines[: 4 * self.count + 10]

    def _run_command(self, seeing: Capture) -> None:
        """Let the source run the command, until it ends, or enough was seen."""
        longest = max(ASK_LEAST_SECONDS, self._left(COMMAND_LONGEST) * (1 - MOST_SHARE))
        come = _Coming(self, seeing)

        def enough() -> bool:
            if not self.lab.directory.exists():
                raise LabctlError(DOWN)
            return come.enough(self.asked.stop_after)

        source, line = self.nodes[self.source], self.asked.command
        self.said, notes = run_command(source, line, longest, enough, self._asking)
        self.notes += notes

    @contextlib.contextmanager
    def _receiving(self) -> Iterator[Job]:
        """Let a program take in the datagrams, unless one listens there already."""
        node = self.nodes[self.destination]
        job = node.start(receive_command(self.flow, node.model))
        deadline = Deadline(30, f"listening in {self.destination}")
        try:
            while not re.search("listening|taken", job.output):
                if job.poll() is not None:
                    raise LabctlError(f"the receiver ended: {job.errors.strip()[:120]}")
                deadline.pause(0.02)
            yield job
        finally:
            job.stop()

    def _let_read(self, job: Job) -> None:
        """Give the receiver time: a datagram is summed, or dropped, when it is read."""
        end = Deadline(LINGER_SECONDS, "receiving")
        while "listening" in job.output and not end.passed:
            if job.output.count("got ") >= self.count:
                return
            time.sleep(LOOK_SECONDS)

    def _wait(self, seeing: Capture, seconds: float) -> None:
        share = 0.0
        if self.within is not None:
            share = min(SHARE_SECONDS, MOST_SHARE * self.within.seconds)
        deadline = Deadline(
            max(0.0, self._left(seconds + share) - share), f"waiting for {self.flow.text}"
        )
        come = _Coming(self, seeing)
        while not deadline.passed:
            if not self.lab.directory.exists():
                raise LabctlError(DOWN)
            if come.enough(self.asked.stop_after or self.count):
                return
            time.sleep(LOOK_SECONDS)

    def _settle(self, seeing: Capture) -> None:
        """Let what is under way arrive: until all has, and nothing is written for a moment."""
        end = Deadline(self._left(LINGER_SECONDS), "settling")
        quiet, size = time.monotonic(), -1
        while not end.passed:
            try:
                now = sum(file.stat().st_size for file in seeing.directory.iterdir())
            except OSError:
                return  # the lab went down meanwhile; the next call to it will say so
            if now != size:
                quiet, size = time.monotonic(), now
            elif time.monotonic() - quiet >= QUIET_SECONDS:
                if not self._under_way(seeing):
                    break
                time.sleep(LOOK_SECONDS)
            time.sleep(0.02)
        self.until_ns = time.time_ns()
        self._arriving = Deadline(ARRIVING_NS / 1e9, "arriving")

    def _go_on(self) -> None:
        """Observe for long enough after the last packet that not seeing it proves something."""
        time.sleep(self._arriving.left)

    def _under_way(self, seeing: Capture) -> bool:
        """Tell whether a packet was seen a short while ago that has not come to its end."""
        evidence = Evidence(tuple(seeing.so_far(hop.name) for hop in self.path))
        ways = self._follow(evidence, clocks(evidence, self.path))
        recent = time.time_ns() - int(LINGER_SECONDS * 1e9)
        return any(
            one.outcome is Outcome.UNKNOWN
            and one.last is not None
            and (one.last.time_ns or 0) > recent
            for way in ways
            for one in way
        )

    def _follow(
        self, evidence: Evidence, known: dict[str, Clock]
    ) -> tuple[list[PacketTrace], list[PacketTrace]]:
        """Follow both ways of the flow through what was seen."""

        def along(path: tuple[ObservationPoint, ...], wanted: PacketPredicate) -> list[PacketTrace]:
            return follow(
                evidence, path, wanted, known=known, drops=self.drops, until_ns=self.until_ns
            )

        there = along(self.path, self.flow.forth)
        if not self.waiting:
            there = self.flow.begun(there)
        return there, along(self.path[::-1], self.flow.returning(there))

    def _told(self, node: Node, watch: DropWatch) -> list[GuestDrop]:
        """Read the drops a guest told of, their times on the clock its packets were seen by."""
        if watch.why_not:
            self.notes.append(watch.why_not)
            return []
        undated = "" if node.model.scripting else "it has neither perl nor python3"
        if why := node.model.unseen or undated:
            self.notes.append(f"no drops in {node.name} are told: {why}")
            return []
        link = next(hop.link for hop in (self.path[0], self.path[-1]) if hop.element == node.name)
        found = [
            one
            for one in watch.read()
            if (one.reason or "") not in SILENT_REASONS
            and (one.arrivals is None or any(came.device == link for came in one.arrivals))
        ]
        if not found:
            return []
        if len(found) > MOST_DROPS:
            self.missing.append(
                f"{node.name} dropped {len(found)} packets, of which {MOST_DROPS} were looked into"
            )
        command = clocks_command(node.model)
        ahead = nanoseconds(node.name, node.run(command, timeout=self._asking()).stdout)
        return [on_clock(node.name, one, ahead) for one in found[:MOST_DROPS]]

    def _result(self, evidence: Evidence, asked_ns: int) -> Trace:
        known = clocks(evidence, self.path)
        there, back = followed = self._follow(evidence, known)
        if not self.trouble:
            self._find_links_down(followed)
        kept = [tuple(filter(self.selection.keeps, way)) for way in followed]
        missing = [*cut(evidence), *limited(evidence), *early(evidence, known, asked_ns)]
        missing += self.missing
        lost = missed(evidence)
        on_path = {hop.element for hop in self.path}
        self.notes += [*self.lab.topology.unseen(on_path), *untold(evidence)]
        notes = [*([self.trouble] if self.trouble else []), *missing, *lost, *self.notes]
        ends = {self.flow.destination, self.flow.source} | {
            address or ""
            for packet_trace in there
            for step in packet_trace.steps
            for packet in (seen.judgement.packet for seen in step.observations)
            for address in (packet.src, packet.dst)
        }
        return Trace(
            lab=self.lab.name,
            source=self.source,
            destination=self.destination,
            flow=self.flow,
            path=self.path,
            evidence=evidence,
            forward=kept[0],
            reverse=kept[1],
            said=tuple(self.said),
            errors=self.errors,
            forwarded=self.forwarded,
            complaints=complaints(evidence, ends - {""}),
            translations=translations(there, back),
            left_out=sum(map(len, followed)) - sum(map(len, kept)),
            notes=tuple(notes),
            partial=bool(self.trouble or missing or lost),
            broken=self.broken,
        )


class _Coming:
    """Counts the packets of the way there as they come."""

    def __init__(self, run: _Run, seeing: Capture) -> None:
        self._run, self._seeing = run, seeing
        self._looked = self._came = 0

    def enough(self, wanted: int | None) -> bool:
        """Tell whether so many have come; None: there are never enough."""
        run = self._run
        fresh = self._seeing.fresh(run.path[0].name, self._looked)
        self._looked += len(fresh)
        self._came += sum(
            run.flow.forth(one.judgement.packet) and run.selection.counts(one) for one in fresh
        )
        return wanted is not None and self._came >= wanted
