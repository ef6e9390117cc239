"""The Xen experiments about offloads and about the way to QEMU guests, on a real Xen host."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from live import Place, Watch, place

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
    assert max(map(len, record["story"].splitlines())) <= 100
    return record


def _observed(record: dict[str, Any], arm: str) -> dict[str, str]:
    """Return what an arm's checks observed, by their names."""
    (found,) = [one for one in record["arms"] if one["name"] == arm]
    return {check["name"]: check["observed"] for check in found["checks"]}


def test_xen_offload_tells_which_switches_do_anything(here: Place, watch: Watch) -> None:
    settings = ("defaults", "guest tx off", "guest tc csum")
    arms = {f"{name}/{ip}" for name in settings for ip in ("ipv4", "ipv6")}
    alone = ("vif tx off", "uplink virtio", "uplink e1000", "gso on", "gso off", "gso unmarked")
    record = _passes(here, watch, "xen-offload", arms | {f"{name}/ipv4" for name in alone})
    asked = _observed(record, "guest tx off/ipv4")
    assert asked["vm1: ethtool -K eth0 tx off"] == "tx-checksum-ipv4: on [requested off]"
    rows = [line.split() for line in record["story"].splitlines()]
    states = {" ".join(row[:-5]): row[-5:] for row in rows if row[-1:] == ["works"]}
    assert states["guest tx off, IPv4"] == ["partial"] * 4 + ["works"]
    assert states["guest tx off, IPv6"] == ["valid"] * 4 + ["works"]
    assert states["vm2's vif tx off, IPv4"] == ["partial"] * 2 + ["valid"] * 2 + ["works"]
    readings = _observed(record, "gso unmarked/ipv4")["rx_gso_checksum_fixup"]
    assert readings == "vm1:eth0: 0, vm1-eth0: 0, vm2:eth0: 0, vm2-eth0: 0"


def test_xen_to_virtio_names_the_copying_router_in_both_directions(
    here: Place, watch: Watch
) -> None:
    kinds = ("namespace", "raw", "raw-vnet")
    arms = {f"{kind}/{ip}" for kind in ("direct", *kinds) for ip in ("ipv4", "ipv6")}
    arms |= {f"{kind} back/ipv4" for kind in kinds} | {"raw finished/ipv4"}
    record = _passes(here, watch, "xen-to-virtio", arms)
    for arm in arms:
        ssh = _observed(record, arm)["ssh"]
        assert ssh.startswith("hangs" if arm.startswith(("raw/", "raw back/")) else "works")
    there, back = (_observed(record, f"raw{way}/ipv4") for way in ("", " back"))
    assert there["metadata lost, SYN"] == "router r1 (eth0 to eth1)"
    assert back["metadata lost, SYN"] == "router r1 (eth1 to eth0)"
