"""Guest kinds: what a node is follows from its keys or is written, and all else is asked of it."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from labctl.backends.embedded import Embedded
from labctl.backends.state import State
from labctl.cli.main import cli
from labctl.errors import HostError, UsageError
from labctl.experiments.explained.model import Way
from labctl.experiments.explained.route import route
from labctl.guests.keys import Key
from labctl.kinds import guests, registry
from labctl.kinds.guests.base import TAP, VETH, VIF, GuestKind
from labctl.kinds.guests.micro import Micro
from labctl.kinds.guests.xen_host import XenHost
from labctl.lab import machines, preflight
from labctl.lab.guest_state import Condition
from labctl.sandbox.host import Host
from labctl.topology import (
    TopologyError,
    from_mapping,
    json_schema,
    load_cache,
    loads,
    serialize,
)
from labctl.topology.model import Node, Topology
from outside import ROOT
from own_kinds import Labelled

PACKAGE = ROOT / "labctl"
LAN = "networks: {lan: {}}\n"
HOST = LAN + "nodes:\n  xen1: {hypervisor: xen}\n"


@pytest.fixture
def labelled() -> Iterator[None]:
    with registry.registered(Labelled):
        yield


def problem(text: str) -> str:
    with pytest.raises(TopologyError) as found:
        loads(text, "t.yaml")
    return str(found.value)


# --- which kind a node is of ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "kind"),
    [
        ("{}", "micro"),
        ("{hypervisor: xen}", "xen-host"),
        ("{host: xen1}", "xen-pv"),
        ("{kind: micro}", "micro"),
        ("{kind: xen-host}", "xen-host"),
        ("{kind: xen-host, hypervisor: xen}", "xen-host"),
        ("{kind: xen-pv, host: xen1}", "xen-pv"),
        ("{kind: null}", "micro"),
    ],
)
def test_a_kind_follows_from_a_nodes_keys_or_is_written(keys: str, kind: str) -> None:
    node = loads(f"{HOST}  vm1: {keys}\n", "t.yaml").nodes["vm1"]
    assert node.guest_kind.name == kind
    assert node.kind == "", "what follows is not kept"
    assert node.hypervisor == node.guest_kind.hypervisor


def test_a_topology_that_writes_what_follows_is_the_same() -> None:
    plain = loads(f"{HOST}  vm1: {{host: xen1}}\n", "t.yaml")
    written = "nodes:\n  xen1: {kind: xen-host}\n  vm1: {kind: xen-pv, host: xen1}\n"
    assert loads(LAN + written, "t.yaml") == plain


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ("{kind: mikro}", "t.yaml:4:15: there is no kind 'mikro' (did you mean micro?)"),
        (
            "{kind: micro, hypervisor: xen}",
            "t.yaml:4:15: vm1 is of the kind micro, which has no hypervisor"
            " (leave out kind, or hypervisor)",
        ),
        (
            "{kind: xen-pv, interfaces: [{network: lan}]}",
            "t.yaml:4:15: vm1 is of the kind xen-pv, which lives on a Xen host (add host: xen1)",
        ),
        (
            "{kind: micro, host: xen1, interfaces: [{network: lan}]}",
            "t.yaml:4:15: vm1 is of the kind micro, which lives on no other node"
            " (leave out kind, or host)",
        ),
        (
            "{kind: xen-host, host: xen1}",
            "t.yaml:4:25: vm1 is a Xen host: it cannot live on another"
            " (leave out host, or hypervisor)",
        ),
        (
            "{kind: namespace, memory: 256}",
            "t.yaml:4:26: vm1 is of the kind namespace, which is no machine: it has no memory"
            " (leave memory out)",
        ),
        (
            "{kind: namespace, interfaces: [{network: lan, model: e1000}]}",
            "t.yaml:4:61: vm1's eth0 cannot be e1000: vm1 is of the kind namespace"
            " (write model: veth)",
        ),
        (
            "{interfaces: [{network: lan, model: veth}]}",
            "t.yaml:4:44: vm1's eth0 cannot be veth: that is an interface of a namespace, and vm1"
            " is a machine (write model: virtio)",
        ),
        (
            "{role: router, interfaces: [{network: lan}]}",
            "t.yaml:4:9: vm1 has the role router, and fewer than two interfaces"
            " (a router needs at least two)",
        ),
        (
            "{kind: namespace, host: xen1}",
            "t.yaml:4:15: vm1 is of the kind namespace, which lives on no other node"
            " (leave out kind, or host)",
        ),
    ],
)
def test_a_kind_that_does_not_fit_is_told_with_a_way_out(keys: str, told: str) -> None:
    assert problem(f"{HOST}  vm1: {keys}\n") == told


@pytest.mark.usefixtures("labelled")
def test_a_record_says_a_kind_only_where_it_does_not_follow() -> None:
    text = f"{HOST}  vm1: {{kind: labelled}}\n  vm2: {{}}\n"
    made = loads(text, "t.yaml")
    data = serialize.to_json(made)
    assert data["nodes"]["vm1"]["kind"] == "labelled"
    assert "kind" not in data["nodes"]["vm2"]
    assert serialize.from_json(data) == made
    assert made.digest() != loads(text.replace("kind: labelled", ""), "t.yaml").digest()


# --- what the shipped ones say --------------------------------------------------------------------


@pytest.mark.parametrize("kind", registry.GUESTS.usable(), ids=lambda kind: kind.name)
def test_a_shipped_one_says_all_that_is_asked_of_it(kind: GuestKind) -> None:
    assert kind.what == "guest"
    assert kind.explanation.endswith(".\n")
    assert not kind.summary.endswith(".")
    assert kind.takes(registry.nic(kind.nic))
    assert kind.takes(registry.nic(kind.mgmt_nic))
    assert kind.memory >= max(kind.least_memory, sum(kind.shares.values()))
    usual = kind.name if kind.is_machine else guests.DEFAULT
    image = None if kind.boots_disk else kind.image
    assert guests.derived(kind.hypervisor, "x" if kind.home else "", image) == usual
    assert guests.derived(kind.hypervisor, "x" if kind.home else "", kind.image) == usual


@pytest.mark.parametrize("kind", registry.GUESTS.usable(), ids=lambda kind: kind.name)
def test_what_a_shipped_one_names_is_there(kind: GuestKind) -> None:
    for place in (kind.built_by, kind.started_by, kind.handled_by):
        module, _, name = place.partition(":")
        assert callable(getattr(importlib.import_module(module), name))


def test_their_ends_are_taps_and_vifs() -> None:
    ends = {kind.name: kind.outer for kind in registry.GUESTS.usable()}
    assert ends == {"micro": TAP, "disk": TAP, "xen-pv": VIF, "xen-host": TAP, "namespace": VETH}
    assert (TAP.told, VIF.told) == ("TAP", "vif, netback")


def test_a_xen_host_takes_no_memory_that_nobody_uses() -> None:
    assert Micro().touched(128, 0) == 128
    assert XenHost().touched(2048, 256) == 896
    assert XenHost().touched(700, 256) == 700


def test_they_are_explained_and_the_schema_has_them() -> None:
    run = CliRunner()
    for name in guests.SHIPPED:
        for verb in ("kinds", "explain"):
            told = run.invoke(cli, [verb, name]).stdout
            assert f"{name} (guest): {registry.guest(name).summary}" in told
    assert json_schema()["$defs"]["Node"]["properties"]["kind"]["enum"] == [*guests.SHIPPED, None]


def test_the_table_of_the_docs_says_what_the_kinds_say() -> None:
    page = (ROOT / "docs" / "topology.md").read_text()
    for name in guests.SHIPPED:
        assert f"| `{name}` | {registry.guest(name).summary} |" in page


# --- those of others ------------------------------------------------------------------------------


@pytest.mark.usefixtures("labelled")
def test_one_of_another_package_has_its_own_defaults_and_bounds() -> None:
    node = loads(f"{LAN}nodes: {{vm1: {{kind: labelled}}}}\n", "t.yaml").nodes["vm1"]
    assert (node.kind, node.memory, node.image) == ("labelled", 144, "micro")
    assert problem(f"{LAN}nodes: {{vm1: {{kind: labelled, memory: 130}}}}\n") == (
        "t.yaml:2:39: memory 130 is too little for vm1, which is of the kind labelled"
        " (write memory: 136 or more)"
    )
    assert json_schema()["$defs"]["Node"]["properties"]["kind"]["enum"] == [
        *guests.SHIPPED, "labelled", None,
    ]  # fmt: skip


def test_one_that_takes_few_nics_refuses_the_others() -> None:
    class Old(Micro):
        name = "old"
        summary = "a guest with an old NIC"
        nic = "rtl8139"

        def takes(self, nic: object) -> bool:
            return nic is registry.nic("rtl8139")

    with registry.registered(Old):
        text = f"{LAN}nodes:\n  vm1: {{kind: old, interfaces: [{{network: lan}}]}}\n"
        assert loads(text, "t.yaml").nodes["vm1"].interfaces[0].model == "rtl8139"
        assert problem(text.replace("network: lan}]", "network: lan, model: virtio}]")) == (
            "t.yaml:3:55: vm1's eth0 cannot be virtio: vm1 is of the kind old"
            " (write model: rtl8139)"
        )


@pytest.mark.usefixtures("labelled")
def test_an_explanation_calls_it_as_it_calls_itself() -> None:
    text = (
        f"{LAN}nodes:\n  vm1: {{kind: labelled, interfaces: [{{network: lan}}]}}\n"
        "  vm2: {interfaces: [{network: lan}]}\n"
    )
    parts = route(loads(text, "t.yaml"), Way())
    assert parts[0].title == "vm1: labelled guest, virtio"


def test_without_its_package_it_can_be_told_of_but_not_started() -> None:
    with registry.registered(Labelled):
        topology = loads(f"{LAN}nodes: {{vm1: {{kind: labelled}}}}\n", "t.yaml")
    node = topology.nodes["vm1"]
    assert node.guest_kind is registry.guest("micro")
    with pytest.raises(UsageError, match="there is no guest kind 'labelled'"):
        machines.kind_of(node)
    with pytest.raises(UsageError, match="there is no guest kind 'labelled'"):
        preflight.check_kinds(topology)


@pytest.mark.usefixtures("labelled")
def test_what_was_read_before_is_read_again_for_its_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "mine.yaml"
    file.write_text(f"{LAN}nodes: {{vm1: {{kind: labelled}}}}\n")
    assert load_cache.load(file).nodes["vm1"].memory == 144
    monkeypatch.setattr(Labelled, "memory", 152)
    assert load_cache.load(file).nodes["vm1"].memory == 152


def test_one_whose_builder_is_not_there_is_refused_by_name() -> None:
    class Lost(Micro):
        name = "lost"
        summary = "a guest that nothing makes"
        built_by = "labctl.no_such_module:build"

    with registry.registered(Lost):
        topology = from_mapping({"nodes": {"vm1": {"kind": "lost"}}})
        with pytest.raises(UsageError, match="the guest kind 'lost' is built_by"):
            machines.build(making(topology, Path("/nowhere")), topology.nodes["vm1"])


def test_nodes_of_one_way_to_start_start_together() -> None:
    started: list[tuple[str, list[str], str]] = []

    class One(machines.Starter):
        def start(self, built: object, host: str) -> Collection[str]:
            assert isinstance(built, list)
            started.append((type(self).__name__, built, host))
            return ["second"]

    class Other(One):
        pass

    class First(Micro):
        name = "first"
        summary = "one"
        started_by = f"{__name__}:ONE"

    class Second(First):
        name = "second"

    class Third(First):
        name = "third"
        started_by = f"{__name__}:OTHER"

    globals().update(ONE=One, OTHER=Other)
    with registry.registered(First, Second, Third):
        kinds = ("first", "second", "third")
        topology = from_mapping({"nodes": {kind: {"kind": kind} for kind in kinds}})
        nodes = [(node, node.name) for node in topology.nodes.values()]
        starts = machines.start(making(topology, Path("/nowhere")), nodes, "there")
    assert started == [("One", ["first", "second"], "there"), ("Other", ["third"], "there")]
    assert starts == {"first": "booted", "second": "cloned", "third": "booted"}


def test_how_a_node_is_is_asked_of_what_starts_it(tmp_path: Path) -> None:
    class Well(machines.Starter):
        def start(self, built: object, host: str) -> Collection[str]:  # noqa: ARG002
            return ()

        def condition(self, node: Node) -> Condition:
            return Condition(f"{node.name} is well")

    class Own(Micro):
        name = "own"
        summary = "a guest that is no QEMU's"
        started_by = f"{__name__}:WELL"

    globals().update(WELL=Well)
    with registry.registered(Own):
        topology = from_mapping({"nodes": {"vm1": {"kind": "own"}, "vm2": {}}})
        here = making(topology, tmp_path)
        states = [
            machines.condition_of(here.sandbox, here.known, one).state for one in topology.nodes
        ]
    assert states == ["vm1 is well", "ended"]


def making(topology: Topology, directory: Path) -> machines.Making:
    known = State(
        name="lab", topology=topology, accel="tcg", images={}, client=Key.make(), hostkeys={},
        uri="", started="", complete=True,
    )  # fmt: skip
    return machines.Making(Host(directory), known, lambda _event: None)


# --- what can run them ----------------------------------------------------------------------------


class Heavy(Micro):
    name = "heavy"
    summary = "a guest that is too slow without KVM"
    accels = ("kvm",)


class Nesting(Heavy):
    name = "nesting"
    nests = True


def test_a_kind_that_the_accelerator_cannot_run_is_refused() -> None:
    with registry.registered(Heavy):
        topology = from_mapping({"nodes": {"vm1": {"kind": "heavy"}, "vm2": {}}})
        preflight.check_accel(topology, Embedded(""), "kvm")
        with pytest.raises(HostError, match="vm1 is of the kind heavy, which runs by kvm, not by"):
            preflight.check_accel(topology, Embedded(""), "tcg")


@pytest.mark.parametrize(("told", "can"), [("Y\n", True), ("1\n", True), ("N\n", False)])
def test_a_kind_that_nests_takes_a_kvm_that_does(
    told: str, can: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "MODULES", tmp_path)
    assert not preflight.kvm_nests()
    parameter = tmp_path / "kvm_amd/parameters/nested"
    parameter.parent.mkdir(parents=True)
    parameter.write_text(told)
    assert preflight.kvm_nests() is can
    with registry.registered(Nesting):
        topology = from_mapping({"nodes": {"vm1": {"kind": "nesting"}}})
        if can:
            preflight.check_accel(topology, Embedded(""), "kvm")
            return
        with pytest.raises(HostError, match="needs a KVM that nests"):
            preflight.check_accel(topology, Embedded(""), "kvm")


# --- nobody else tells kinds apart ----------------------------------------------------------------

READERS = {"topology/hosting.py", "topology/model.py", "topology/resolve.py"}
"""Those who read a topology, and so a node's key `hypervisor`."""
OTHER_HYPERVISORS = {
    "backends/shared_host.py", "backends/system_libvirt.py", "backends/embedded.py",
    "guests/driver.py", "guests/xen.py", "guests/boot_probe.py", "lab/doctor.py", "lab/lab.py",
    "lab/machines.py", "lab/qemu.py", "lab/disk_guests.py", "lab/templates.py", "lab/power.py",
    "lab/saving.py", "images/assemble.py",
    "images/cache.py", "images/recipe.py", "lab/xen_guests.py", "kinds/guests/base.py",
}  # fmt: skip
"""Those who mean the libvirt that drives guests, an image's file, or what a kind says."""


def test_nothing_else_asks_a_node_for_its_hypervisor() -> None:
    found = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        for part in ast.walk(ast.parse(path.read_text()))
        if isinstance(part, ast.Attribute) and part.attr == "hypervisor"
    }
    assert found - OTHER_HYPERVISORS == READERS


def test_nothing_else_compares_the_name_of_a_kind() -> None:
    words = {*guests.SHIPPED, "xen"}
    for path in sorted(PACKAGE.rglob("*.py")):
        if PACKAGE / "kinds" in path.parents:
            continue
        for part in ast.walk(ast.parse(path.read_text())):
            if isinstance(part, ast.Compare):
                sides = [part.left, *part.comparators]
                said = {one.value for one in sides if isinstance(one, ast.Constant)}
                assert not said & words, f"{path.relative_to(PACKAGE)}:{part.lineno}"
