"""Everything a proof may change, read before and after, and put back whatever happens between.

The reading before the first change also lies in the lab's folder, so that even a proof that was
killed can be undone by the next `labctl diagnose` or `trace`.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from labctl.errors import DeadlineError, LabctlError, UsageError
from labctl.guests import ethtool
from labctl.kinds import registry
from labctl.kinds.nics.base import CSUM_ACTION
from labctl.lab.lab import Lab
from labctl.lab.node import Node
from labctl.network import features
from labctl.sandbox import atomic, codec, documents, lock
from labctl.sandbox.deadline import Deadline
from labctl.topology.points import ObservationPoint

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_JOURNAL = "knobs.json"
_VERSION = 1
_LOCK = "knobs.lock"
RESTORED = "an earlier proof was cut off; what it had changed is put back"
"""What is told where `mend` has."""


@dataclass(frozen=True)
class State:
    """Every feature and router kind along a path."""

    guests: dict[str, dict[str, ethtool.Feature]] = field(default_factory=dict)
    """By `NODE/INTERFACE`."""
    links: dict[str, dict[str, features.Feature]] = field(default_factory=dict)
    """By `XEN-HOST/NETNS/LINK`; the first is empty in the lab itself, the second at a bridge."""
    routers: dict[str, str | None] = field(default_factory=dict)
    clsact: dict[str, bool] = field(default_factory=dict)
    """By `NODE/INTERFACE` of guests that may complete checksums by traffic control: whether there
    is a qdisc for it."""

    @property
    def count(self) -> int:
        """How many values this holds."""
        return len(self._flat())

    def differing(self, other: State) -> list[str]:
        """Name every value that is another in `other`."""
        mine, theirs = self._flat(), other._flat()
        return [name for name, value in mine.items() if theirs.get(name) != value]

    def _flat(self) -> dict[str, object]:
        flat: dict[str, object] = {f"{name} kind": kind for name, kind in self.routers.items()}
        flat |= {f"{place} clsact": there for place, there in self.clsact.items()}
        for place, found in self.guests.items():
            flat |= {f"{place} {name}": value for name, value in found.items()}
        for place, values in self.links.items():
            flat |= {f"{place} {name}": value for name, value in values.items()}
        return flat


@dataclass(frozen=True)
class _Journal:
    """What lies in the lab's folder during a proof."""

    state: State
    path: tuple[ObservationPoint, ...]


def read(lab: Lab, path: Sequence[ObservationPoint]) -> State:
    """Read every feature and kind along a path; raises `LabctlError` when one cannot be."""
    guests, links, routers, clsact = {}, {}, {}, {}
    for hop in path:
        if hop.in_guest:
            node = lab.node(hop.element)
            for one in node.model.interfaces:
                if one.name == hop.link:
                    guests[f"{hop.element}/{hop.link}"] = node.features(hop.link)
                    if any(way.csum_action for way in registry.nic(one.model).completions()):
                        clsact[f"{hop.element}/{hop.link}"] = _has_clsact(node, hop.link)
            continue
        values = lab.place(hop.context).call(features.read, hop.link, hop.netns)
        links[f"{hop.context}/{hop.netns}/{hop.link}"] = values
        if hop.of_router:
            routers[hop.element] = lab.forwarder(hop.element).kind
    return State(guests, links, routers, clsact)


def _has_clsact(node: Node, interface: str) -> bool:
    return "clsact" in node.run(f"tc qdisc show dev {interface}").stdout


def put_back(lab: Lab, before: State, path: Sequence[ObservationPoint]) -> None:
    """Make everything as it was in `before`, and check that it is.

    Every value is tried, whatever fails. Raises `LabctlError` naming what could not be put back.
    """
    troubles: list[str] = []
    for name, kind in before.routers.items():
        with _collected(troubles):
            router = lab.forwarder(name)
            if router.kind != kind:
                if kind is None:
                    router.stop()
                else:
                    router.set_kind(kind)
    for place, values in before.links.items():
        host, netns, link = place.split("/")
        with _collected(troubles):
            lab.place(host).call(features.restore, link, values, netns)
    for place, wanted in before.guests.items():
        name, _, interface = place.partition("/")
        with _collected(troubles):
            lab.node(name).restore_features(wanted, interface)
    for place, there in before.clsact.items():
        name, _, interface = place.partition("/")
        with _collected(troubles):
            node = lab.node(name)
            if not there and _has_clsact(node, interface):
                node.run(CSUM_ACTION.undo(interface))
    wrong: list[str] = []
    with _collected(troubles):
        wrong = before.differing(read(lab, path))
    if troubles or wrong:
        words = "; ".join(dict.fromkeys([*troubles, *wrong]))
        raise LabctlError(f"not everything could be put back: {words}", "run: labctl down")


@contextlib.contextmanager
def _collected(troubles: list[str]) -> Iterator[None]:
    try:
        yield
    except LabctlError as wrong:
        troubles.append(wrong.message)


@contextlib.contextmanager
def restoring(lab: Lab, before: State, path: Sequence[ObservationPoint]) -> Iterator[None]:
    """Put everything back to `before` at the end of a `with` block, however that ends.

    Raises `UsageError` while another process does the same, `LabctlError` when something could not
    be put back.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(_alone(lab))
        except DeadlineError:
            raise UsageError(
                f"another proof is under way in lab {lab.name}", "wait for its end"
            ) from None
        file = lab.directory / _JOURNAL
        told = _Journal(before, tuple(path))
        atomic.write(file, documents.dumps(told, _Journal, _JOURNAL, _VERSION))
        try:
            yield
        finally:
            with defer_signals():
                put_back(lab, before, path)
                file.unlink(missing_ok=True)


def _alone(lab: Lab) -> contextlib.AbstractContextManager[int]:
    """Keep others from proving; the kernel lets go when this process ends, however it does."""
    return lock.held(lab.directory / _LOCK, Deadline(0, "waiting for another proof"))


def mend(lab: Lab) -> bool:
    """Put back what a killed proof had changed; tell whether there was one.

    Raises `LabctlError` when it cannot be put back.
    """
    file = lab.directory / _JOURNAL
    if not file.exists():
        return False
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(_alone(lab))
        except DeadlineError:
            return False  # the proof is under way
        return _undo(lab, file)


def _undo(lab: Lab, file: Path) -> bool:
    try:
        told: _Journal = documents.loads(file.read_bytes(), _Journal, _JOURNAL, _VERSION)
    except FileNotFoundError:
        return False
    except codec.CodecError as reason:
        raise LabctlError(
            f"what a proof that was cut off changed in lab {lab.name} cannot be read: {reason}",
            f"it was noted by another labctl; run: labctl down {lab.name}",
        ) from None
    with defer_signals():
        put_back(lab, told.state, told.path)
        file.unlink(missing_ok=True)
    return True


@contextlib.contextmanager
def defer_signals() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait until the `with` block is over: a change is whole or not made."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        came.append(number)

    earlier = {number: signal.signal(number, note) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])
