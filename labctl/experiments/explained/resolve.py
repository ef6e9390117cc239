"""An explanation joined with what there is: the experiment, its topology, the hops on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from labctl.errors import LabctlError
from labctl.experiments.builtin import BUILTIN
from labctl.experiments.explained.functions import Function, index
from labctl.experiments.explained.model import KERNEL, Arm, Cell, Explanation, Role, Story
from labctl.experiments.explained.route import Part, Point, points, route
from labctl.topology import find, load


@dataclass(frozen=True)
class Drawn:
    """A way as it is in its topology."""

    file: str
    parts: tuple[Part, ...]
    problem: str = ""
    """Why there are no parts: the topology is not there, or has no such way."""

    @property
    def story(self) -> Story:
        """Whether the way is among virtio guests, among Xen guests, or from one to the other."""
        hosts = {bool(part.host) for part in self.parts}
        return "virtio" if hosts <= {False} else "Xen" if hosts == {True} else "Xen and virtio"

    @property
    def points(self) -> list[Point]:
        """Its observation points, in the packet's order."""
        return points(self.parts)


@dataclass(frozen=True)
class Told:
    """Everything that is said of one experiment."""

    explanation: Explanation
    title: str
    hypothesis: str
    runnable: bool
    """Whether there is an experiment of this name."""
    ways: tuple[Drawn, ...]

    def seen_at(self, cell: Cell, story: Story) -> str:
        """Name the observation point of a stage in one story, or return nothing."""
        if cell.role is None:
            return ""
        stories: list[Story] = ["Xen", "Xen and virtio"] if story == "Xen" else [story]
        ways = sorted(
            (way for way in self.ways if way.story in stories),
            key=lambda way: stories.index(way.story),
        )
        found = (point.name for way in ways for point in way.points if point.role == cell.role)
        return next(found, "")

    def states(self, arm: Arm) -> list[tuple[Point, str]]:
        """Return what an arm must show at each hop of its way; empty where that is not there."""
        way = self.ways[self.explanation.way_of(arm)]
        changes: dict[Role, str] = dict(arm.states)
        if not changes.keys() <= {point.role for point in way.points}:
            return []
        state, found = "", []
        for point in way.points:
            state = changes.get(point.role, state)
            found.append((point, state))
        return found

    def functions(self) -> list[Function]:
        """Return the functions that are named anywhere in the text."""
        return index(texts(self.explanation))

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain data."""
        own = self.explanation
        return {
            "name": own.name,
            "title": self.title,
            "hypothesis": self.hypothesis,
            "runnable": self.runnable,
            "told_beside": own.other,
            "kernel": KERNEL,
            "mechanism": " ".join(own.mechanism.split()),
            "ways": [_way(way) for way in self.ways],
            "stages": [
                {
                    "stage": stage.name,
                    "why": stage.why,
                    "stories": {
                        story: {
                            "does": cell.does,
                            "field": cell.field,
                            "note": cell.note,
                            "seen_at": self.seen_at(cell, story),
                        }
                        for story, cell in stage.cells.items()
                    },
                }
                for stage in own.stages
            ],
            "arms": [
                {
                    "arm": arm.name,
                    "change": arm.change,
                    "ssh": arm.ssh,
                    "why": arm.why,
                    "way": own.way_of(arm),
                    "states": {point.name: state for point, state in self.states(arm)},
                }
                for arm in own.arms
            ],
            "evidence": list(own.evidence),
            "cures": [{"how": one.how, "cost": one.cost} for one in own.workarounds],
            "useless": [{"how": one.how, "why": one.cost} for one in own.useless],
            "limits": list(own.limits),
            "functions": [
                {"name": one.name, "file": one.file, "inlined": one.inlined}
                for one in self.functions()
            ],
        }


def resolve(explanation: Explanation) -> Told:
    """Join an explanation with the experiment of its name, if there is one, and its topology."""
    experiment = BUILTIN.get(explanation.name)
    own = experiment.topology_name if experiment else explanation.topology
    drawn = []
    for way in explanation.ways:
        file = way.topology or own
        try:
            drawn.append(Drawn(file, route(load(find(file)), way)))
        except LabctlError as wrong:
            drawn.append(Drawn(file, (), wrong.message))
    return Told(
        explanation,
        experiment.summary if experiment else explanation.title,
        experiment.hypothesis if experiment else explanation.hypothesis,
        experiment is not None,
        tuple(drawn),
    )


def texts(explanation: Explanation) -> list[str]:
    """Return every text of an explanation in which functions may be named."""
    found = [explanation.mechanism, *explanation.evidence, *explanation.limits]
    for stage in explanation.stages:
        found += [stage.why, *(cell.does for cell in stage.cells.values())]
        found += [cell.note for cell in stage.cells.values()]
    for arm in explanation.arms:
        found += [arm.change, arm.why]
    for workaround in (*explanation.workarounds, *explanation.useless):
        found += [workaround.how, workaround.cost]
    return found


def _way(way: Drawn) -> dict[str, Any]:
    return {
        "topology": way.file,
        "story": way.story if way.parts else "",
        "problem": way.problem,
        "parts": [
            {
                "is": part.title,
                "kind": part.kind,
                "xen_host": part.host,
                "points": [{"hop": point.name, "kind": point.kind} for point in part.points],
                "to_next": part.to_next,
            }
            for part in way.parts
        ],
    }
