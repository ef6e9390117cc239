"""Diagnoses of real labs: what is wrong is named, proved, and left exactly as it was."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Literal

import pytest

from labctl.diagnosis import remedies
from labctl.diagnosis.diagnose import Diagnosis, diagnose
from labctl.diagnosis.settings import (
    State,
    defer_signals,
    mend,
    put_back,
    read,
    restoring,
)
from labctl.diagnosis.verdict import Finding
from labctl.errors import UsageError
from labctl.lab.lab import Lab
from labctl.pytest_plugin import LabFactory
from labctl.sandbox.base import Process
from labctl.sandbox.deadline import Deadline
from labctl.topology.graph import find_path
from labctl.topology.points import ObservationPoint
from labctl.tracing.plan import plan

pytestmark = pytest.mark.integration
OFF = {"tx-checksumming": False}


@pytest.fixture(scope="module")
def whole(lab_factory: LabFactory) -> Iterator[Lab]:
    with lab_factory("router-hop.yaml") as lab:
        yield lab


@pytest.fixture
def lab(whole: Lab) -> Iterator[Lab]:
    """The module's lab; whatever a test changed by the API's own means is put back."""
    before = state(whole)
    yield whole
    put_back(whole, before, path_of(whole))


def path_of(lab: Lab) -> tuple[ObservationPoint, ...]:
    return find_path(lab.topology, "vm1", "vm2").points


def state(lab: Lab) -> State:
    return read(lab, path_of(lab))


def ask(
    lab: Lab,
    kind: str = "namespace",
    port: int | None = 22,
    *,
    protocol: Literal["tcp", "udp", "icmp"] = "tcp",
    version: int = 4,
    to: str = "",
    proving: bool = False,
) -> Diagnosis:
    if lab.router("r1").kind != kind:
        lab.router("r1").set_kind(kind)
    flow, path = plan(lab, "vm1", "vm2", protocol, port, version=version, to=to)
    return diagnose(lab, flow, path, proving=proving)


def inside(lab: Lab, *argv: str, netns: str = "") -> None:
    words = ["nsenter", f"--net=/run/netns/{netns}", "--"] if netns else []
    lab.sandbox.agent().run([*words, *argv], Deadline(60, argv[0]))


@contextmanager
def changed(lab: Lab, there: Sequence[str], back: Sequence[str], netns: str = "") -> Iterator[None]:
    inside(lab, *there, netns=netns)
    try:
        yield
    finally:
        inside(lab, *back, netns=netns)


def test_a_kernel_router_is_healthy(lab: Lab) -> None:
    found = ask(lab)
    assert found.verdict.finding is Finding.HEALTHY, found.verdict
    assert found.healthy
    assert found.full is not None
    assert found.full.ok


def test_the_proof_names_the_router_and_the_knobs_and_leaves_no_trace(lab: Lab) -> None:
    lab.router("r1").set_kind("raw")
    before = state(lab)
    found = ask(lab, "raw", proving=True)
    assert found.verdict.finding is Finding.LOST
    assert found.verdict.where == "router r1 (eth0 to eth1)"
    assert found.verdict.reason == "TCP_CSUM"
    assert found.proof is not None
    assert "hangs" in found.proof.before
    came = {trial.fix.name: trial.works for trial in found.proof.trials}
    assert came == {
        "tx off in vm1 and vm2": True,
        "tx off at r1's bridge-side veths r1-eth0 and r1-eth1": True,
        "r1 as raw-vnet": True,
        "r1 as namespace": True,
        "tx off in vm1": False,
        "tx off in vm2": False,
        "tx off at the TAPs vm1-eth0 and vm2-eth0": False,
        "tx off at r1's own veths r1:eth0 and r1:eth1": False,
    }
    assert all(trial.fix.should is trial.works for trial in found.proof.trials), "as foretold"
    assert all(trial.fix.cost for trial in found.proof.trials)
    assert state(lab).differing(before) == []
    assert found.proof.values == before.count
    json.dumps(found.to_json())


def test_a_fix_at_one_end_moves_the_loss_to_the_way_back(lab: Lab) -> None:
    with lab.node("vm1").offload(OFF):
        found = ask(lab, "raw")
    assert found.verdict.finding is Finding.LOST
    assert "on the way back at router r1 (eth1 to eth0)" in found.verdict.sentence
    should = {fix.name for fix in found.fixes if fix.should}
    assert "tx off in vm2" in should
    assert not any("vm1" in fix.name for fix in found.fixes if fix.layer == "guest")


def test_a_closed_port_is_told_as_what_it_is(lab: Lab) -> None:
    found = ask(lab, port=81)
    assert (found.verdict.finding, found.verdict.reason) == (Finding.OTHER, "closed port")
    with lab.node("vm1").offload(OFF):
        found = ask(lab, "raw", port=81)
    assert found.verdict.reason == "closed port", "its answer is summed in software"
    assert ask(lab, "raw", port=81).verdict.finding is Finding.LOST, "here the SYN dies first"


def test_frames_merged_by_the_receiver_accuse_nobody(lab: Lab) -> None:
    with ExitStack() as stack:
        for node in lab.nodes:
            stack.enter_context(node.offload(OFF))
        assert ask(lab, "raw").verdict.finding is Finding.HEALTHY


def test_a_router_that_does_not_forward_is_named(lab: Lab) -> None:
    lab.router("r1").set_kind("namespace")
    off, on = (("sh", "-c", f"echo {n} >/proc/sys/net/ipv4/ip_forward") for n in (0, 1))
    with changed(lab, off, on, "r1"):
        found = ask(lab)
    assert found.verdict.finding is Finding.OTHER
    assert "nothing forwards in r1" in found.verdict.sentence


@pytest.mark.parametrize(
    ("node", "network", "via", "words"),
    [
        ("vm1", "10.0.2.0/24", "10.0.1.254", "vm1 has no route to 10.0.2.2"),
        ("vm2", "10.0.1.0/24", "10.0.2.254", "vm2 got what was sent, but has no route back"),
    ],
)
def test_a_missing_route_is_named(lab: Lab, node: str, network: str, via: str, words: str) -> None:
    guest = lab.node(node)
    guest.run(f"ip route del {network}")
    try:
        found = ask(lab)
    finally:
        guest.run(f"ip route add {network} via {via}")
    assert found.verdict.finding is Finding.OTHER
    assert words in found.verdict.sentence


def test_an_address_nobody_has_is_named(lab: Lab) -> None:
    assert ask(lab, to="10.0.1.77").verdict.reason == "no neighbour"
    assert "host unreachable" in ask(lab, to="10.0.2.77").verdict.sentence


MTU = """
import sys
from pyroute2 import IPRoute
with IPRoute() as ip:
    [index] = ip.link_lookup(ifname=sys.argv[1])
    ip.link("set", index=index, mtu=int(sys.argv[2]))
"""


def test_a_smaller_mtu_matters_only_where_nobody_tells_of_it(lab: Lab) -> None:
    words = (sys.executable, "-P", "-c", MTU)
    with changed(lab, [*words, "r1-eth1", "1400"], [*words, "r1-eth1", "1500"]):
        found = ask(lab)
    assert (found.verdict.finding, found.verdict.reason) == (Finding.OTHER, "MTU")
    assert "r1-eth1" in found.verdict.where
    with changed(lab, [*words, "eth1", "1300"], [*words, "eth1", "1500"], "r1"):
        found = ask(lab)
    assert found.verdict.finding is Finding.HEALTHY
    assert "1300" in found.verdict.sentence


NFTABLES = """
import sys
from pathlib import Path
from pyroute2 import NetlinkError
from pyroute2.nftables.main import NFTables
on = sys.argv[1] == "on"
knob = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
if not knob.exists():
    sys.exit("no br_netfilter")
knob.write_text("1" if on else "0")
with NFTables(nfgen_family=2) as nft:
    if on:
        nft.table("add", name="labctl")
        nft.chain("add", table="labctl", name="f", type="filter", hook="forward", policy=0)
    else:
        nft.table("del", name="labctl")
"""


def test_a_packet_filter_on_the_bridge_is_named(lab: Lab) -> None:
    words = (sys.executable, "-P", "-c", NFTABLES)
    done = lab.sandbox.agent().run([*words, "on"], Deadline(60, "nftables"), check=False)
    if not done.ok:
        pytest.skip(f"no packet filter on bridges here: {done.stderr.strip()[-80:]}")
    try:
        found = ask(lab)
    finally:
        inside(lab, *words, "off")
    assert "bridge-netfilter" in found.verdict.sentence, found.verdict
    assert found.verdict.where == "the bridge between vm1-eth0 and r1-eth0"


FLIPPING = """
import sys
from labctl.routers import raw
age = raw.forwarding.age
def flip(frame, packet):
    age(frame, packet)
    if len(frame) > 42 and frame[23] == 17:
        frame[-1] ^= 0xFF
raw.forwarding.age = flip
sys.exit(raw.main(sys.argv[1:]))
"""


def test_a_router_that_damages_payloads_is_told_from_one_that_loses_metadata(lab: Lab) -> None:
    router = lab.router("r1")
    router.set_kind("raw")
    router.stop()
    out = lab.directory / "flipping.out"
    words = [sys.executable, "-P", "-c", FLIPPING, "--netns", "r1", "--vnet", "--until-eof"]
    program = Process.start(
        lab.sandbox.agent(), [*words, "eth0", "eth1"], stdout=out, stderr=out.with_suffix(".err")
    )
    try:
        deadline = Deadline(60, "starting the router")
        while "ready" not in out.read_text():
            deadline.pause(0.02)
        flow, path = plan(lab, "vm1", "vm2", "udp", 4007, version=4)
        found = diagnose(lab, flow, path)
    finally:
        program.finish(Deadline(60, "ending the router"))
    assert found.verdict.finding is Finding.CORRUPTED, found.verdict
    assert found.verdict.where == "router r1 (eth0 to eth1)"
    packet_trace = found.verdict.packet_trace
    assert packet_trace is not None
    assert any(
        "its checksum does not show" in note for step in packet_trace.steps for note in step.notes
    )


class Stop(KeyboardInterrupt):
    """The user's Ctrl-C."""


def test_an_interrupted_proof_puts_everything_back(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.router("r1").set_kind("raw")
    before = state(lab)
    turned: list[list[str]] = []
    calls = iter(range(100))

    def interrupted(running: Lab, *_: object) -> tuple[bool, str]:
        if next(calls) == 0:
            return False, "hangs"
        turned.append(before.differing(state(running)))
        if len(turned) == 3:
            raise Stop
        return False, "hangs"

    monkeypatch.setattr(remedies, "attempt", interrupted)
    flow, path = plan(lab, "vm1", "vm2", "tcp", 22)
    found = ask(lab, "raw")
    with pytest.raises(Stop):
        remedies.prove(lab, flow, path, found.fixes)
    assert all(turned), "each knob was really turned"
    assert state(lab).differing(before) == []
    assert not mend(lab), "nothing is left to do"


def test_a_killed_proof_is_undone_by_the_next_diagnosis(lab: Lab) -> None:
    lab.router("r1").set_kind("raw")
    before = state(lab)
    killed = restoring(lab, before, path_of(lab))
    killed.__enter__()  # and never left, as when the process is killed
    assert not mend(lab), "its process runs: nobody else undoes it"
    with pytest.raises(UsageError, match="under way"):
        restoring(lab, before, path_of(lab)).__enter__()
    journal = (lab.directory / "knobs.json").read_bytes()
    with contextlib.suppress(Stop):
        killed.__exit__(Stop, Stop(), None)
    (lab.directory / "knobs.json").write_bytes(journal)
    lab.node("vm1").set_features(OFF)
    lab.router("r1").set_kind("namespace")
    assert before.differing(state(lab))
    found = ask(lab, "namespace", None, protocol="icmp")
    assert "put back" in found.notes[0]
    assert state(lab).differing(before) == []


def test_a_proof_tries_nothing_that_there_is_no_time_for(lab: Lab) -> None:
    lab.router("r1").set_kind("raw")
    found = ask(lab, "raw")
    flow, path = plan(lab, "vm1", "vm2", "tcp", 22)
    proof = remedies.prove(lab, flow, path, found.fixes, within=Deadline(0, "the diagnosis"))
    assert [(trial.works, trial.text) for trial in proof.trials] == [
        (None, remedies.OVER) for _ in found.fixes
    ]
    assert proof.before == remedies.OVER


def test_ctrl_c_waits_for_a_change_to_be_whole() -> None:
    done = []

    def change() -> None:
        with defer_signals():
            signal.raise_signal(signal.SIGINT)
            done.append("whole")

    with pytest.raises(KeyboardInterrupt):
        change()
    assert done == ["whole"]
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
