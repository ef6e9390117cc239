"""Plans of links with namespaces of their own: what is refused, and which hops there are."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import pytest

from labctl.kinds.base import Effect, LinkKind, LinkPlan, LinkProgram, NewLink, NoOptions, Redirect
from labctl.kinds.registry import registered
from labctl.network import planned
from labctl.topology import Topology, TopologyError, from_mapping
from labctl.topology.graph import find_path


class Planned(LinkKind[NoOptions]):
    name = "planned"
    summary = "what a test plans"
    effect = Effect.KEEPS
    joins = True
    made: ClassVar[LinkPlan]

    def plan(self, base: str, options: NoOptions) -> LinkPlan:  # noqa: ARG002
        assert base == "lan-w"
        return self.made


def topology(wire: dict[str, Any]) -> Topology:
    segments = {"near": {}, "w": wire, "far": {}}
    nodes = {
        f"vm{number}": {
            "interfaces": [
                {"network": "lan", "segment": segment, "addresses": [f"10.0.0.{number}/24"]}
            ]
        }
        for number, segment in ((1, "near"), (2, "far"))
    }
    return from_mapping({"networks": {"lan": {"segments": segments}}, "nodes": nodes})


def pair(**more: str) -> NewLink:
    return NewLink("lan-w-a", "veth", peer="lan-w-b", **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("links", "redirects", "wrong"),
    [
        ((pair(netns="other"),), (), "the namespace 'other' does not begin with lan-w"),
        ((pair(netns="lan-w-ns"),), (), "lan-w-a is in a namespace of its own"),
        (
            (
                pair(),
                NewLink("lan-w-m", "bridge", netns="lan-w-ns"),
                NewLink("lan-w-v", "vxlan", master="lan-w-m"),
            ),
            (),
            "lan-w-v and lan-w-m are in two namespaces",
        ),
        ((pair(address="192.0.2.1/24"),), (), "lan-w-a has an address, and no namespace"),
        ((pair(peer_address="192.0.2.1/24"),), (), "lan-w-b has an address, and no namespace"),
        (
            (pair(), NewLink("lan-w-v", "macvlan", lower="lan-w-x")),
            (),
            "'lan-w-x' is none of its links",
        ),
        ((pair(),), (Redirect("lan-w-a", "lan-w-x"),), "'lan-w-x' is none of its links"),
    ],
)
def test_a_plan_that_cannot_be_made_is_refused(
    links: tuple[NewLink, ...], redirects: tuple[Redirect, ...], wrong: str
) -> None:
    Planned.made = LinkPlan(links, ends=("lan-w-a", "lan-w-b"), redirects=redirects)
    with registered(Planned), pytest.raises(TopologyError, match=wrong):
        topology({"kind": "planned"})


def test_a_program_runs_where_its_plan_has_a_link() -> None:
    program = LinkProgram("lan-w-sw", "switch", netns="lan-w-other")
    Planned.made = LinkPlan((pair(),), ends=("lan-w-a", "lan-w-b"), programs=(program,))
    wrong = "lan-w-sw is to run in a namespace of which it has no link"
    with registered(Planned), pytest.raises(TopologyError, match=wrong):
        topology({"kind": "planned"})


def test_hops_in_a_namespace_of_a_plan_are_looked_at_there() -> None:
    made = topology({"kind": "vxlan"})
    hops = find_path(made, "vm1", "vm2").points
    assert {hop.name: hop.netns for hop in hops if hop.netns} == {
        "lan-w-ap": "lan-w-ans", "lan-w-au": "lan-w-ans",
        "lan-w-bu": "lan-w-bns", "lan-w-bp": "lan-w-bns",
    }  # fmt: skip
    assert planned.namespaces(made.networks.values()) == ["lan-w-ans", "lan-w-bns"]


def test_a_router_cannot_be_called_as_a_namespace_of_a_plan() -> None:
    segments = {"near": {}, "w": {"kind": "vxlan"}, "far": {}}
    with pytest.raises(TopologyError, match="has a namespace of the router's name lan-w-ans"):
        from_mapping(
            {
                "networks": {"lan": {"segments": segments}, "other": {}},
                "nodes": {"vm1": {"interfaces": [{"network": "lan", "segment": "near"}]}},
                "routers": {
                    "lan-w-ans": {
                        "interfaces": [
                            {"network": "lan", "segment": "far"}, {"network": "other"}
                        ]
                    }
                },
            }
        )  # fmt: skip


def test_plans_that_say_nothing_new_have_the_digests_of_before() -> None:
    made = topology({"kind": "veth"})
    assert made.digest() == topology({"kind": "veth", "options": {}}).digest()
    assert made.digest() != topology({"kind": "macvlan"}).digest()


@pytest.mark.parametrize("length", [1, 3, 9])
def test_a_row_of_veth_pairs_has_as_many_hops(length: int) -> None:
    made = topology({"kind": "veth", "options": {"length": length}})
    assert len(find_path(made, "vm1", "vm2").points) == 4 + 2 * length


def test_a_row_of_no_pairs_is_refused() -> None:
    with pytest.raises(TopologyError, match="length 0 is not 1 to 9"):
        topology({"kind": "veth", "options": {"length": 0}})


NODE = {"interfaces": [{"network": "lan"}]}
ROUTER = {
    "interfaces": [
        {"network": "lan", "addresses": ["10.0.1.254/24"]},
        {"network": "other", "addresses": ["10.0.2.254/24"]},
    ]
}


@pytest.mark.parametrize(
    ("things", "wrong"),
    [
        ({"nodes": {"vm1": NODE}}, "joins two machines or wires, and lan has 1"),
        ({"nodes": dict.fromkeys(("a", "b", "c"), NODE)}, "and lan has 3"),
        ({"nodes": {"vm1": NODE}, "routers": {"r1": ROUTER}}, "and no router or namespace"),
        ({"nodes": {"a": NODE, "b": {**NODE, "kind": "namespace"}}}, "and no router or namespace"),
        ({"nodes": {"a": NODE, "b": NODE}}, ""),
    ],
)
def test_a_patch_joins_two_machines_or_wires(things: dict[str, Any], wrong: str) -> None:
    written = {"networks": {"lan": {"kind": "tc-patch"}, "other": {}}, **things}
    if not wrong:
        (segment,) = from_mapping(written).networks["lan"].segments
        assert segment.plan.patch == "mirred"
        return
    with pytest.raises(TopologyError, match=wrong):
        from_mapping(written)


def test_what_plans_could_not_say_then_leaves_digests_as_they_were() -> None:
    made = topology({"kind": "packet-wire"})
    (_, wire, _) = made.networks["lan"].segments
    content = dataclasses.asdict(wire.plan)
    assert content["patch"] == content["programs"][0]["netns"] == ""
    assert made.digest() == "ac6b4fb7b2ee57f2c195f4bdcf79eb3bf3d9114c0f284b50b7448eac51553597"
