"""Experiments on real guests: the built-in ones pass, and each way to fail ends as it must."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from junitparser import JUnitXml
from live import SOLO, Place, Watch, place
from pcapng import FileScanner
from pcapng.blocks import EnhancedPacket, InterfaceDescription

from labctl.report.gather import from_record
from labctl.results.model import Run

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def here(pytestconfig: pytest.Config) -> Iterator[Place]:
    with place(pytestconfig.getoption("--accel")) as where:
        where.write("solo.yaml", SOLO)
        yield where


@pytest.fixture
def watch(here: Place) -> Iterator[Watch]:
    with Watch(here) as watching:
        yield watching


def _record(told: list[dict[str, Any]]) -> tuple[dict[str, Any], Path]:
    """Return the one run's record as it is on disk, and its directory."""
    (run,) = told
    path = Path(run.pop("path"))
    record = json.loads((path / "result.json").read_text())
    assert record["verdict"] == run["verdict"]
    return record, path


def _interfaces(capture: Path) -> dict[str, int]:
    """Return the frames by interface name, as another reader of pcapng than ours counts them."""
    found: dict[str, int] = {}
    with capture.open("rb") as file:
        for block in FileScanner(file):
            if isinstance(block, InterfaceDescription):
                found.setdefault(block.options["if_name"], 0)
            elif isinstance(block, EnhancedPacket):
                found[block.interface.options["if_name"]] += 1
    return found


# --- built-in -----------------------------------------------------------------------------------

BRIDGE_HOPS = {"vm1:eth0", "vm1-eth0", "vm2-eth0", "vm2:eth0"}
ROUTER_HOPS = BRIDGE_HOPS | {"r1-eth0", "r1:eth0", "r1:eth1", "r1-eth1"}


def _passes(here: Place, watch: Watch, name: str, arms: set[str]) -> tuple[dict[str, Any], Path]:
    record, path = _record(here.ok("experiment", name, "--json").json())
    watch.nothing_left()
    assert record["verdict"] == "pass"
    assert record["partial"] is False
    assert {arm["name"] for arm in record["arms"]} == arms
    assert all(arm["checks"] for arm in record["arms"])
    environment = record["environment"]
    assert environment["accelerator"] in ("kvm", "tcg")
    for key in ("host_kernel", "qemu", "libvirt", "topology_digest", "images", "guest_kernels"):
        assert environment[key], f"{key} is not recorded"
    assert set(environment["guest_kernels"]) == {"vm1", "vm2"}
    suites = JUnitXml.fromfile(str(path / "junit.xml"))
    assert suites.tests == sum(len(arm["checks"]) for arm in record["arms"])
    assert suites.failures == suites.errors == 0
    for node in ("vm1", "vm2"):
        assert "labctl: ready" in (path / "console" / f"{node}.log").read_text()
    listed = here.ok("results", "--json").json()[0]
    assert (listed["id"], listed["verdict"]) == (path.name, "pass")
    _the_report_tells_the_same_steps(path)
    return record, path


def _the_report_tells_the_same_steps(path: Path) -> None:
    """Check that a record's captures are followed to what the checks of its run had as evidence."""
    data = json.loads((path / "result.json").read_text())
    data.pop("schema_version")
    compared = 0
    for arm in from_record(path, Run.from_json(data)).arms:
        for check in arm.result.checks:
            if not re.match("(SYN|SYN-ACK|UDP) vm", check.name):
                continue
            packet_trace = arm.first(check.name.partition(" ")[0])
            assert packet_trace is not None, (arm.name, check.name)
            told = {f"{step.hop}: {step.knowledge}" for step in packet_trace.steps}
            seen = {line.partition(" (")[0] for line in check.evidence}
            assert seen <= told, (arm.name, check.name)
            compared += len(seen)
    assert compared


def test_bridged_passes_and_is_recorded(here: Place, watch: Watch) -> None:
    _, path = _passes(here, watch, "bridged", {"ipv4", "ipv6", "control/tx-off"})
    captures = sorted((path / "captures").glob("*.pcapng"))
    assert len(captures) == 3
    for capture in captures:
        frames = _interfaces(capture)
        assert set(frames) == BRIDGE_HOPS
        assert all(frames.values()), f"nothing was seen at some hop: {frames}"


def test_router_hop_passes_and_is_recorded(here: Place, watch: Watch) -> None:
    ways = ("namespace", "raw", "raw-vnet", "raw tx-off")
    arms = {f"{way}/{ip}" for way in ways for ip in ("ipv4", "ipv6")}
    record, path = _passes(here, watch, "router-hop", arms)
    story = record["story"]
    assert "Where the knowledge was lost: router r1 (eth0 to eth1)" in story
    captures = sorted((path / "captures").glob("*.pcapng"))
    assert len(captures) == len(arms)
    for capture in captures:
        assert set(_interfaces(capture)) == ROUTER_HOPS
    for arm in record["arms"]:
        checks = {check["name"]: check["observed"] for check in arm["checks"]}
        assert checks["ssh"].startswith("hangs" if arm["name"].startswith("raw/") else "works")
        assert "4" in checks["ping"] or "2" in checks["ping"]


def test_offload_passes_and_is_recorded(here: Place, watch: Watch) -> None:
    settings = (
        "defaults",
        "guest tx off",
        "one guest tx off",
        "tso gso off",
        "tap tx off",
        "device csum off",
        "device guest_csum off",
    )
    arms = {f"{setting}/{way}" for setting in settings for way in ("bridge", "raw")}
    record, _ = _passes(here, watch, "offload", arms)
    works = {
        arm["name"]
        for arm in record["arms"]
        for check in arm["checks"]
        if check["name"] == "ssh" and check["observed"] == "works"
    }
    assert works == {f"{setting}/bridge" for setting in settings} | {
        "guest tx off/raw",
        "device csum off/raw",
    }


def test_effects_finds_a_copying_router_in_a_users_topology(here: Place, watch: Watch) -> None:
    text = (Path(__file__).resolve().parents[2] / "topologies" / "three-networks.yaml").read_text()
    before, after = text.split("  r2:\n    kind: namespace")
    here.write("mine.yaml", f"{before}  r2:\n    kind: raw{after}")
    words = ("effects", "--topology", "mine.yaml", "--only", "*/ipv4", "--json")
    record, _ = _record(here.ok("experiment", *words).json())
    watch.nothing_left()
    verdicts = {arm["name"]: arm["verdict"] for arm in record["arms"]}
    assert verdicts == {
        f"{way}/{ip}": "pass" if ip == "ipv4" else "skip"
        for way in ("vm1 to vm2", "vm2 to vm1")
        for ip in ("ipv4", "ipv6")
    }
    assert record["notes"] == ["2 of 4 cases were chosen by --only"]
    assert record["command"].endswith("--topology mine.yaml --only '*/ipv4'")
    blamed = {
        arm["name"]: check["observed"]
        for arm in record["arms"]
        for check in arm["checks"]
        if check["name"] == "metadata lost, SYN"
    }
    assert blamed == {
        "vm1 to vm2/ipv4": "router r2 (eth0 to eth1)",
        "vm2 to vm1/ipv4": "router r2 (eth1 to eth0)",
    }


MUTATED = """
from labctl.experiments import Arm, Case, Trial, experiment
from labctl.experiments.expectations import check_path
from labctl.kinds import registry
from labctl.kinds.base import Effect

WRONG = {
    "healthy through raw": ("raw", Effect.KEEPS),
    "complete through raw": ("raw", Effect.COMPLETES),
    "broken through the kernel": ("namespace", Effect.LOSES),
    "complete through the kernel": ("namespace", Effect.COMPLETES),
}


@experiment(
    "mutated",
    topology="router-hop.yaml",
    hypothesis="the opposite of what is true",
    variants={"wrong": WRONG},
)
def mutated(trial: Trial, arm: Arm, case: Case) -> None:
    kind, effect = case["wrong"]
    trial.lab.router("r1").set_kind(kind)
    type(registry.forwarder(kind)).effect = effect
    check_path(trial, arm, "vm1", "vm2", 4)
"""


def test_a_wrong_effect_of_a_router_fails(here: Place, watch: Watch) -> None:
    here.write("mutated.py", MUTATED)
    told = here.run("experiment", "mutated.py", "--json")
    watch.nothing_left()
    assert told.status == 1
    record, path = _record(told.json())
    assert record["verdict"] == "fail"
    assert {arm["verdict"] for arm in record["arms"]} == {"fail"}
    wrong = {
        arm["name"]: {check["name"] for check in arm["checks"] if check["verdict"] == "fail"}
        for arm in record["arms"]
    }
    syn = "SYN vm1 to vm2"
    assert {"ssh", "udp", syn, "checksum errors"} <= wrong["healthy through raw"]
    assert {"ssh", "udp", syn} <= wrong["complete through raw"]
    assert {
        "ssh",
        "udp",
        syn,
        "metadata lost, SYN",
        "TcpInCsumErrors at vm2",
        "drop reason at vm2",
    } <= wrong["broken through the kernel"]
    assert {syn, "SYN-ACK vm2 to vm1"} <= wrong["complete through the kernel"]
    assert all("ping" not in names for names in wrong.values())
    assert JUnitXml.fromfile(str(path / "junit.xml")).failures == sum(map(len, wrong.values()))


# --- a user's own -------------------------------------------------------------------------------

HEAD = """
import os
import signal
from pathlib import Path

from labctl.experiments import Skip, Trial, experiment


@experiment("own", topology="solo.yaml", hypothesis="a user's own file")
def own(trial: Trial) -> None:
    vm1 = trial.lab.node("vm1")
"""

ARM = """
    with trial.arm("one", "an arm") as arm:
        arm.check("first", "yes", "yes", True)
"""

OUTCOMES: dict[str, tuple[str, int, str]] = {
    "a check that holds": ("", 0, "pass"),
    "a check that does not hold": (
        'arm.check("truth", "5", vm1.run("echo $((2+2))").stdout.strip(), False)',
        1,
        "fail",
    ),
    "an assertion": ('assert vm1.run("hostname").stdout == "vm2\\n", "it is not vm2"', 1, "fail"),
    "an arm that is given up": ('raise Skip("no such NIC here")', 4, "skip"),
    "a check that cannot be told": ('arm.check("truth", "yes", "unknown", None)', 3, "error"),
    "a command that fails": ('vm1.run("exit 3")', 3, "error"),
    "a mistake in the file": ("vm1.no_such_thing()", 3, "error"),
    "a guest that dies": (
        'os.kill(int(PID_OF("qemu-system")), signal.SIGKILL); vm1.run("hostname", timeout=20)',
        3,
        "error",
    ),
    "a sandbox that dies": (
        'os.kill(int(PID_OF("init.py")), signal.SIGKILL); vm1.run("hostname", timeout=20)',
        3,
        "error",
    ),
}

PID_OF = '''
def PID_OF(program):
    """The pid of a program of this lab, on the host."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().decode().split("\\0")
            except OSError:
                continue
            if any(program in word for word in words[:4]) and any(
                LAB in word for word in words
            ) and "unshare" not in words[0]:
                return entry.name
'''


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_an_experiment_of_a_users_own_ends_as_it_must(
    outcome: str, here: Place, watch: Watch
) -> None:
    line, status, verdict = OUTCOMES[outcome]
    text = HEAD + "    global LAB\n    LAB = str(trial.lab.directory)\n" + ARM
    if line:
        text += f"        {line}\n"
    here.write("own.py", text + PID_OF)
    told = here.run("experiment", "own.py", "--json")
    watch.nothing_left()
    assert told.status == status, told
    record, path = _record(told.json())
    assert record["verdict"] == verdict
    checks = {check["name"]: check["verdict"] for arm in record["arms"] for check in arm["checks"]}
    assert checks.pop("first") == "pass"  # what was found before the trouble is kept
    assert (verdict in checks.values()) is bool(line)
    assert "labctl: ready" in (path / "console" / "vm1.log").read_text()
    suites = JUnitXml.fromfile(str(path / "junit.xml"))
    assert bool(suites.failures) is (verdict == "fail")
    assert bool(suites.errors) is (verdict == "error")


WITHOUT_A_CHECK = {
    "nothing at all": "    pass",
    "an arm without a check": '    with trial.arm("one", "empty"):\n        vm1.run("true")',
}


@pytest.mark.parametrize("how", WITHOUT_A_CHECK)
def test_an_experiment_that_checks_nothing_is_an_error(how: str, here: Place, watch: Watch) -> None:
    here.write("empty.py", HEAD + WITHOUT_A_CHECK[how] + "\n")
    told = here.run("experiment", "empty.py", "--json")
    watch.nothing_left()
    assert told.status == 3
    assert _record(told.json())[0]["verdict"] == "error"


def test_an_experiment_that_skips_says_why(here: Place, watch: Watch) -> None:
    here.write("skip.py", HEAD + '    raise Skip("no such NIC here")\n')
    told = here.run("experiment", "skip.py")
    watch.nothing_left()
    assert told.status == 4
    assert "no such NIC here" in told.stdout


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("def broken(:\n", "wrong.py:1:"),
        ("raise ValueError('at import')\n", "wrong.py:1: ValueError: at import"),
        ("x = 1\n", "holds no experiment"),
        (HEAD.replace("solo.yaml", "no-such.yaml") + "    pass\n", "there is no topology"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_before_anything_starts(
    file: str, words: str, here: Place, watch: Watch
) -> None:
    here.write("wrong.py", file)
    told = here.run("experiment", "wrong.py")
    assert told.status == 2
    assert words in told.stderr
    assert "boot" not in told.stderr
    watch.nothing_left()
