"""What a trace makes of what its observers and its guests' kernels left: saved, dated, doubted."""

from __future__ import annotations

from labctl.capture import drops
from labctl.capture.session import Evidence
from labctl.tracing.clocks import Clock
from labctl.tracing.drop_events import GuestArrival, GuestDrop

EARLY_NS = 1_000_000_000
"""By how much a capture must have ended too early to be told: more than its clock may be wrong."""


def cut(evidence: Evidence) -> list[str]:
    """Say which hops' streams are cut, those together that are for the same reason."""
    reasons: dict[str, list[str]] = {}
    for hop in evidence.hops:
        if hop.cut:
            reasons.setdefault(hop.note, []).append(hop.hop)
    return [f"the capture is cut at {', '.join(where)}: {why}" for why, where in reasons.items()]


def limited(evidence: Evidence) -> list[str]:
    """Say at which hops more came than is kept; those whose streams were ended for it are cut."""
    return [f"{hop.hop}: {hop.limited}" for hop in evidence.hops if hop.left_out]


def early(evidence: Evidence, known: dict[str, Clock], asked_ns: int) -> list[str]:
    """Say which hops' streams are whole, but were ended by something else than this trace."""
    found = []
    for hop in evidence.hops:
        clock = known[hop.hop]
        if hop.trailer is None:
            continue
        ended_ns = hop.trailer.clock_ns - clock.offset_ns + clock.slack_ns
        if ended_ns + EARLY_NS < asked_ns:
            found.append(hop.hop)
    return [f"the capture ended too early at {', '.join(found)}"] if found else []


def on_clock(owner: str, drop: drops.Drop, ahead_ns: int) -> GuestDrop:
    """Put a drop on the clock that its guest's packets were seen by."""

    def when(seconds: float) -> int:
        return int(seconds * 1e9) + ahead_ns

    arrivals = drop.arrivals
    return GuestDrop(
        owner,
        when(drop.time_s),
        drop.protocol,
        drop.reason or "",
        drop.location,
        None
        if arrivals is None
        else tuple(GuestArrival(when(one.time_s), one.device, one.length) for one in arrivals),
    )
