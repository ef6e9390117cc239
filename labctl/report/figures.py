"""Packet traces drawn on the topology: one figure each, of which a reader picks one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from labctl.lab.hop_locations import hop_locations
from labctl.report import chart, drawing
from labctl.report.drawing import Drawing
from labctl.report.gather import Arm
from labctl.report.legend import SIGNS, Sign, sign, words
from labctl.topology.model import Topology
from labctl.topology.points import ObservationPoint
from labctl.tracing.packet_trace import FAULTS, PacketTrace

_SCREENS = {"from-760": 950.0, "from-1000": 1250.0, "from-1200": 1540.0}
"""Styles by the widest drawing whose smallest letters are 9 pixels high on such a screen."""


@dataclass(frozen=True)
class Subject:
    """What a figure is of: a packet trace, what to call it, and what to say of it."""

    name: str
    packet_trace: PacketTrace
    path: tuple[ObservationPoint, ...]
    good: bool | None
    """Whether it went well; None where that is not told."""
    description: str = ""
    outcome: str = ""
    """What became of the traffic, a sentence without its full stop."""
    trouble: str = ""
    routers: Mapping[str, str] = field(default_factory=dict)
    """What forwarded in routers, by name; those of which it is not known are left out."""


@dataclass(frozen=True)
class Figure:
    """One packet trace drawn, wide and tall."""

    subject: Subject
    signs: dict[str, str]
    """The sign of every hop on the packet's way."""
    words: dict[str, str]
    faulty: str
    """Key of the element that harmed the packet; empty where none alone did."""
    wide: Drawing
    tall: Drawing
    left_out: int = 0
    """Elements of the lab that are not drawn, because they are many."""

    @property
    def fits(self) -> str:
        """The style of the screens that show the wide drawing: on others it would be too small."""
        return next((style for style, most in _SCREENS.items() if self.wide.width <= most), "never")

    @property
    def packet_trace(self) -> PacketTrace:
        """What is drawn."""
        return self.subject.packet_trace


def of_arms(arms: Sequence[Arm]) -> list[Subject]:
    """Return what there is to draw of arms."""
    return [
        Subject(
            name=arm.name,
            packet_trace=arm.main,
            path=arm.path,
            good=True if arm.healthy else False if arm.broken else None,
            description=arm.result.description,
            outcome=f"SSH {arm.ssh.observed}" if arm.ssh else "",
            trouble=arm.trouble,
            routers=arm.result.routers,
        )
        for arm in arms
        if arm.main is not None
    ]


def draw(subjects: Sequence[Subject], topology: Topology | None) -> list[Figure]:
    """Draw packet traces on the topology, or each on what its path tells where there is none."""
    if not subjects:
        return []
    longest = max((subject.path for subject in subjects), key=len)
    return [
        _figure(
            subject,
            chart.bounded(chart.of_topology(topology, longest, subject.routers))
            if topology
            else chart.of_path(subject.path),
        )
        for subject in subjects
    ]


def _figure(subject: Subject, drawn: chart.Map) -> Figure:
    packet_trace = subject.packet_trace
    steps = {step.hop: step for step in packet_trace.steps}
    forward = [step.hop for step in packet_trace.steps] == [hop.name for hop in subject.path]
    path = subject.path if forward else subject.path[::-1]
    fault = next((step for step in packet_trace.steps if step.happened in FAULTS), None)
    before = packet_trace.before(fault) if fault else None
    alone = fault and before and _beside(fault.point, before.point)
    return Figure(
        subject=subject,
        signs={hop: sign(step) for hop, step in steps.items()},
        words={hop: words(step) for hop, step in steps.items()},
        faulty=fault.owner if fault and alone else "",
        wide=drawing.place(drawn, path, "wide"),
        tall=drawing.place(drawn, path, "tall"),
        left_out=drawn.left_out,
    )


def _beside(one: ObservationPoint, other: ObservationPoint) -> bool:
    """Tell whether nothing but their element is between two neighbouring points."""
    return one.element == other.element and one.inside is other.inside


def shown_first(figures: Sequence[Figure]) -> int:
    """Return which figure to show at first: one that went wrong."""
    return next((n for n, one in enumerate(figures) if one.subject.good is False), 0)


def hint(figures: Sequence[Figure]) -> str:
    """Say how the names of hops tell inside from outside, by the first that are shown."""
    path = figures[shown_first(figures)].subject.path if figures else ()
    if len(path) < 2:
        return ""
    more = max(figure.left_out for figure in figures)
    few = f" {more} nodes, routers and networks farther from it are not drawn." if more else ""
    inside, outside = path[:2]
    end = f"its {outside.end} in dom0" if outside.dom0 else "the host's end of the same interface"
    told = f"{inside.name} is inside {inside.element}, {outside.name} {end}.{few}"
    other = max((figure.subject.path for figure in figures), key=len)
    places = hop_locations(other)
    uplink = [hop for hop in other if hop.of_uplink][:2]
    if len(uplink) < 2:
        return told
    inner, outer = sorted(uplink, key=lambda hop: hop.at_bridge)
    return f"{told} {inner.name} is the {places[inner.name]}, {outer.name} its TAP outside."


def legend(figures: Sequence[Figure]) -> list[Sign]:
    """Return the signs that figures use, in the legend's order."""
    used = {key for figure in figures for key in figure.signs.values()}
    if any(len(figure.signs) < len(figure.wide.spots) for figure in figures):
        used.add("off")
    return [SIGNS[key] for key in SIGNS if key in used]
