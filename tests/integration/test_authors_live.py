"""What authors use, on real guests: labs that stay up, waiting, requirements, the page's code."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from live import COMMAND_SECONDS, LABCTL, SOLO, Place, Watch, place, until

from labctl import Skip, UsageError, background, probes, require, wait_for_port, wait_until
from labctl.lab.lab import Lab
from labctl.pytest_plugin import LabFactory

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.integration

PAGE = Path(__file__).parents[2] / "docs" / "authors.md"

FAILING = """
from labctl import Trial, experiment


@experiment("failing", topology="solo.yaml", hypothesis="what is not true")
def failing(trial: Trial) -> None:
    vm1, r1 = trial.lab.node("vm1"), trial.lab.router("r1")
    with trial.arm("one", "an arm") as arm:
        r1.set_kind("raw-vnet")
        arm.defer(vm1.run, "touch /tmp/deferred")
        with vm1.offload({"tx-checksumming": False}):
            arm.check("truth", "yes", "no", False)
    with trial.arm("two", "never tried") as arm:
        arm.check("truth", "yes", "yes", True)
"""


@pytest.fixture(scope="module")
def here(pytestconfig: pytest.Config) -> Iterator[Place]:
    with place(pytestconfig.getoption("--accel")) as where:
        where.write("solo.yaml", SOLO)
        where.write("failing.py", FAILING)
        yield where


@pytest.fixture
def watch(here: Place) -> Iterator[Watch]:
    with Watch(here) as watching:
        yield watching


# --- labs that stay up --------------------------------------------------------------------------


def the_lab(here: Place) -> dict[str, Any]:
    """Return the one lab that is up."""
    (lab,) = here.ok("status", "--json").json()
    assert isinstance(lab, dict)
    return lab


def tx(here: Place) -> str:
    """Return what the guest says of its transmit checksums."""
    said = here.ok("exec", "vm1", "--", "ethtool", "-k", "eth0").stdout
    (line,) = [one for one in said.splitlines() if one.startswith("tx-checksumming:")]
    return line.split()[1]


def take_down(here: Place, watch: Watch) -> None:
    """Take the lab down; nothing of it or of its experiment is left."""
    here.ok("down")
    watch.nothing_left()


def test_a_lab_stays_up_after_its_experiment_and_only_down_ends_it(
    here: Place, watch: Watch
) -> None:
    told = here.run("experiment", "--keep-on-failure", "failing.py", "--json")
    assert told.status == 1
    (run,) = told.json()
    assert (run["verdict"], run["partial"]) == ("fail", True)
    assert [arm["name"] for arm in run["arms"]] == ["one"]
    lab = the_lab(here)
    assert lab["state"] == "up"
    assert f"lab {lab['name']} stays up:" in told.stderr
    assert f"labctl down {lab['name']}" in told.stderr
    assert run["notes"] == [f"the lab was kept up as {lab['name']}"]
    # What `with` and `defer` undo is undone, and the rest is as the arm had it.
    here.ok("exec", "vm1", "--", "test", "-e", "/tmp/deferred")
    assert tx(here) == "on"
    assert [part["is"] for part in lab["parts"] if part["name"] == "r1"] == ["router (raw-vnet)"]
    take_down(here, watch)


def test_what_passes_leaves_no_lab(here: Place, watch: Watch) -> None:
    here.write("passing.py", FAILING.replace('"no", False', '"yes", True'))
    here.ok("experiment", "--keep-on-failure", "passing.py")
    assert here.ok("status", "--json").json() == []
    watch.nothing_left()


@contextlib.contextmanager
def at_a_terminal(here: Place, *words: str) -> Iterator[tuple[subprocess.Popen[bytes], int, Path]]:
    """Start labctl with a terminal for its standard input and error; give it, the keys, a log."""
    keys, terminal = pty.openpty()
    child = subprocess.Popen(
        [LABCTL, *words],
        stdin=terminal,
        stdout=subprocess.DEVNULL,
        stderr=terminal,
        env={**here.env, "TERM": "xterm"},
        cwd=here.root,
    )
    os.close(terminal)
    log = here.root / f"terminal-{time.monotonic_ns()}"
    os.set_blocking(keys, False)
    try:
        yield child, keys, log
    finally:
        child.kill()
        child.wait()
        os.close(keys)


def reach(child: subprocess.Popen[bytes], keys: int, log: Path, words: str) -> None:
    """Wait until the terminal shows some words; all that it shows goes to the log."""

    def shown() -> bool:
        status = child.poll()  # first: what it wrote before its end is read below
        with contextlib.suppress(OSError), log.open("ab") as file:
            while piece := os.read(keys, 65536):
                file.write(piece)
        said = log.read_text(errors="replace") if log.exists() else ""
        assert status is None or words in said, f"it ended with {status}:\n{said}"
        return words in said

    until(f"the terminal shows {words!r}", shown, COMMAND_SECONDS)


@pytest.mark.parametrize("answer", ["enter", "interrupt"])
def test_at_a_terminal_it_stops_inside_the_arm_that_fails(
    here: Place, watch: Watch, answer: str
) -> None:
    with at_a_terminal(here, "experiment", "--keep-on-failure", "failing.py") as (child, keys, log):
        reach(child, keys, log, "Enter ends the experiment")
        assert tx(here) == "off", "the arm's own `with` block is not left yet"
        assert here.run("exec", "vm1", "--", "test", "-e", "/tmp/deferred").status == 1
        watch.note()
        if answer == "interrupt":
            child.send_signal(signal.SIGINT)
        else:
            os.write(keys, b"\n")
            reach(child, keys, log, "stays up:")
        status = child.wait(COMMAND_SECONDS)
    (last, *_) = here.ok("results", "--json").json()
    if answer == "interrupt":
        assert (status, last["state"], last["verdict"]) == (130, "interrupted", "fail")
        assert here.ok("status", "--json").json() == []
        watch.nothing_left()
        return
    assert (status, last["verdict"]) == (1, "fail")
    assert tx(here) == "on"
    take_down(here, watch)


def test_a_failing_test_leaves_its_lab_up(
    pytester: pytest.Pytester, here: Place, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABCTL_RUNTIME_DIR", str(here.root))
    pytester.makepyfile(
        test_it="""
        import pytest

        @pytest.mark.topology("bridged.yaml")
        def test_fails(lab):
            lab.node("vm1").run("touch /tmp/here")
            assert False
        """
    )
    result = pytester.runpytest_subprocess(
        "--labctl-keep-on-failure", "--accel", here.accel, "-p", "no:cacheprovider"
    )
    result.assert_outcomes(failed=1)
    lab = the_lab(here)
    assert lab["state"] == "up"
    result.stdout.fnmatch_lines(["*labs that stay up*", f"labctl down {lab['name']}"])
    here.ok("exec", "vm1", "--", "test", "-e", "/tmp/here")
    take_down(here, watch)


# --- helpers, on one pair of guests -------------------------------------------------------------


@pytest.fixture(scope="module")
def pair(lab_factory: LabFactory) -> Iterator[Lab]:
    with lab_factory("bridged.yaml") as lab:
        yield lab


def test_a_command_in_the_background_listens_and_ends_with_its_block(pair: Lab) -> None:
    vm1, vm2 = pair.node("vm1"), pair.node("vm2")
    with background(vm2, "nc -l -p 8080") as server:
        wait_for_port(vm2, 8080)
        with background(vm1, f"sh -c 'echo whole | nc {vm2.address(4)} 8080'"):
            assert wait_until("a line comes", lambda: server.output) == "whole\n"
    assert not vm2.run("pidof nc", check=False).ok
    with background(vm2, "sleep 300"):
        assert vm2.run("ps | grep '[s]leep 300'").ok
    assert not vm2.run("ps | grep '[s]leep 300'", check=False).ok


def test_a_guests_own_ssh_server_is_found_by_its_kernel(pair: Lab) -> None:
    wait_for_port(pair.node("vm1"), 22)


def test_what_a_guest_has_is_not_skipped_and_what_it_lacks_is(pair: Lab) -> None:
    vm1 = pair.node("vm1")
    require(vm1, programs=("perl", "ethtool"), modules="virtio-net", kernel="5.10", tools="ssh")
    with pytest.raises(Skip, match="no program no-such-thing; vm1 has no kernel module no_such"):
        require(vm1, programs="no-such-thing", modules="no_such")
    with pytest.raises(Skip, match="older than 99"):
        require(vm1, kernel="99.0")


def test_probes_take_names_and_addresses(pair: Lab) -> None:
    address = pair.node("vm2").address(6)
    for probe in (probes.ping, probes.ssh, probes.udp):
        assert probe(pair, "vm1", "vm2").works, probe
        assert probe(pair, "vm1", address).works, probe
    with pytest.raises(UsageError, match="nobody in lab"):
        probes.ping(pair, "vm1", "203.0.113.9")


def test_a_guest_without_the_program_of_a_probe_tells_nothing(pair: Lab) -> None:
    vm1 = pair.node("vm1")
    for program, probe in {"ssh": probes.ssh, "perl": probes.udp}.items():
        path = vm1.run(f"command -v {program}").stdout.strip()
        vm1.run(f"mv {path} {path}.away")
        try:
            answer = probe(pair, "vm1", "vm2")
        finally:
            vm1.run(f"mv {path}.away {path}")
        assert answer.works is None, (program, answer)


@pytest.mark.parametrize("name", ["mine", "line"])
def test_an_example_of_the_page_passes(here: Place, watch: Watch, name: str) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (text,) = [block for block in blocks if f'"{name}"' in block and "@experiment" in block]
    here.write(f"{name}.py", text)
    told = here.run("experiment", f"{name}.py", "--json")
    watch.nothing_left()
    (run,) = told.json()
    assert run["verdict"] == "pass", json.dumps(run["arms"], indent=2)
