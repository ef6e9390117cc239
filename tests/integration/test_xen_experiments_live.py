"""The Xen experiments, each on a real Xen host with real netfronts and netbacks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from live import Place, Watch, place

from labctl.topology import find

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def here(pytestconfig: pytest.Config) -> Iterator[Place]:
    with place(pytestconfig.getoption("--accel")) as where:
        yield where


@pytest.fixture
def watch(here: Place) -> Iterator[Watch]:
    with Watch(here) as watching:
        yield watching


def _passes(here: Place, watch: Watch, name: str, arms: set[str]) -> dict[str, Any]:
    (run,) = here.ok("experiment", name, "--json").json()
    watch.nothing_left()
    path = Path(run["path"])
    record: dict[str, Any] = json.loads((path / "result.json").read_text())
    assert record["verdict"] == "pass"
    assert record["partial"] is False
    assert record["notes"] == []
    assert {arm["name"] for arm in record["arms"]} == arms
    assert len(list((path / "captures").glob("*.pcapng"))) == len(arms)
    return record


def _fits_a_page(record: dict[str, Any]) -> bool:
    return max(map(len, record["story"].splitlines())) <= 100


def _observed(record: dict[str, Any], arm: str) -> dict[str, str]:
    """Return what an arm's checks observed, by their names."""
    (found,) = [one for one in record["arms"] if one["name"] == arm]
    return {check["name"]: check["observed"] for check in found["checks"]}


def test_xen_bridged_shows_sums_and_flags_packet_by_packet(here: Place, watch: Watch) -> None:
    record = _passes(here, watch, "xen-bridged", {"ipv4", "ipv6", "control/tc-csum"})
    assert _fits_a_page(record)
    both = "csum_blank and data_validated (flags 0x3)"
    for arm, flags in (("ipv4", both), ("ipv6", both), ("control/tc-csum", "no flag (flags 0x0)")):
        observed = _observed(record, arm)
        for packet, sender, receiver in (
            ("SYN vm1 to vm2", "vm1", "vm2"),
            ("SYN-ACK vm2 to vm1", "vm2", "vm1"),
            ("UDP vm1 to vm2", "vm1", "vm2"),
        ):
            out, into = f"out of {sender}-eth0's ring: ", f"into {receiver}-eth0's ring: "
            assert observed[f"flags of the {packet}"] == f"{out}{flags}; {into}{flags}"
    rows = [line for line in record["story"].splitlines() if line.startswith("  SYN ")]
    covers = ["blank validated" in row and "pseudo-header" in row for row in rows]
    assert covers == [True, True, False]


def test_xen_router_hop_names_the_copying_router(here: Place, watch: Watch) -> None:
    kinds = ("namespace", "raw", "raw-vnet", "raw tc-csum")
    arms = {f"{kind}/{ip}" for kind in kinds for ip in ("ipv4", "ipv6")}
    record = _passes(here, watch, "xen-router-hop", arms)
    for arm in arms:
        ssh = _observed(record, arm)["ssh"]
        assert ssh.startswith("hangs" if arm.startswith("raw/") else "works")
    assert _observed(record, "raw/ipv4")["metadata lost, SYN"] == "router r1 (eth0 to eth1)"


@pytest.mark.slow
def test_a_proof_offers_xen_guests_the_csum_action_and_takes_it_away(
    here: Place, watch: Watch
) -> None:
    text = find("xen-router-hop.yaml").read_text()
    assert "kind: namespace" in text
    here.ok("up", str(here.write("raw.yaml", text.replace("kind: namespace", "kind: raw"))))
    told = here.run("diagnose", "vm1", "vm2", "--tcp", "22", "--prove", "--json")
    assert told.status == 1, told.stderr
    found = told.json()
    assert (found["finding"], found["where"]) == ("metadata lost", "router r1 (eth0 to eth1)")
    came = {trial["knob"]: trial["works"] for trial in found["proof"]["trials"]}
    assert came["csum action in vm1 and vm2"] is True
    assert came["csum action in vm1"] is False
    assert not any(name.startswith("tx off in vm") for name in came)
    for guest in ("vm1", "vm2"):
        assert "clsact" not in here.ok("exec", guest, "--", "tc", "qdisc").stdout
        features = here.ok("exec", guest, "--", "ethtool", "-k", "eth0").stdout
        assert "tcp-segmentation-offload: on" in features
    here.ok("down")
    watch.nothing_left()


@pytest.mark.slow
def test_xen_offload_tells_which_switches_do_anything(here: Place, watch: Watch) -> None:
    settings = ("defaults", "guest tx off", "guest tc csum")
    arms = {f"{name}/{ip}" for name in settings for ip in ("ipv4", "ipv6")}
    alone = ("vif tx off", "uplink virtio", "uplink e1000", "gso on", "gso off", "gso unmarked")
    record = _passes(here, watch, "xen-offload", arms | {f"{name}/ipv4" for name in alone})
    assert _fits_a_page(record)
    asked = _observed(record, "guest tx off/ipv4")
    assert asked["vm1: ethtool -K eth0 tx off"] == "tx-checksum-ipv4: on [requested off]"
    rows = [line.split() for line in record["story"].splitlines()]
    states = {" ".join(row[:-5]): row[-5:] for row in rows if row[-1:] == ["works"]}
    assert states["guest tx off, IPv4"] == ["partial"] * 4 + ["works"]
    assert states["guest tx off, IPv6"] == ["valid"] * 4 + ["works"]
    assert states["vm2's vif tx off, IPv4"] == ["partial"] * 2 + ["valid"] * 2 + ["works"]
    readings = _observed(record, "gso unmarked/ipv4")["rx_gso_checksum_fixup"]
    assert readings == "vm1:eth0: 0, vm1-eth0: 0, vm2:eth0: 0, vm2-eth0: 0"


@pytest.mark.slow
def test_xen_to_virtio_names_the_copying_router_in_both_directions(
    here: Place, watch: Watch
) -> None:
    kinds = ("namespace", "raw", "raw-vnet")
    arms = {f"{kind}/{ip}" for kind in ("direct", *kinds) for ip in ("ipv4", "ipv6")}
    arms |= {f"{kind} back/ipv4" for kind in kinds} | {"raw finished/ipv4"}
    record = _passes(here, watch, "xen-to-virtio", arms)
    assert _fits_a_page(record)
    for arm in arms:
        ssh = _observed(record, arm)["ssh"]
        assert ssh.startswith("hangs" if arm.startswith(("raw/", "raw back/")) else "works")
    there, back = (_observed(record, f"raw{way}/ipv4") for way in ("", " back"))
    assert there["metadata lost, SYN"] == "router r1 (eth0 to eth1)"
    assert back["metadata lost, SYN"] == "router r1 (eth1 to eth0)"
