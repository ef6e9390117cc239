"""Diagnose a flow: one sentence that says what is wrong, the evidence, and the knobs that mend it.

Small packets are traced first; where those are well, one of the path's full size is too, because
a smaller MTU that nobody tells of lets a handshake through and nothing after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from labctl.diagnosis.facts import Facts, gather
from labctl.diagnosis.remedies import Fix, Proof, candidates, prove
from labctl.diagnosis.settings import RESTORED, mend
from labctl.diagnosis.verdict import Finding, Verdict, conclude
from labctl.errors import LabctlError
from labctl.events import Emit, silent
from labctl.lab.lab import Lab
from labctl.sandbox.deadline import Deadline
from labctl.topology.points import ObservationPoint
from labctl.tracing.flow import Flow, with_size
from labctl.tracing.result import Trace
from labctl.tracing.trace import trace

_HEADERS = {4: 28, 6: 48}
"""Bytes of IP and ICMP header, by version."""
HEALTHY = "--prove tried nothing: the flow is healthy, there is nothing to mend"
UNPROVED = "--prove tried nothing: what it can turn mends lost metadata, which was not found here"


@dataclass(frozen=True)
class Diagnosis:
    """What was found out about a flow."""

    verdict: Verdict
    trace: Trace
    facts: Facts
    full: Trace | None = None
    """The trace of full-size packets, where one was made."""
    fixes: tuple[Fix, ...] = ()
    """What could mend it, the most promising first."""
    proof: Proof | None = None
    """What came of trying them, where that was asked for."""
    notes: tuple[str, ...] = field(default=())

    @property
    def healthy(self) -> bool | None:
        """Whether all is well; None where that could not be told."""
        if self.verdict.finding is Finding.UNKNOWN:
            return None
        return self.verdict.finding is Finding.HEALTHY

    def to_json(self) -> dict[str, Any]:
        """Return the diagnosis as plain data."""
        verdict = self.verdict
        return {
            "finding": str(verdict.finding),
            "sentence": verdict.sentence,
            "where": verdict.where,
            "reason": verdict.reason,
            "evidence": list(verdict.evidence),
            "knobs": [fix.to_json() for fix in self.fixes],
            "proof": self.proof.to_json() if self.proof else None,
            "notes": list(self.notes),
            "trace": self.trace.to_json(),
            "full_size": self.full.to_json() if self.full else None,
        }


def diagnose(
    lab: Lab,
    flow: Flow,
    path: Sequence[ObservationPoint],
    *,
    proving: bool = False,
    emit: Emit = silent,
    within: Deadline | None = None,
) -> Diagnosis:
    """Trace a flow, conclude, and try the knobs that may mend it if `proving` is set.

    Where all is to be over `within` a deadline, each part gets what is left of it. Whatever is
    tried is put back to exactly what it was, also when it is interrupted. Raises `LabctlError` when
    the observers cannot be started, a part of the lab has ended, or a knob could not be put back.
    """
    notes = []
    if mend(lab):
        notes.append(RESTORED)
    found = trace(lab, flow, path, receive=False, within=within, emit=emit)
    if found.broken:
        lab.check_programs()  # it says which
    if found.partial:
        # The lab may be gone; what was seen is told, and nothing more is asked of it.
        try:
            facts = gather(lab, flow, path)
        except LabctlError:
            facts = Facts(route="unknown")
        notes += [UNPROVED] * proving
        return Diagnosis(conclude(found, facts), found, facts, notes=tuple(notes))
    facts = gather(lab, flow, path)
    verdict = conclude(found, facts)
    full = None
    if verdict.finding is Finding.HEALTHY:
        full = trace(lab, with_size(flow, _full(found)), path, within=within, emit=emit)
        verdict = conclude(found, facts, full)
    turnable: tuple[Fix, ...] = ()
    proof = None
    if verdict.finding is Finding.LOST:
        turnable = candidates(path, verdict, facts, flow.version)
        if proving:
            proof = prove(lab, flow, path, turnable, emit, within)
    elif proving:
        notes.append(HEALTHY if verdict.finding is Finding.HEALTHY else UNPROVED)
    return Diagnosis(verdict, found, facts, full, turnable, proof, tuple(notes))


def _full(found: Trace) -> int:
    """Return how many bytes of echo fill the MTU of the sender's interface."""
    header = found.evidence[found.path[0].name].header
    return (header.mtu if header else 1500) - _HEADERS[found.flow.version]
