"""What a trace makes of what its observers and its guests' kernels left: saved, dated, doubted."""

from __future__ import annotations

import contextlib

from labctl.capture import drops
from labctl.capture.correlate_clocks import Clock
from labctl.capture.journey_drops import GuestArrival, GuestDrop
from labctl.capture.session import Capture, Evidence, judged
from labctl.capture.stream import parse_stream

EARLY_NS = 1_000_000_000
"""By how much a capture must have ended too early to be told: more than its clock may be wrong."""


class Streams:
    """The streams' files, held open: what was seen outlives a lab that goes down meanwhile."""

    def __init__(self, seeing: Capture, stack: contextlib.ExitStack) -> None:
        """Open the streams of a capture whose observers are ready; `stack` closes them."""
        files = sorted(seeing.directory.glob("*.capture"))
        self._files = [stack.enter_context(file.open("rb")) for file in files]

    def saved(self, evidence: Evidence) -> Evidence:
        """Return the evidence, hops whose file is gone read from what is still open."""
        hops = []
        for hop, file in zip(evidence.hops, self._files, strict=True):
            if hop.header is None:
                stream = parse_stream(file.read(), hop.hop)
                note = stream.note or hop.note
                hops.append(judged(hop.hop, stream, note, hop.arrived_ns))
            else:
                hops.append(hop)
        return Evidence(tuple(hops))


def cut(evidence: Evidence) -> list[str]:
    """Say which hops' streams are cut, those together that are for the same reason."""
    reasons: dict[str, list[str]] = {}
    for hop in evidence.hops:
        if hop.cut:
            reasons.setdefault(hop.note, []).append(hop.hop)
    return [f"the capture is cut at {', '.join(where)}: {why}" for why, where in reasons.items()]


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
