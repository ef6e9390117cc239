"""Flows followed through real guests: every hop, both ways, and what interferes with the trace."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from labctl.capture import pcapng
from labctl.errors import LabctlError, UsageError
from labctl.events import Event
from labctl.kinds.observers.stream import read_stream
from labctl.lab.lab import Lab
from labctl.lab.watch import watch_drops
from labctl.pytest_plugin import LabFactory
from labctl.sandbox.deadline import Deadline
from labctl.tracing.packet_trace import HopEvent, Outcome
from labctl.tracing.plan import plan
from labctl.tracing.result import Trace
from labctl.tracing.trace import trace

pytestmark = pytest.mark.integration
HOPS = ["vm1:eth0", "vm1-eth0", "r1-eth0", "r1:eth0", "r1:eth1", "r1-eth1", "vm2-eth0", "vm2:eth0"]


@pytest.fixture(scope="module")
def running(lab_factory: LabFactory) -> Iterator[Lab]:
    with lab_factory("router-hop.yaml") as lab:
        yield lab


def send(
    lab: Lab,
    protocol: Literal["tcp", "udp", "icmp"],
    port: int | None = None,
    *,
    kind: str = "namespace",
    version: int = 4,
    count: int = 1,
) -> Trace:
    lab.router("r1").set_kind(kind)
    flow, path = plan(lab, "vm1", "vm2", protocol, port, version=version)
    return trace(lab, flow, path, count=count)


@pytest.mark.parametrize("version", [4, 6])
def test_a_connection_is_followed_both_ways_through_every_hop(running: Lab, version: int) -> None:
    found = send(running, "tcp", 22, version=version)
    assert found.ok, found.to_json()
    assert {"SYN", "ACK"} <= {packet_trace.kind for packet_trace in found.forward}
    assert {"SYN-ACK", "TCP data"} <= {packet_trace.kind for packet_trace in found.reverse}
    syn = found.forward[0]
    assert [step.hop for step in syn.steps] == HOPS
    assert [step.hop for step in found.reverse[0].steps] == HOPS[::-1]
    assert {step.knowledge for step in syn.steps} == {"partial, needs_csum"}
    times = [step.time_ns or 0 for step in syn.steps]
    assert times == sorted(times), "one clock for all hops"
    json.dumps(found.to_json())


@pytest.mark.parametrize("version", [4, 6])
def test_a_datagram_loses_its_metadata_in_the_router(running: Lab, version: int) -> None:
    found = send(running, "udp", 4007, kind="raw", version=version)
    (packet_trace,) = found.forward
    assert packet_trace.outcome is Outcome.DROPPED
    assert packet_trace.reason == "UDP_CSUM"
    assert packet_trace.where == "router r1 (eth0 to eth1)"
    assert [step.happened for step in packet_trace.steps].count(HopEvent.LOST) == 1
    assert found.ok is False


def test_echoes_are_summed_in_software_and_pass_any_router(running: Lab) -> None:
    found = send(running, "icmp", kind="raw", count=3)
    assert found.ok
    assert len(found.forward) == len(found.reverse) == 3


def test_each_attempt_has_its_own_packet_trace(running: Lab) -> None:
    found = send(running, "tcp", 22, kind="raw")
    assert {packet_trace.kind for packet_trace in found.forward} == {"SYN"}
    assert len(found.forward) >= 2, "it was retransmitted"
    assert {packet_trace.reason for packet_trace in found.forward} == {"TCP_CSUM"}


HOLD = """
import sys, time
from labctl.lab.lab import Lab
from labctl.lab.watch import watch_drops
with watch_drops(Lab.attach(sys.argv[1]).node("vm2")):
    print("watching", flush=True)
    time.sleep(600)
"""


def test_traces_at_once_leave_each_other_the_drops_and_killed_ones_leave_nothing(
    running: Lab,
) -> None:
    vm2 = running.node("vm2")

    def instances() -> set[str]:
        return set(vm2.run("ls /sys/kernel/tracing/instances").stdout.split())

    words = [sys.executable, "-c", HOLD, running.name]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        try:
            assert other.stdout.readline() == "watching\n"
            others = instances()
            assert len(others) == 1
            with watch_drops(vm2) as watch:
                found = send(running, "tcp", 22, kind="raw")
                assert "TCP_CSUM" in {one.reason for one in watch.read()}
            assert {packet_trace.reason for packet_trace in found.forward} == {"TCP_CSUM"}
            assert instances() == others, "a living one's"
        finally:
            other.kill()
    with watch_drops(vm2):
        assert not instances() & others
    assert instances() == set()


def test_a_waiting_trace_sees_what_somebody_else_sends(running: Lab) -> None:
    running.router("r1").set_kind("namespace")
    flow, path = plan(running, "vm1", "vm2", "icmp", None)
    sending: list[threading.Thread] = []

    def when_ready(event: Event) -> None:
        if event.state == "progress" and not sending:
            command = f"ping -c 1 {flow.destination}"
            sending.append(threading.Thread(target=running.node("vm1").run, args=(command,)))
            sending[0].start()

    found = trace(running, flow, path, wait=60, emit=when_ready)
    sending[0].join()
    assert found.came
    assert found.forward[0].ok


def test_a_flow_that_never_comes_ends_with_what_was_seen(running: Lab) -> None:
    flow, path = plan(running, "vm1", "vm2", "tcp", 9999)
    found = trace(running, flow, path, wait=0.2)
    assert not found.came
    assert found.ok is None
    assert set(found.seen()) == set(HOPS)


def test_wireshark_shows_state_and_metadata_of_each_packet(running: Lab, tmp_path: Path) -> None:
    found = send(running, "udp", 4007, kind="raw")
    file = tmp_path / "trace.pcapng"
    pcapng.write(file, found.evidence.hops)
    tshark = shutil.which("tshark")
    if tshark is None:
        pytest.skip("tshark is not installed")
    words = [tshark, "-r", str(file), "-Y", "udp.port==4007 and not icmp", "-T", "fields"]
    done = subprocess.run(
        [*words, "-e", "frame.interface_name", "-e", "frame.comment"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    told = dict(line.split("\t") for line in done.stdout.splitlines())
    assert sorted(told) == sorted(HOPS)
    assert told["r1:eth0"].startswith("UDP: partial, needs_csum - virtio header: flags 1, ")
    assert told["r1:eth1"].startswith("UDP: partial, no metadata")


@pytest.mark.parametrize(
    ("source", "destination", "at", "words"),
    [
        ("vm1", "vm9", (), "has no node vm9"),
        ("vm1", "r1", (), "r1 is a router"),
        ("vm1", "vm1", (), "both ends"),
        ("vm1", "vm2", ("vm1",), "not a further device"),
        ("vm1", "vm2", ("vm9:eth0",), "not on the way"),
    ],
)
def test_what_the_lab_has_not_is_refused_before_anything_starts(
    running: Lab, source: str, destination: str, at: tuple[str, ...], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        plan(running, source, destination, "tcp", 22, at=at)


def test_a_device_that_is_not_there_is_named(running: Lab) -> None:
    flow, path = plan(running, "vm1", "vm2", "icmp", None, at=("vm1:vxlan0",))
    with pytest.raises(LabctlError, match="vm1:vxlan0"):
        trace(running, flow, path)


def test_what_was_seen_outlives_a_lab_that_goes_down(lab_factory: LabFactory) -> None:
    with lab_factory("bridged.yaml") as lab:
        flow, path = plan(lab, "vm1", "vm2", "icmp", None)
        ending: list[threading.Thread] = []

        def when_ready(event: Event) -> None:
            if event.state == "progress" and not ending:
                lab.node("vm1").run(f"ping -c 1 {flow.destination}")
                (stream,) = lab.directory.glob("captures/trace-*/01.capture")
                deadline = Deadline(60, "writing what was seen")
                while "ICMP echo" not in [
                    one.classify().kind for one in read_stream(stream).records
                ]:
                    deadline.pause(0.02)
                ending.append(threading.Thread(target=lab.down))
                ending[0].start()

        found = trace(lab, flow, path, count=99, wait=60, emit=when_ready)
        ending[0].join()
    assert found.partial
    assert found.ok is None, "whether its streams are cut or were ended whole is chance"
    assert "the lab went down" in found.notes[0]
    assert found.seen()["vm1-eth0"].get("ICMP echo") == 1
    assert len(found.forward) == 1
    assert found.forward[0].outcome in (Outcome.ARRIVED, Outcome.UNKNOWN)
