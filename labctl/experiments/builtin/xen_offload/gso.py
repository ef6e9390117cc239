"""The part of `xen-offload` about super-frames, and about who mends one without its metadata."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

from labctl.experiments.run_context import Arm, Trial
from labctl.experiments.software_checksums import SEGMENTS
from labctl.experiments.superframes import (
    BULK_PORT,
    FIXUP,
    HAND_PORT,
    Tally,
    bulk,
    fixups,
    grown,
    send_unmarked,
    tally,
)
from labctl.experiments.traffic_run import check_in_effect
from labctl.lab.watch import capture
from labctl.sandbox.deadline import Deadline
from labctl.topology.graph import find_path
from labctl.topology.points import ObservationPoint

STOP_SECONDS = 60.0
OPEN = ("partial, needs_csum",)
UNFIXED = "did not grow, at both netfronts and both vifs"


def as_they_come(trial: Trial, arm: Arm, version: int) -> list[Tally]:
    """Send a transfer; every hop must see super-frames."""
    found = _watched(trial, arm, _path(trial), BULK_PORT, lambda: _send(trial, arm, version))
    for one in found:
        _some(arm, one)
    return found


def turned_off(trial: Trial, arm: Arm, version: int) -> list[Tally]:
    """Send the same with TSO and GSO off in vm1; no hop before vm2 may see a super-frame."""
    with trial.lab.node("vm1").offload(SEGMENTS) as now:
        for feature in SEGMENTS:
            check_in_effect(arm, f"vm1 {feature}", False, now[feature].active)
        found = _watched(trial, arm, _path(trial), BULK_PORT, lambda: _send(trial, arm, version))
    for one in found[:-1]:  # in vm2 GRO joins what arrives in one go
        _none(arm, one)
    return found


def unmarked(trial: Trial, arm: Arm, _version: int) -> list[Tally]:
    """Put a super-frame without its metadata on vm2's vif by hand; it must get some."""
    lab = trial.lab
    vm1, vm2 = lab.node("vm1"), lab.node("vm2")
    path = _path(trial)[2:]
    found = _watched(trial, arm, path, HAND_PORT, lambda: send_unmarked(lab, vm1, vm2))
    for one in found:
        _some(arm, one)
    return found


def _path(trial: Trial) -> tuple[ObservationPoint, ...]:
    return find_path(trial.lab.topology, "vm1", "vm2", "eth0").points


def _send(trial: Trial, arm: Arm, version: int) -> None:
    answer = bulk(trial.lab, "vm1", "vm2", trial.lab.node("vm2").address(version))
    arm.check("transfer", "all of it arrives", answer.text, answer.works)


def _watched(
    trial: Trial, arm: Arm, path: Sequence[ObservationPoint], port: int, act: Callable[[], None]
) -> list[Tally]:
    """Act while hops are observed; check that no driver had to put metadata right."""
    address = trial.lab.node("vm2").address(4)
    arm.offloads = trial.lab.offloads()
    with _unfixed(trial, arm), capture(trial.lab, path, trial.scratch(arm.name)) as seeing:
        act()
        evidence = seeing.stop(Deadline(STOP_SECONDS, "ending the capture"))
    arm.keep(evidence)
    return [tally(evidence, hop, address, port) for hop in path]


@contextlib.contextmanager
def _unfixed(trial: Trial, arm: Arm) -> Iterator[None]:
    before = fixups(trial.lab, "vm1", "vm2")
    yield
    after = fixups(trial.lab, "vm1", "vm2")
    more = grown(before, after)
    readings = ", ".join(f"{key}: {value}" for key, value in after.items())
    arm.check(FIXUP, UNFIXED, more or readings, not more)


def _some(arm: Arm, seen: Tally) -> None:
    """Check that a hop saw super-frames, each with its size and its sum open."""
    expected = "some, partial with needs_csum, each with the size of its pieces"
    good = seen.supers > 0 and seen.states == OPEN and all(seen.segments)
    passed = good if seen.supers or seen.complete else None
    arm.check(f"super-frames at {seen.hop.name}", expected, seen.text, passed)


def _none(arm: Arm, seen: Tally) -> None:
    """Check that a hop saw the transfer, and no super-frame."""
    passed = (seen.frames > 0 and not seen.supers) if seen.complete or seen.supers else None
    arm.check(f"super-frames at {seen.hop.name}", "none", seen.text, passed)


def told(rows: Mapping[str, list[Tally]]) -> list[str]:
    """Tell the part of the story about super-frames, of what the three arms found."""
    lines = ["Super-frames from vm1 to vm2: frames longer than the MTU, to be cut later.", ""]
    for name, found in rows.items():
        lines.append(f"  {name}")
        width = max(len(one.hop.name) for one in found)
        lines += [f"    {one.hop.name:{width}}  {one.text}" for one in found]
    return [
        *lines,
        "",
        "A super-frame goes whole from guest to guest: the rings carry the size of its pieces in",
        "an extra slot, and its sum stays open. Without TSO and GSO vm1 sends no such frame; vm2",
        "then sees some of its own making: GRO joins what arrives in one go, and marks it alike.",
        "",
        f"{FIXUP} counts super-frames that come over a ring without csum_blank, which",
        "checksum_setup() of netfront or netback then puts right. It stayed as it was at both",
        "guests and both vifs, even for the frame put there by hand, without the metadata and with",
        "a wrong sum: validate_xmit_skb() sends such a frame through tcp4_gso_segment(), which",
        "writes the pseudo-header's sum and sets CHECKSUM_PARTIAL before netback gets it. Between",
        "kernels that do this there is nothing to count: it is for peers that forget the flag.",
    ]
