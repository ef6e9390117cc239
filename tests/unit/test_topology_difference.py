"""What turns a lab of one topology into one of another."""

from __future__ import annotations

import pytest

from labctl.errors import UsageError
from labctl.topology import Topology, loads
from labctl.topology.difference import Plan, plan

FILE = """\
name: lab
networks: {left: {mtu: 1400}, right: }
nodes:
  vm1: {interfaces: [{network: left, addresses: [10.0.1.1/24]}]}
  vm2: {interfaces: [{network: right, addresses: [10.0.2.1/24]}]}
routers:
  r1: {interfaces: [{network: left, addresses: [10.0.1.254/24]}, {network: right}]}
"""


def load(text: str = FILE) -> Topology:
    return loads(text, "t.yaml")


def planned(*replaced: tuple[str, str]) -> Plan:
    text = FILE
    for old, new in replaced:
        assert old in text
        text = text.replace(old, new)
    return plan(load(), load(text))


def test_the_same_topology_takes_nothing() -> None:
    assert not plan(load(), load())
    assert not list(plan(load(), load()).lines())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("vm1: {", "vm1: {labels: {a: b}, "),
        ("right: }", "right: {labels: {a: b}}}"),
        ("right: }", "right: {subnets: [10.0.2.0/24]}}"),
    ],
)
def test_what_is_only_told_takes_nothing(old: str, new: str) -> None:
    assert not planned((old, new))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("vm1: {", "vm1: {memory: 256M, ", Plan(nodes={"vm1": "memory"})),
        ("10.0.1.1/24", "10.0.1.2/24", Plan(nodes={"vm1": "interfaces"})),
        ("vm1: {", "vm1: {exec: [true], ".replace("true", "'true'"), Plan(nodes={"vm1": "exec"})),
        ("r1: {", "r1: {kind: raw, ", Plan(routers={"r1": "kind"})),
        (
            "mtu: 1400", "mtu: 1300",
            Plan(
                networks={"left": "mtu"}, nodes={"vm1": "interfaces"}, routers={"r1": "interfaces"}
            ),
        ),
        (
            "right: }", "right: {stp: true}}",
            Plan(
                networks={"right": "stp"},
                nodes={"vm2": "network right"},
                routers={"r1": "network right"},
            ),
        ),
        (
            "addresses: [10.0.2.1/24]", "addresses: [10.0.2.1/24], impairment: {delay: 1ms}",
            Plan(impaired=("vm2:eth0",)),
        ),
        (
            "routers:", "  vm3: {interfaces: [{network: left}]}\nrouters:",
            Plan(added={"nodes": ["vm3"]}),
        ),
    ],
)  # fmt: skip
def test_only_what_differs_is_touched(old: str, new: str, expected: Plan) -> None:
    assert planned((old, new)) == expected


def test_what_is_gone_is_removed_with_what_it_was_plugged_into() -> None:
    text = FILE.partition("routers:")[0].replace(", right: }", "}")
    text = "\n".join(line for line in text.splitlines() if "vm2" not in line)
    found = plan(load(), load(text))
    assert found == Plan(removed={"networks": ["right"], "nodes": ["vm2"], "routers": ["r1"]})
    assert list(found.lines()) == [
        "network right is removed", "node vm2 is removed", "router r1 is removed",
    ]  # fmt: skip
    assert found.gone("nodes") == ["vm2"]
    assert found.made("nodes") == []
    back = plan(load(text), load())
    assert back == Plan(added={"networks": ["right"], "nodes": ["vm2"], "routers": ["r1"]})


XEN = """\
name: lab
networks: {lan: }
nodes:
  x: {hypervisor: xen}
  vm1: {host: x, interfaces: [{network: lan}]}
"""


def test_xen_hosts_and_segments_are_not_changed_alone() -> None:
    with pytest.raises(UsageError, match="vm1 is a Xen host, or on one"):
        plan(load(XEN), load(XEN.replace("host: x,", "host: x, memory: 200M,")))
    wire = "networks: {left: {segments: {a: {}, w: {kind: veth}, b: {}}}, right: }"
    text = FILE.replace("networks: {left: {mtu: 1400}, right: }", wire)
    text = text.replace("network: left", "network: left, segment: a")
    with pytest.raises(UsageError, match="left has segments"):
        plan(load(), load(text))
