"""How far each hop's clock is from the host's, from packets that crossed between the two.

Hops of the host and of its namespaces share one clock. A guest has its own, and a Xen host's dom0
is such a guest with hops of its own in it: the first guess is what its observer's header said
(`HopEvidence.clock_offset_ns`, too small by however long that took to come). A packet cannot arrive
before it is sent, so each one seen on both sides of a guest's device bounds the offset from above
or below; with traffic both ways the truth lies between.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from labctl.capture.session import HopEvidence, Observation
from labctl.packet.keys import traits

GUESS_SLACK_NS = 3_000_000_000
"""By how much a guess from the header alone may be wrong: ssh into a busy emulated guest."""
BOUND_SLACK_NS = 50_000_000
"""By how much an offset bounded from one side only may be wrong: the longest usual crossing."""


@dataclass(frozen=True, slots=True)
class Clock:
    """One hop's clock."""

    offset_ns: int = 0
    """Nanoseconds it is ahead of the host's."""
    slack_ns: int = 0
    """Nanoseconds the offset may be wrong by."""

    def beyond(self, nearer: Clock) -> Clock:
        """Return this clock, which was compared with a `nearer` one, beside the host's."""
        return Clock(nearer.offset_ns + self.offset_ns, nearer.slack_ns + self.slack_ns)


HOST = Clock()


def guest_clock(guest: HopEvidence, beside: HopEvidence) -> Clock:
    """Estimate a guest's clock, beside that of the hop which is the other end of its interface."""
    lower: int | None = None
    upper: int | None = None
    for inside, outside in _crossings(guest.observations, beside.observations):
        ahead = inside.time_ns - outside.time_ns
        if inside.direction == "out":  # sent before it was seen outside
            lower = ahead if lower is None else max(lower, ahead)
        else:
            upper = ahead if upper is None else min(upper, ahead)
    if lower is not None and upper is not None:
        return Clock((lower + upper) // 2, abs(upper - lower) // 2 + 1)
    if lower is not None:
        return Clock(lower, BOUND_SLACK_NS)
    if upper is not None:
        return Clock(upper, BOUND_SLACK_NS)
    # Each header tells how far its clock is ahead of ours; what counts is how far of the other.
    return Clock((guest.clock_offset_ns or 0) - (beside.clock_offset_ns or 0), GUESS_SLACK_NS)


def _crossings(
    inside: Sequence[Observation], outside: Sequence[Observation]
) -> list[tuple[Observation, Observation]]:
    """Pair what was seen exactly once on each side, and so cannot be mistaken."""
    these, those = _once(inside), _once(outside)
    return [(one, those[key]) for key, one in these.items() if key in those]


def _once(observations: Sequence[Observation]) -> dict[Hashable, Observation]:
    counted: Counter[Hashable] = Counter()
    found: dict[Hashable, Observation] = {}
    for one in observations:
        parts = traits(one.record.frame, one.judgement.packet)
        if parts is None:
            continue
        key = (parts.number, parts.ends, parts.ip_id, parts.body)
        counted[key] += 1
        found[key] = one
    return {key: one for key, one in found.items() if counted[key] == 1}
