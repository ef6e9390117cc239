"""A real Xen hypervisor with PV guests on one bridge: what crosses it, and how its parts fail."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from xenlive import XenLab, xen_lab

from labctl.capture.point import guest_point
from labctl.errors import GuestError
from labctl.guests import ssh, xen
from labctl.packet.checksum import Checksum, Metadata
from labctl.sandbox.deadline import Deadline

pytestmark = [pytest.mark.integration, pytest.mark.slow]

CSUMNOTREADY = 8
"""TP_STATUS_CSUMNOTREADY of linux/if_packet.h."""


@pytest.fixture(scope="module")
def lab() -> Iterator[XenLab]:
    begun = time.monotonic()
    with xen_lab("xen-bridged") as running:
        running.boot()
        running.start()
        spent = {name: round(seconds, 1) for name, seconds in running.seconds.items()}
        print(f"\nboth guests ready after {time.monotonic() - begun:.1f} s: {spent}")
        yield running


@pytest.mark.parametrize("address", ["10.0.1.2", "fd00:1::2"])
def test_packets_stay_partial_from_netfront_to_netfront(
    lab: XenLab, address: str, tmp_path: Path
) -> None:
    hops = {"vm1:eth0": "vm1", "vm1-eth0": "xen1", "vm2-eth0": "xen1", "vm2:eth0": "vm2"}
    points = [
        guest_point(hop, hop.partition(":")[2] or hop, ssh.command(lab.directory, place))
        for hop, place in hops.items()
    ]
    with lab.capture(points, tmp_path) as capture:
        told = lab.run("vm1", f"ssh {address} uname -n").stdout
        evidence = capture.stop(Deadline(60, "stopping observers"))
    assert told == "vm2\n"
    for hop in evidence.hops:
        assert hop.complete, hop.note
        for kind in ("SYN", "SYN-ACK"):
            (seen,) = (s for s in hop.observations if s.judgement.kind == kind)
            judged = (seen.judgement.state, seen.judgement.metadata)
            assert judged == (Checksum.PARTIAL, Metadata.NEEDS_CSUM), f"{kind} at {hop.hop}"
            assert seen.record.status & CSUMNOTREADY, f"{kind} at {hop.hop}"


def test_a_guest_ends_and_comes_again(lab: XenLab) -> None:
    assert lab.sandbox.call(xen.running, lab.host) == ["vm1", "vm2"]
    lab.sandbox.call(xen.stop, lab.host, "vm2")
    lab.sandbox.call(xen.stop, lab.host, "vm2")  # gone already: no error
    assert lab.sandbox.call(xen.running, lab.host) == ["vm1"]
    assert "vm2-eth0" not in lab.run("xen1", "ls /sys/class/net").stdout
    lab.start("vm2")
    assert lab.run("vm1", "ssh vm2 uname -n").stdout == "vm2\n"
    assert "labctl: ready" in lab.guests[1].guest.log.read_text()


def test_a_host_that_dies_is_named_with_the_end_of_its_console(lab: XenLab) -> None:
    lab.stop_host()
    with pytest.raises(GuestError, match="xen1") as error:
        lab.sandbox.call(xen.running, lab.host)
    assert "labctl: ready" in error.value.detail
