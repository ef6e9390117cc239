"""Kinds of forwarders: found by entry points, refused by name, and used by all that needs them."""

from __future__ import annotations

import importlib.metadata
import json
import re
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from test_diagnosis_verdict import FACTS, stopped_at
from tracing_frames import PATH

from labctl.cli.main import cli
from labctl.diagnosis.facts import Facts
from labctl.diagnosis.remedies import candidates
from labctl.diagnosis.verdict import Finding, Verdict, conclude
from labctl.errors import HostError, UsageError
from labctl.kinds import nics, registry
from labctl.kinds.base import Context, Effect, KernelPart, Look, Option
from labctl.kinds.forwarders import DEFAULT, SHIPPED
from labctl.lab import kernel_parts
from labctl.lab.preflight import check_kinds, lacking
from labctl.routers.raw import COUNTERS
from labctl.sandbox import process
from labctl.topology import TopologyError, json_schema, load_cache, loads
from labctl.topology.graph import observed
from labctl.topology.model import Topology
from outside import ROOT, install, install_example

EXAMPLE = "walled"
TEXT = """\
networks: {left: {}, right: {}}
nodes: {vm1: {}}
routers:
  r1:
    kind: KIND
    interfaces: [{network: left}, {network: right}]
"""
LOSING = """
from labctl.kinds.base import Effect, ForwarderKind, Remedy, Tool

class Losing(ForwarderKind):
    name = "losing"
    summary = "a stranger's program"
    effect = Effect.LOSES
    counters = {"gone": "it was thrown away"}
    remedies = (Remedy("namespace", "nothing"), Remedy("not-there", "all"))
    requires = (Tool("no-such-program", "no-such-package"),)
    def start(self, router): router.set_kernel_forwarding(True)
    def count(self, router): return {}
"""


def topology(kind: str) -> Topology:
    return loads(TEXT.replace("KIND", kind), "mine.yaml")


def problem(kind: str) -> str:
    with pytest.raises(TopologyError) as found:
        topology(kind)
    return str(found.value)


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of the search path, for packages that a test installs."""
    folder = tmp_path / "packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    registry.forget()
    yield folder
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(folder)):
            del sys.modules[name]
    registry.forget()


# --- those of labctl ----------------------------------------------------------------------------


@pytest.mark.parametrize("group", registry.GROUPS, ids=lambda group: group.entry_points)
def test_the_shipped_ones_are_declared_as_entry_points_too(group: registry.Group[Any]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"][group.entry_points] == group.shipped
    installed = importlib.metadata.distribution("labctl").entry_points
    found = {one.name: one.value for one in installed if one.group == group.entry_points}
    assert found == group.shipped, "run: make install"


def test_the_shipped_ones_are_found_without_a_look_at_what_is_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry.forget()
    monkeypatch.delattr(importlib.metadata, "entry_points")
    for name in SHIPPED:
        if registry.forwarder(name).only_in_guests:
            assert "is for guests, and r1 is a namespace" in problem(name)
            continue
        assert topology(name).routers["r1"].kind == registry.forwarder(name).name == name


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_one_says_all_that_is_asked_of_it(name: str) -> None:
    kind = registry.forwarder(name)
    assert kind.what == "forwarder"
    assert kind.explanation.endswith(".\n")
    assert not kind.summary.endswith(".")
    assert {remedy.kind for remedy in kind.remedies} <= SHIPPED.keys() - {name}
    helps = {Effect.KEEPS, Effect.COMPLETES}
    assert {registry.forwarder(one.kind).effect for one in kind.remedies} <= helps


def test_a_loss_is_what_has_remedies() -> None:
    losing = [kind for kind in registry.FORWARDERS.usable() if kind.effect is Effect.LOSES]
    assert losing
    assert all(kind.remedies for kind in losing)


@pytest.mark.parametrize("name", ["raw", "raw-vnet"])
def test_the_counters_are_those_of_the_program(name: str) -> None:
    assert registry.forwarder(name).counters.keys() <= set(COUNTERS)


def test_the_table_of_the_docs_says_what_the_kinds_say() -> None:
    page = (ROOT / "docs" / "topology.md").read_text()
    for name in SHIPPED:
        kind = registry.forwarder(name)
        default = " (default)" if name == DEFAULT else ""
        assert f"| `{name}`{default} | {kind.summary} | {kind.effect.value} |\n" in page


# --- those of others ----------------------------------------------------------------------------


def test_one_of_another_package_can_be_named(packages: Path) -> None:
    assert f"there is no kind '{EXAMPLE}'" in problem(EXAMPLE)
    install_example(packages)
    registry.forget()
    made = topology(EXAMPLE)
    assert made.routers["r1"].kind == EXAMPLE
    assert topology(DEFAULT).with_router_kind("r1", EXAMPLE) == made
    kind = json_schema()["$defs"]["Router"]["properties"]["kind"]
    assert kind["enum"] == [*SHIPPED, EXAMPLE]
    assert (
        kind["description"]
        .replace("\n", " ")
        .endswith(f"{EXAMPLE}: {registry.forwarder(EXAMPLE).summary}.")
    )


def test_a_word_that_is_none_is_told_with_the_nearest_of_all(packages: Path) -> None:
    install_example(packages)
    registry.forget()
    assert problem("waled") == ("mine.yaml:5:11: there is no kind 'waled' (did you mean walled?)")
    assert problem("rav").endswith("there is no kind 'rav' (did you mean raw?)")
    with pytest.raises(UsageError, match="no router kind 'waled'"):
        registry.forwarder("waled")
    assert registry.FORWARDERS.find("waled") is None


def test_two_packages_of_one_name_are_told_and_others_work(packages: Path) -> None:
    install_example(packages)
    install(packages, "twin", {EXAMPLE: "twin:Twin"}, {"twin": ""})
    install(packages, "third", {"losing": "third:Losing"}, {"third": LOSING})
    registry.forget()
    assert problem(EXAMPLE) == (
        "mine.yaml:5:11: the router kind 'walled' is declared twice: by twin 1.0 and by walled 1.0 "
        "(repair or remove what declares it)"
    )
    assert topology("losing").routers["r1"].kind == "losing"
    assert registry.FORWARDERS.names() == (*SHIPPED, "losing")


def test_a_name_of_labctls_own_stays_its_own(packages: Path) -> None:
    install(packages, "thief", {"raw": "thief:Thief"}, {"thief": ""})
    registry.forget()
    assert type(registry.forwarder("raw")).__module__ == "labctl.kinds.forwarders.raw"
    assert topology("raw").routers["r1"].kind == "raw"
    refused = [entry for entry in registry.FORWARDERS.entries() if entry.problem]
    assert [(entry.name, entry.distribution) for entry in refused] == [("raw", "thief 1.0")]
    assert "by labctl and by thief 1.0" in refused[0].problem


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("import not_there_at_all", "cannot be imported: ModuleNotFoundError: No module named"),
        ("raise OSError('this and\\nthat')", "cannot be imported: OSError: this and (repair"),
        ("class Losing: pass", "is no subclass of ForwarderKind"),
        ("Losing = 3", "is no subclass of ForwarderKind"),
        ("", "cannot be imported: AttributeError"),
        (LOSING.replace('name = "losing"', 'name = "other"'), "calls itself 'other'"),
        (LOSING.replace("    effect", "    effects"), "lacks effect"),
        (f"{LOSING}    def __init__(self): 1 / 0", "cannot be imported: ZeroDivisionError"),
        (
            LOSING.replace("def count", "def counts"),
            "lacks count",
        ),
    ],
)
def test_one_that_is_of_no_use_is_refused_by_name(packages: Path, text: str, told: str) -> None:
    install(packages, "broken", {"losing": "broken_losing:Losing"}, {"broken_losing": text})
    install_example(packages)
    registry.forget()
    found = problem("losing")
    assert found.startswith("mine.yaml:5:11: the router kind 'losing' of broken 1.0 ")
    assert told in found
    assert "\n" not in found
    assert registry.FORWARDERS.names() == (*SHIPPED, EXAMPLE)
    listed = CliRunner().invoke(cli, ["kinds", "--json"])
    problems = {one["name"]: one["problem"] for one in json.loads(listed.stdout)}
    assert problems.pop("losing").startswith("the router kind 'losing' of broken 1.0")
    assert set(problems.values()) == {""}


def test_what_was_read_before_is_no_good_without_its_kind(
    packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    install_example(packages)
    registry.forget()
    file = tmp_path / "mine.yaml"
    file.write_text(TEXT.replace("KIND", EXAMPLE))
    assert load_cache.load(file) == load_cache.load(file)
    (packages / "walled.py").write_text("import not_there_at_all")
    del sys.modules["walled"]
    registry.forget()
    with pytest.raises(TopologyError, match="cannot be imported"):
        load_cache.load(file)


def test_what_a_kind_needs_is_asked_for_before_anything_starts(packages: Path) -> None:
    install(packages, "third", {"losing": "third_losing:Losing"}, {"third_losing": LOSING})
    registry.forget()
    check_kinds(topology("raw"))
    with pytest.raises(HostError, match="no-such-program is not installed") as found:
        check_kinds(topology("losing"))
    assert found.value.hint == "as root, run: apt-get install no-such-package"


def test_a_diagnosis_offers_what_the_kind_offers(packages: Path) -> None:
    install(packages, "third", {"losing": "third_losing:Losing"}, {"third_losing": LOSING})
    registry.forget()
    lost = Verdict(Finding.LOST, "", "router r1 (eth0 to eth1)")
    found = candidates(PATH, lost, Facts(kinds={"r1": "losing"}))
    offered = [(fix.name, fix.cost, fix.how) for fix in found if fix.kind]
    assert offered == [
        ("r1 as namespace", "nothing", "kind: namespace (router r1 in the topology)")
    ], "what is not installed cannot be tried"


def test_a_diagnosis_takes_the_reason_of_a_drop_from_the_kind(packages: Path) -> None:
    install(packages, "third", {"losing": "third_losing:Losing"}, {"third_losing": LOSING})
    registry.forget()
    found = stopped_at(4, forwarded={"r1": {"gone": 2, "no_route": 1}})
    for kind, reason in (("losing", "it was thrown away"), ("raw", "there is no route")):
        facts = Facts(listening=True, route=FACTS.route, kinds={"r1": kind})
        verdict = conclude(found, facts)
        assert verdict.reason == reason
        assert verdict.evidence[-1].startswith("r1: ")
        assert verdict.evidence[-1].count("grew by") == 1


# --- observers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", registry.OBSERVERS.shipped)
@pytest.mark.parametrize("context", Context)
def test_an_observer_says_where_it_does_not_look(name: str, context: Context) -> None:
    kind = registry.observer(name)
    why_not = kind.can_run(Look("a1", ("vm1-eth0",), context=context))
    assert bool(why_not) is (context not in kind.looks_into)
    assert context.value in why_not or not why_not
    assert kind.explanation
    assert not kind.reader().ready


@pytest.mark.parametrize(("name", "stays"), [("packet-socket", 1), ("drops", 0), ("xen-rings", 1)])
def test_one_that_is_no_program_is_asked_and_ended_by_commands(name: str, stays: int) -> None:
    kind, look = registry.observer(name), Look("a1", ("vm1-eth0",))
    assert kind.start(look)
    assert bool(kind.ask(look)) is bool(kind.stop(look)) is not stays


@pytest.mark.parametrize("name", ["drops", "xen-rings"])
def test_one_that_sees_no_frames_is_not_put_beside_those_that_do(name: str) -> None:
    with pytest.raises(UsageError, match=f"the observer {name} sees no frames at a link"):
        observed(PATH, [name])


# --- the example of the docs, and the verb ------------------------------------------------------


class Recorder:
    """A router that notes what a kind asks of it."""

    name = "r1"

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.options: dict[str, Option] = {}

    def run(self, argv: Sequence[str]) -> None:
        self.asked.append(" ".join(argv))

    def set_kernel_forwarding(self, on: bool) -> None:
        self.asked.append(f"kernel {on}")

    def kernel_forwards(self) -> bool:
        return "kernel True" in self.asked

    def kernel_counters(self) -> dict[str, int]:
        return {"IpOutNoRoutes": 1}

    def set_outer_feature(self, feature: str, on: bool) -> None:
        self.asked.append(f"{feature} {on}")

    def start_program(self, program: str | Path, *options: str) -> None:
        self.asked.append(" ".join((str(program), *options)))

    def program_counters(self) -> dict[str, int]:
        return {"forwarded": 1}


def test_the_example_of_the_docs_works(packages: Path) -> None:
    install_example(packages)
    registry.forget()
    kind = registry.forwarder(EXAMPLE)
    router = Recorder()
    kind.start(router)
    assert router.asked == ["ip route replace blackhole 203.0.113.0/24", "kernel True"]
    assert kind.forwards(router)
    assert kind.count(router) == {"IpOutNoRoutes": 1}
    kind.stop(router)
    assert router.asked[2:] == ["ip route flush 203.0.113.0/24"]
    assert kind.explanation == ""
    (packages / "walled.md").write_text("A wall.\n")
    assert kind.explanation == "A wall.\n"


@pytest.mark.parametrize(
    ("name", "asked", "counted"),
    [
        ("namespace", ["kernel True"], "IpOutNoRoutes"),
        ("raw", ["labctl.routers.raw"], "forwarded"),
        ("raw-vnet", ["labctl.routers.raw --vnet"], "forwarded"),
        ("raw-sum", ["labctl.routers.rewriting --how recompute"], "forwarded"),
        ("nat", ["labctl.routers.masquerade", "kernel True"], "IpOutNoRoutes"),
        ("tc-bpf", ["kernel True", "labctl.routers.redirect --hook tc"], "IpOutNoRoutes"),
    ],
)
def test_a_shipped_one_starts_what_forwards(name: str, asked: list[str], counted: str) -> None:
    kind, router = registry.forwarder(name), Recorder()
    kind.start(router)
    assert router.asked == asked
    assert kind.forwards(router)
    assert kind.count(router) == {counted: 1}
    kind.stop(router)
    assert router.asked == asked


def test_a_part_that_the_kernel_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    part = registry.forwarder("nat").requires[0]
    monkeypatch.setattr(kernel_parts, "missing", lambda parts: list(parts))
    (lack,) = lacking(topology("nat"))
    assert "nftables masq" in lack.message
    assert "which the router r1 of the kind nat needs" in lack.message
    assert isinstance(part, KernelPart)
    assert lack.hint == f"as root, run: modprobe -a {part.module}"
    with pytest.raises(HostError, match="masq"):
        check_kinds(topology("nat"))


def test_nothing_is_tried_where_no_kind_needs_a_part_of_the_kernel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(process, "run", refuse)
    assert lacking(topology("raw")) == []


def test_the_verb_lists_and_explains(packages: Path) -> None:
    install_example(packages)
    registry.forget()
    run = CliRunner()
    table = run.invoke(cli, ["kinds"]).stdout
    rows = [re.split(r"\s{2,}", line.strip()) for line in table.splitlines()]
    assert ["raw", "forwarder", registry.forwarder("raw").summary, "loses"] in rows
    assert [EXAMPLE, "forwarder", registry.forwarder(EXAMPLE).summary, "keeps"] in rows
    told = json.loads(run.invoke(cli, ["kinds", "--json"]).stdout)
    assert [one["name"] for one in told] == [
        *SHIPPED,
        EXAMPLE,
        *registry.LINKS.shipped,
        *registry.OBSERVERS.shipped,
        *registry.GUESTS.shipped,
        *nics.SHIPPED,
    ]
    assert told[len(SHIPPED)] == {
        "name": EXAMPLE,
        "package": "walled 1.0",
        "problem": "",
        "what": "forwarder",
        "summary": "the kernel forwards, but nothing to 203.0.113.0/24",
        "effect": "keeps",
        "options": {},
    }
    one = run.invoke(cli, ["kinds", "raw"]).stdout
    assert registry.forwarder("raw").explanation in one
    assert json.loads(run.invoke(cli, ["kinds", "raw", "--json"]).stdout)["effect"] == "loses"
    wrong = run.invoke(cli, ["kinds", "rav"])
    assert isinstance(wrong.exception, UsageError)
