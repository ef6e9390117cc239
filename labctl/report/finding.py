"""The sentences a report begins with: what was found, what it means, and what mends it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from labctl.packet.checksum import Checksum
from labctl.report.gather import Arm, Report
from labctl.results.model import Check, Run, Verdict
from labctl.tracing.packet_trace import HopEvent, Outcome, PacketTrace

_FEW = 3
_LONG = 110
"""Characters of what was observed that a headline quotes."""

_VERDICTS = {
    Verdict.PASS: "The hypothesis holds: every check came out as it says.",
    Verdict.FAIL: "The hypothesis does not hold here: something else was observed.",
    Verdict.ERROR: "It could not be told: the host, a guest or the lab failed before an answer.",
    Verdict.SKIP: "It was not tried.",
}


@dataclass(frozen=True)
class Finding:
    """What a reader should know who reads nothing else."""

    headline: str
    """One sentence."""
    mends: str
    """Which arms were healthy where others were not; empty where that is no question."""


@dataclass(frozen=True)
class Workaround:
    """What an arm did beside a broken one on the same path."""

    name: str
    description: str
    outcomes: tuple[tuple[str, str, bool], ...]
    """IP version, outcome, whether it is a good one."""
    helped: bool
    reference: bool
    """Whether it is the broken arm that the others are compared with."""


def meaning(run: Run) -> str:
    """Say in a sentence what a run's verdict means."""
    skipped = len(_skipped(run))
    if run.verdict is Verdict.PASS and skipped:
        were = "1 was" if skipped == 1 else f"{skipped} were"
        return (
            "The hypothesis holds as far as it was tried: every check that was made came out as it "
            f"says, {were} skipped."
        )
    if run.verdict is Verdict.SKIP and any(arm.verdict is Verdict.PASS for arm in run.arms):
        return "It was not tried to its end."
    return _VERDICTS[run.verdict]


def _skipped(run: Run) -> list[Check]:
    return [check for arm in run.arms for check in arm.checks if check.verdict is Verdict.SKIP]


def find(report: Report) -> Finding:
    """Return the finding of a run."""
    run = report.run
    if run.verdict is not Verdict.PASS:
        return Finding(_trouble(report), "")
    broken = [arm for arm in report.arms if arm.broken]
    if broken:
        return Finding(_broken(report, broken), _mended(report, broken))
    told = [arm for arm in report.arms if arm.healthy]
    if not told:
        return Finding(f"As expected: {_checks(report)} came out right.", "")
    what = "SSH works" if any(arm.ssh for arm in told) else "The packets arrive"
    headline = what if len(told) == 1 else f"{what} in all {len(told)} arms"
    unfinished = [
        arm for arm in told if arm.main and all(s.state is Checksum.PARTIAL for s in arm.main.steps)
    ]
    reason = "the flag needs_csum reaches the receiver with every packet"
    if unfinished and len(unfinished) == len(told):
        headline += f" although no checksum is finished on the way: {reason}"
    elif unfinished:
        names = [arm.name for arm in unfinished]
        where = _list(names) if len(names) <= _FEW else f"{len(names)} of them"
        headline += f". In {where} no checksum is finished on the way: {reason}"
    return Finding(headline + ".", "")


def _checks(report: Report) -> str:
    skipped = len(_skipped(report.run))
    count = sum(len(arm.result.checks) for arm in report.arms) - skipped
    made = "the one check" if count == 1 else f"all {count} checks"
    return f"{made} that {'was' if count == 1 else 'were'} made" if skipped else made


def _trouble(report: Report) -> str:
    run = report.run
    if run.verdict is Verdict.SKIP:  # what was raised comes last, after any single check's skip
        return f"Not tried: {_short(_skipped(run)[-1].observed)}."
    for arm in report.arms:
        for check in arm.result.checks:
            if check.verdict is run.verdict:
                return _place(arm, check) + _sentence(arm, check)
    if run.partial:
        return "It was stopped before everything was tried."
    return _VERDICTS[run.verdict]


def _place(arm: Arm, check: Check) -> str:
    """Say where metadata or data was lost on the way of an arm that failed; empty: nowhere."""
    packet_trace = arm.main
    if check.verdict is not Verdict.FAIL or packet_trace is None or packet_trace.fault is None:
        return ""
    said = cause([packet_trace])
    return f"{said[0].upper()}{said[1:]}. "


def _sentence(arm: Arm, check: Check) -> str:
    start = {
        Verdict.FAIL: "Not as expected",
        Verdict.ERROR: "It could not be told",
    }[check.verdict]
    observed = _short(check.observed)
    if check.verdict is not Verdict.FAIL:
        return f"{start}: {observed}."
    return f"{start} in {arm.name}: {check.name} was “{observed}”, not “{_short(check.expected)}”."


def _short(text: str) -> str:
    text = " ".join(text.split()).rstrip(".")
    return text if len(text) <= _LONG else text[:_LONG].rstrip() + "…"


def _broken(report: Report, broken: Sequence[Arm]) -> str:
    told = [arm for arm in report.arms if arm.outcome]
    word = broken[0].outcome
    what = f"SSH {word}" if broken[0].ssh else f"The packet is {word}"
    if len({arm.outcome for arm in broken}) > 1:
        what = "Traffic fails"
    short = list(dict.fromkeys(arm.short for arm in broken))
    where = (
        f"with {_list(short)}" if len(short) <= _FEW else f"in {len(broken)} of {len(told)} arms"
    )
    because = cause([arm.main for arm in broken if arm.main and not arm.main.ok])
    return f"{what} {where}: {because}." if because else f"{what} {where}."


def traced(count: int, bad: Sequence[PacketTrace]) -> str:
    """Say in one sentence what became of `count` packets, of which `bad` did not arrive well."""
    if not count:
        return "No packet of the flow was seen."
    if not bad:
        return "The packet arrived." if count == 1 else f"All {count} packets arrived."
    if all(packet_trace.outcome is Outcome.UNKNOWN for packet_trace in bad):
        return f"What became of {len(bad)} of {count} packets cannot be told."
    if len(bad) == count > 1:
        return f"None of {count} packets got through: {cause(bad)}."
    many = "The packet" if count == 1 else f"{len(bad)} of {count} packets"
    return f"{many} did not get through: {cause(bad)}."


def cause(packet_traces: Iterable[PacketTrace]) -> str:
    """Say what was done to packets that did not get through, and where."""
    whats: dict[str, list[str]] = {}
    for packet_trace in packet_traces:
        whats.setdefault(_what(packet_trace), []).append(packet_trace.where)
    said = []
    for what, wheres in whats.items():
        places = list(dict.fromkeys(where for where in wheres if where))
        if len(places) > 1:  # router r1, whichever way it was passed
            places = list(dict.fromkeys(place.partition(" (")[0] for place in places))
        said.append(f"{what} in {_list(places)}" if places else what)
    return _list(said)


def _what(packet_trace: PacketTrace) -> str:
    fault = packet_trace.fault
    if fault is not None:
        lost = fault.happened is HopEvent.LOST
        return "the metadata was lost" if lost else "the packet was corrupted"
    if packet_trace.outcome is Outcome.UNKNOWN:
        return "what became of it cannot be told"
    if packet_trace.outcome is Outcome.DROPPED:
        return (
            f"the kernel dropped it ({packet_trace.reason})"
            if packet_trace.reason
            else "it was dropped"
        )
    return "the packet was not seen again"


def _mended(report: Report, broken: Sequence[Arm]) -> str:
    found = {c.name: c for group in report.groups for c in workarounds(group) if c.helped}
    helped = [
        f"{workaround.name} ({workaround.description})"
        if workaround.description
        else workaround.name
        for workaround in found.values()
    ]
    if not helped:
        return ""
    if len(helped) > _FEW + 1:
        return f"{len(helped)} settings mend it: {_list(list(found))}."
    verb = "works" if broken[0].ssh else "arrives"
    return f"On the same path it {verb} with {_list(helped)}."


def workarounds(group: Sequence[Arm]) -> list[Workaround]:
    """Return what each setting did on a path where something is broken, what helped first."""
    broken = [arm for arm in group if arm.broken]
    if not broken:
        return []
    by_name: dict[str, list[Arm]] = {}
    for arm in group:
        by_name.setdefault(arm.short, []).append(arm)
    found = [
        Workaround(
            name=name,
            description=several[0].result.description,
            outcomes=tuple((arm.family, arm.outcome or "not told", arm.healthy) for arm in several),
            helped=all(arm.healthy for arm in several),
            reference=broken[0] in several,
        )
        for name, several in by_name.items()
    ]
    return sorted(found, key=lambda workaround: (not workaround.reference, not workaround.helped))


def _list(words: Sequence[str]) -> str:
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"
