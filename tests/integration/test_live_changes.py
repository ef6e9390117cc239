"""What changes in a running lab: nodes that stop and start, links that go down or get worse."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from live import Place, Watch, place, process_of, until

from labctl.lab import kernel_parts
from labctl.lab.preflight import NETEM

pytestmark = pytest.mark.integration

LAB = """\
name: changes
networks: {left: , right: }
nodes:
  vm1:
    interfaces: [{network: left, addresses: [10.0.1.1/24]}]
    routes: [{to: default, via: 10.0.1.254}]
  vm2:
    interfaces: [{network: right, addresses: [10.0.2.1/24]}]
    routes: [{to: default, via: 10.0.2.254}]
  peer:
    kind: namespace
    interfaces: [{network: right, addresses: [10.0.2.2/24]}]
    routes: [{to: default, via: 10.0.2.254}]
routers:
  r1:
    interfaces:
      - {network: left, addresses: [10.0.1.254/24]}
      - {network: right, addresses: [10.0.2.254/24]}
"""


@pytest.fixture(scope="module")
def here(pytestconfig: pytest.Config) -> Iterator[Place]:
    """A lab that every test leaves as it was."""
    with place(pytestconfig.getoption("--accel")) as where:
        where.write("changes.yaml", LAB)
        where.ok("up", "changes.yaml")
        yield where


def parts(here: Place) -> dict[str, Any]:
    (lab,) = here.ok("status", "--json").json()
    return {"": lab["state"], **{part["name"]: part for part in lab["parts"]}}


def answers(here: Place, there: str, source: str = "vm1") -> bool:
    return here.run("exec", source, "--", "ping", "-c", "3", "-W", "5", there).status == 0


def test_a_node_is_stopped_and_started_and_the_rest_goes_on(here: Place) -> None:
    vm2 = process_of(here.runtime / "changes", "qemu-system", "guest=vm2")
    assert answers(here, "10.0.2.1")
    here.ok("exec", "vm1", "--", "touch", "/tmp/before")
    told = here.ok("stop", "vm1", "--json").json()
    assert told == {
        "lab": "changes", "nodes": [{"name": "vm1", "state": "shut off", "changed": True}]
    }  # fmt: skip
    found = parts(here)
    assert (found["vm1"]["state"], found["vm2"]["state"]) == ("shut off", "running")
    assert found[""] == "up", "what was asked for is no damage"
    for words in (["exec", "vm1", "true"], ["ssh", "vm1", "true"], ["trace", "vm1", "vm2"]):
        done = here.run(*words)
        assert done.status == 3
        assert done.stderr.endswith("labctl: vm1 is shut off\n  start it: labctl start vm1\n"), (
            words
        )
    assert here.ok("stop", "vm1").stdout == "vm1 is stopped already\n"
    assert answers(here, "10.0.1.254", source="vm2")
    assert here.ok("start", "vm1").stdout == "vm1 started\n"
    assert here.ok("start", "vm1").stdout == "vm1 runs already\n"
    assert here.run("exec", "vm1", "--", "test", "-e", "/tmp/before").status == 1, "it began anew"
    assert answers(here, "10.0.2.1")
    assert process_of(here.runtime / "changes", "qemu-system", "guest=vm2") == vm2


def test_a_guest_that_ended_by_itself_is_started_again(here: Place) -> None:
    here.run("exec", "vm2", "poweroff")
    until("it is seen", lambda: parts(here)["vm2"]["state"] == "powered off")
    assert "labctl start vm2" in here.run("exec", "vm2", "true").stderr
    here.ok("start", "vm2")
    assert parts(here)[""] == "up"
    here.run("exec", "vm2", "reboot")
    until("it is seen", lambda: parts(here)["vm2"]["state"] == "restarted")
    here.ok("restart", "vm2")
    assert answers(here, "10.0.2.1")


def test_a_namespace_is_stopped_and_started(here: Place) -> None:
    assert answers(here, "10.0.2.2")
    here.ok("stop", "peer")
    assert parts(here)["peer"]["state"] == "shut off"
    assert not answers(here, "10.0.2.2")
    here.ok("start", "peer")
    assert answers(here, "10.0.2.2")
    here.ok("ssh", "vm1", "--", "ssh", "10.0.2.2", "true")


def test_several_are_restarted_by_a_pattern(here: Place) -> None:
    told = here.ok("restart", "vm*", "--json").json()
    assert [(one["name"], one["state"]) for one in told["nodes"]] == [
        ("vm1", "running"), ("vm2", "running"),
    ]  # fmt: skip
    assert answers(here, "10.0.2.1")


def test_a_start_that_is_killed_leaves_the_node_off(here: Place) -> None:
    here.ok("stop", "vm1")
    with here.start("start", "vm1", group=True) as running:
        running.reach("it starts", lambda: running.said("boot vm1"))
        os.killpg(running.child.pid, signal.SIGKILL)
    assert parts(here)["vm1"]["state"] == "shut off"
    here.ok("start", "vm1")
    assert answers(here, "10.0.2.1")


def test_two_changes_at_once_follow_each_other(here: Place) -> None:
    with here.start("restart", "vm1") as one, here.start("restart", "vm2") as other:
        assert (one.wait(), other.wait()) == (0, 0)
    assert parts(here)[""] == "up"
    assert answers(here, "10.0.2.1")


@pytest.mark.parametrize(
    ("port", "inside"),
    [("vm1:eth0", ("vm1", "eth0")), ("r1:eth0", ("r1", "eth0")), ("peer", ("peer", "eth0"))],
)
def test_a_link_loses_its_carrier_and_gets_it_back(
    port: str, inside: tuple[str, str], here: Place
) -> None:
    node, interface = inside

    def carrier() -> str:
        words = ["cat", f"/sys/class/net/{interface}/carrier"]
        return here.ok("exec", node, "--", *words).stdout.strip()

    assert carrier() == "1"
    told = here.ok("link", port, "down", "--json").json()
    assert [(one["name"], one["state"]) for one in told["links"]] == [
        (f"{node}:{interface}", "down")
    ]
    assert carrier() == "0"
    found = parts(here)
    assert found[node]["links_down"] == [interface]
    assert found[""] == "up"
    assert f"labctl link {node}:{interface} up" in here.ok("status").stdout
    here.ok("link", port, "up")
    assert carrier() == "1"
    assert parts(here)[node]["links_down"] == []


@pytest.mark.parametrize(
    ("words", "what", "how"),
    [
        (["stop", "r1"], "r1 is a router, which runs as long as its lab", "labctl link r1:"),
        (["stop", "vm9"], "lab changes has no node vm9", "it has: vm1, vm2, peer"),
        (["start", "r*"], "r* means routers only", "labctl status"),
        (["link", "vm9:eth0", "down"], "there is no node or router vm9", "did you mean"),
        (["link", "vm1:eth7", "down"], "vm1 has no interface eth7", "it has: vm1:eth0"),
        (["link", "r1", "down"], "r1 has several interfaces", "r1:eth0, r1:eth1"),
        (["link", "vm1:eth0"], "nothing is said of what is to happen", "--delay 20ms"),
        (["link", "vm1:eth0", "sideways"], "a link is down or up, not sideways", "write one"),
        (["link", "down"], "no interface is named", "labctl link vm1:eth0 down"),
        (["link", "vm1:eth0", "--delay", "20"], "'20' is no duration", "20ms"),
        (["link", "vm1:eth0", "--jitter", "1ms"], "jitter changes nothing", "give a delay"),
        (["link", "vm1:eth0", "--clear", "--loss", "1%"], "contradict each other", "one of"),
    ],
)
def test_what_cannot_be_done_is_told_in_two_lines(
    words: list[str], what: str, how: str, here: Place
) -> None:
    done = here.run(*words)
    first, second = done.stderr.splitlines()
    assert done.status == 2
    assert what in first
    assert how in second


def _needs_netem() -> None:
    if kernel_parts.missing([NETEM]):
        pytest.skip("this kernel has no netem")


def test_links_are_impaired_listed_and_cleared(here: Place) -> None:
    _needs_netem()
    words = ["--delay", "200ms", "--jitter", "10ms", "--loss", "0.5%", "--duplicate", "0.25%"]
    words += ["--corrupt", "0.1%", "--reorder", "1%", "--rate", "20mbit"]
    told = here.ok("link", "r1:eth0", "vm1:eth0", *words, "--json").json()
    wanted = {
        "delay": "200ms", "jitter": "10ms", "loss": "0.5%", "duplicate": "0.25%",
        "corrupt": "0.1%", "reorder": "1%", "rate": "20mbit",
    }  # fmt: skip
    assert [one["impairment"] for one in told["links"]] == [wanted, wanted]
    assert "delay 200ms" in here.ok("link").stdout
    here.ok("link", "r1:eth0", "--clear")
    here.ok("link", "vm1:eth0", "--delay", "300ms")  # in place of the others
    said = here.ok("exec", "vm1", "--", "ping", "-c", "3", "10.0.1.254").stdout
    times = [float(one) for one in re.findall(r"time=([0-9.]+) ms", said)]
    assert len(times) == 3
    assert min(times) >= 300, "the kernel delays them by as much"
    here.ok("link", "vm1:eth0", "--loss", "100%")
    assert not answers(here, "10.0.1.254")
    here.ok("link", "vm1:eth0", "--clear")
    assert answers(here, "10.0.1.254")
    links = here.ok("link", "--json").json()["links"]
    assert not any(one["impairment"] for one in links)


def test_a_topology_impairs_links_and_all_goes_with_the_lab(pytestconfig: pytest.Config) -> None:
    _needs_netem()
    with place(pytestconfig.getoption("--accel")) as where, Watch(where) as watch:
        more = "network: right, addresses: [10.0.2.2/24]"
        where.write("worse.yaml", LAB.replace(more, f"{more}, impairment: {{delay: 40ms}}"))
        where.ok("up", "worse.yaml")
        found = {one["name"]: one for one in where.ok("link", "--json").json()["links"]}
        assert found["peer:eth0"]["impairment"] == {"delay": "40ms"}
        assert not found["vm1:eth0"]["impairment"]
        where.ok("restart", "peer")
        found = {one["name"]: one for one in where.ok("link", "--json").json()["links"]}
        assert found["peer:eth0"]["impairment"] == {"delay": "40ms"}, "its veth is new"
        where.ok("down")
        watch.nothing_left()


def test_without_netem_an_impairment_is_refused_before_anything_starts(here: Place) -> None:
    if not kernel_parts.missing([NETEM]):
        pytest.skip("this kernel has netem")
    done = here.run("link", "vm1:eth0", "--delay", "20ms")
    assert (done.status, "it has no netem" in done.stderr) == (3, True)
    more = "network: right, addresses: [10.0.2.2/24]"
    file = here.write("worse.yaml", LAB.replace(more, f"{more}, impairment: {{delay: 40ms}}"))
    done = here.run("up", str(file), "--name", "worse")
    assert done.status == 3
    assert "qdisc netem, which the impairment of peer:eth0 needs" in done.stderr
    assert [lab["name"] for lab in json.loads(here.ok("status", "--json").stdout)] == ["changes"]


GIVEN = """\
name: given
groups: {client: {exec: [echo group >>/tmp/order]}}
defaults: {exec: [echo defaults >/tmp/order], files: {/etc/motd: "all\\n"}}
networks: {lan: }
nodes:
  vm1:
    group: client
    files:
      /usr/bin/told: {text: "#!/bin/sh\\necho told", mode: "755"}
      /opt/deep/copied: {source: given.yaml}
    exec: [echo node >>/tmp/order, ping -c 1 10.0.1.2]
    interfaces: [{network: lan, addresses: [10.0.1.1/24]}]
  peer:
    kind: namespace
    exec: [echo peer >/tmp/order]
    interfaces: [{network: lan, addresses: [10.0.1.2/24]}]
"""


def test_nodes_are_given_files_and_commands_each_time_they_start(
    pytestconfig: pytest.Config,
) -> None:
    with place(pytestconfig.getoption("--accel")) as where:
        where.write("given.yaml", GIVEN)
        where.ok("up", "given.yaml")
        for _ in range(2):
            look = "cat /tmp/order /etc/motd; told; cat /opt/deep/copied"
            said = where.ok("exec", "vm1", "--", "sh", "-c", look).stdout
            assert said == f"defaults\ngroup\nnode\nall\ntold\n{GIVEN}"
            where.ok("restart", "vm1")
        assert where.ok("exec", "peer", "cat", "/tmp/order").stdout == "peer\n"


def test_a_command_that_fails_ends_up_and_nothing_is_left(pytestconfig: pytest.Config) -> None:
    with place(pytestconfig.getoption("--accel")) as where, Watch(where) as watch:
        where.write("given.yaml", GIVEN.replace("ping -c 1 10.0.1.2", "ls /nowhere"))
        done = where.run("up", "given.yaml")
        assert done.status == 3
        assert "`ls /nowhere` in vm1 exited with 1: ls: /nowhere" in done.stderr
        assert "see exec[3] of vm1 in the topology" in done.stderr
        watch.nothing_left()
