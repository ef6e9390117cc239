"""An agent that is started before its sandbox: it enters by itself, and outlives nothing."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from labctl.errors import LabctlError
from labctl.sandbox import client, paths
from labctl.sandbox.client import Agent
from labctl.sandbox.deadline import Deadline
from labctl.sandbox.namespaces import Namespaces

pytestmark = pytest.mark.integration


KINDS = ["net", "mnt", "pid", "user"]


def namespaces(agent: Agent) -> list[str]:
    words = ["readlink", *(f"/proc/self/ns/{kind}" for kind in KINDS)]
    return agent.run(words, Deadline(20, "a test")).stdout.split()


def told(agent: Agent, line: str) -> str:
    """Return what a shell says whose parent is the agent."""
    return agent.run(["sh", "-c", line], Deadline(20, "a test")).stdout


def pid(agent: Agent) -> int:
    return int(told(agent, "echo $PPID"))


@pytest.fixture(params=["forked", "started anew"])
def agent(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Agent]:
    threads = 1 if request.param == "forked" else 2
    monkeypatch.setattr(client, "_threads", lambda: threads)
    started = Agent.ahead(["labctl.network.links", "libvirt"])
    monkeypatch.undo()
    yield started
    started.close()


@pytest.fixture
def sandbox(agent: Agent) -> Iterator[Namespaces]:
    with tempfile.TemporaryDirectory(prefix=".t-", dir=paths.runtime()) as parent:
        made = Namespaces.create(Path(parent) / "w", agent)
        yield made
        made.end()


def test_it_works_in_the_sandbox_like_one_that_was_let_in(
    sandbox: Namespaces, agent: Agent
) -> None:
    assert sandbox.agent() is agent
    later, outside = sandbox._start_agent(), Agent.ahead([])
    try:
        assert namespaces(agent) == namespaces(later)
        assert namespaces(agent)[0] != namespaces(outside)[0]
    finally:
        later.close()
        outside.close()


def test_its_children_have_pids_of_the_sandbox(sandbox: Namespaces, agent: Agent) -> None:
    told = agent.run(["sh", "-c", "echo $PPID; readlink /proc/self"], Deadline(20, "a test"))
    parent, child = (int(word) for word in told.stdout.split())
    assert parent == pid(agent)
    assert sandbox.runs(parent)
    assert child > parent > 1


def test_it_has_imported_what_it_was_told_to(sandbox: Namespaces, agent: Agent) -> None:
    assert sandbox.agent() is agent
    assert "/libvirtmod." in told(agent, "cat /proc/$PPID/maps")


def test_it_takes_nothing_along_from_who_started_it(sandbox: Namespaces, agent: Agent) -> None:
    assert sandbox.agent() is agent
    assert "PYTEST" not in agent.run(["env"], Deadline(20, "a test")).stdout
    for mask in told(agent, "sed -nE 's/^Sig(Ign|Cgt)://p' /proc/$PPID/status").split():
        assert not int(mask, 16) & 1 << signal.SIGTERM - 1
    # Asked from here: in a namespace of processes a session from outside has no number.
    assert os.getsid(agent._process.pid) == agent._process.pid


def test_it_ends_with_the_sandbox(sandbox: Namespaces, agent: Agent) -> None:
    pid(agent)
    sandbox_agent, sandbox._agent = sandbox._agent, None  # so that `end` finds it at work
    assert sandbox_agent is agent
    sandbox.end()
    with pytest.raises(LabctlError, match="the lab"):
        pid(agent)
    assert agent._process.wait(20) != 0


def test_it_goes_when_no_sandbox_is_made(agent: Agent) -> None:
    agent.close()
    assert agent._process.returncode == 0
