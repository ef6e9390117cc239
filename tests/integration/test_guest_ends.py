"""A guest that ends, stops or loses its link is shown so, and whoever asks it is told at once."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
from live import Place, descendants, place, process_of, until, words_of

from labctl.sandbox.namespaces import Namespaces

pytestmark = pytest.mark.integration

PROMPT = 8.0
"""Seconds in which `until` must see it: far less than the minutes that TCP waits for a guest."""


@pytest.fixture(scope="module")
def here(pytestconfig: pytest.Config) -> Iterator[Place]:
    """Two guests; every test leaves them as they were."""
    with place(pytestconfig.getoption("--accel")) as where:
        where.ok("up", "bridged.yaml", "--name", "ends")
        yield where


def lab(here: Place) -> dict[str, Any]:
    (found,) = here.ok("status", "--json").json()
    parts: dict[str, Any] = {part["name"]: part for part in found["parts"]}
    return {"state": found["state"], **parts}


def qemu(here: Place, node: str) -> int:
    return process_of(here.runtime / "ends", "qemu-system", f"guest={node}")


def test_each_end_of_a_guest_is_shown_and_told_at_once(pytestconfig: pytest.Config) -> None:
    with place(pytestconfig.getoption("--accel")) as where:
        where.ok("up", "bridged.yaml", "--name", "ends")
        where.run("exec", "vm1", "poweroff")
        _ends(where, "vm1", "powered off", "vm1 has ended: it powered itself off")
        console = where.runtime / "ends" / "console" / "vm2.log"
        with where.start("ssh", "vm2", "echo here >/dev/console; sleep 1000") as talking:
            until("it runs", lambda: b"here" in console.read_bytes())
            where.run("exec", "vm2", "sh", "-c", "echo c >/proc/sysrq-trigger")
            told = "vm2 has panicked: Kernel panic - not syncing: sysrq triggered crash"
            until("it says", lambda: talking.said(f"labctl: {told}"), PROMPT)
            assert talking.wait(PROMPT) != 0
        _ends(where, "vm2", "panicked", told)
        lab_files = str(where.runtime)
        left = [words for pid in descendants(1) if lab_files in (words := words_of(pid))]
        assert not [words for words in left if "qemu-system" in words or "sleep 1000" in words]


def _ends(where: Place, node: str, state: str, told: str) -> None:
    """Require that a guest is shown to have ended, and that every verb says so."""
    until(state, lambda: lab(where)[node]["state"] == state, PROMPT)
    assert lab(where)["state"] == "damaged"
    for words in (["exec", node, "true"], ["ssh", node, "true"], ["trace", node, _other(node)]):
        done = where.run(*words)
        assert done.status == 3
        assert f"labctl: {told}\n" in done.stderr, words


def _other(node: str) -> str:
    return "vm2" if node == "vm1" else "vm1"


def test_a_stopped_guest_is_told_and_goes_on(here: Place) -> None:
    pid = qemu(here, "vm1")
    os.kill(pid, signal.SIGSTOP)
    try:
        assert lab(here)["vm1"]["state"] == "stopped"
        done = here.run("exec", "vm1", "true")
        assert "labctl: vm1 is stopped: a signal stopped its QEMU\n" in done.stderr
    finally:
        os.kill(pid, signal.SIGCONT)
    assert here.ok("exec", "vm1", "hostname").stdout == "vm1\n"
    assert lab(here)["state"] == "up"


def test_a_lost_link_is_shown_and_a_guest_out_of_reach_is_told(here: Place) -> None:
    sandbox = Namespaces.attach(here.runtime / "ends")

    def ip(*words: str) -> None:
        subprocess.run(sandbox.words(["ip", "link", "set", *words]), check=True)

    ip("vm1-eth0", "down")
    found = lab(here)
    assert found["state"] == "damaged"
    assert found["vm1"]["links"] == {"eth0": "its TAP vm1-eth0 is down"}
    assert found["vm2"]["links"] == {}
    assert "vm1 has no link on eth0: its TAP vm1-eth0 is down" in here.ok("status").stdout
    assert here.ok("exec", "vm1", "hostname").stdout == "vm1\n"
    ip("vm1-eth0", "up")
    assert lab(here)["state"] == "up"

    ip("vm2-mgmt", "down")
    assert list(lab(here)["vm2"]["links"]) == ["management"]
    with here.start("exec", "vm2", "true") as asking:
        until("it is told", lambda: asking.said("labctl: vm2 runs, but cannot be reached"), PROMPT)
        assert asking.wait(PROMPT) != 0
    ip("vm2-mgmt", "up")
    until("it answers", lambda: here.run("exec", "vm2", "true").status == 0)


def test_an_agent_that_ends_is_told_from_a_lab_that_does(here: Place) -> None:
    words = ("trace", "vm1", "vm2", "--wait", "--timeout", "100")
    with here.start(*words, output=True) as tracing:  # an error, or a note beside what was seen
        until("it traces", lambda: tracing.said("sending") or _agents(tracing.child.pid))
        time.sleep(0.5)
        for pid in _agents(tracing.child.pid):
            os.kill(pid, signal.SIGKILL)
        assert tracing.wait(60) == 3
        log = tracing.log.read_text()
    assert "the agent that works in the lab has ended; the lab is up" in log, log
    assert lab(here)["state"] == "up"


def _agents(pid: int) -> list[int]:
    return [one for one in descendants(pid) if "labctl.sandbox.agent" in words_of(one)]
