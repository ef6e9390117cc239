"""The agent's protocol, in the namespaces of the test itself: calls, events, errors, ends."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import agent_side
import pytest

from labctl.errors import DeadlineError, HostError, LabctlError, UsageError
from labctl.events import Event
from labctl.guests import boot_probe, driver, spec, xen
from labctl.network import features, links
from labctl.routers import namespace
from labctl.sandbox import codec, remote
from labctl.sandbox.base import Process
from labctl.sandbox.client import Agent
from labctl.sandbox.deadline import Deadline
from labctl.sandbox.process import CommandError
from labctl.sandbox.remote import AgentError

WAIT = [sys.executable, "-I", "-S", "-c", "import sys; sys.stdin.read()"]


@pytest.fixture
def agent() -> Iterator[Agent]:
    started = Agent.start(agent_side.WORDS)
    yield started
    started.close()


def soon() -> Deadline:
    return Deadline(20, "a test")


def within(seconds: float, body: Callable[[], object]) -> BaseException | None:
    """Run `body` in a thread; return what it raised. A hang fails the test instead of the run."""
    raised: list[BaseException | None] = []

    def guarded() -> None:
        try:
            body()
        except BaseException as error:
            raised.append(error)
        else:
            raised.append(None)

    thread = threading.Thread(target=guarded, daemon=True)
    thread.start()
    thread.join(seconds)
    assert raised, "it hangs"
    return raised[0]


def test_a_call_runs_in_another_process_and_returns_its_value(agent: Agent) -> None:
    assert agent.call(agent_side.pid) != os.getpid()
    thing = agent_side.Thing("x y", Path("/tmp/x y"))
    assert agent.call(agent_side.below, thing, "a") == agent_side.Thing("X Y", thing.file / "a")
    assert agent.call(agent_side.below, thing).file == thing.file / "z"


def test_calls_take_positional_arguments_only(agent: Agent) -> None:
    with pytest.raises(TypeError):
        agent.call(agent_side.same, value=1)


def test_errors_of_labctl_arrive_as_they_are(agent: Agent) -> None:
    with pytest.raises(HostError, match="no-such-program") as told:
        agent.run(["no-such-program"], soon())
    assert told.value.hint
    with pytest.raises(CommandError, match="exited with 1"):
        agent.run(["false"], soon())
    assert agent.run(["false"], soon(), check=False).status == 1
    assert agent.run(["cat"], soon(), stdin=b"through").stdout == "through"


def test_a_deadline_counts_inside_too(agent: Agent) -> None:
    with pytest.raises(DeadlineError, match="a stage took longer"):
        agent.run(["sleep", "1000"], Deadline(0.2, "a stage"))


def test_other_errors_become_one_line_with_the_traceback_as_a_note(agent: Agent) -> None:
    with pytest.raises(AgentError, match=r"FileNotFoundError: .*/no/such/folder") as told:
        agent.call(agent_side.listed, Path("/no/such/folder"))
    assert "LABCTL_DEBUG" in told.value.hint
    assert told.value.detail == ""  # a user is shown the detail
    assert "Traceback" in "".join(told.value.__notes__)


def test_even_an_exit_inside_is_only_that_calls_error(agent: Agent) -> None:
    with pytest.raises(AgentError, match="SystemExit"):
        agent.call(agent_side.leave, 3)
    assert agent.call(agent_side.same, 1) == 1


@pytest.mark.parametrize("function", [agent_side.lock, agent_side.lie])
def test_a_value_that_is_not_what_its_function_says_fails_its_call_and_no_other(
    agent: Agent, function: Callable[[], object]
) -> None:
    error = within(20, lambda: agent.call(function))
    assert isinstance(error, AgentError)
    assert f"agent_side:{function.__name__} returned what it should not" in str(error)
    assert agent.call(agent_side.same, 1) == 1


def test_a_value_that_is_too_long_to_be_sent_fails_its_call_and_no_other(agent: Agent) -> None:
    error = within(20, lambda: agent.call(agent_side.long, 1 << 20))
    assert isinstance(error, AgentError)
    assert "more than the" in str(error)
    assert agent.call(agent_side.same, 1) == 1


def test_a_function_that_is_unknown_inside_fails_its_call_and_no_other() -> None:
    # It has not imported it, and imports what is labctl's only.
    agent = Agent.start([sys.executable, "-P", "-m", "labctl.sandbox.agent"])
    try:
        error = within(20, lambda: agent.call(agent_side.pid))
        assert isinstance(error, AgentError)
        assert "agent_side:pid is no function that may be called here" in str(error)
        assert agent.run(["true"], soon()).ok
    finally:
        agent.close()


@pytest.mark.parametrize(
    "function", [lambda: 1, os.getpid, exec, agent_side.unmarked, Path.unlink, int]
)
def test_a_function_that_is_not_marked_is_refused_here(
    agent: Agent, function: Callable[..., object]
) -> None:
    with pytest.raises(TypeError, match="not marked as remote"):
        agent.call(function)
    assert agent.call(agent_side.same, 1) == 1


@pytest.mark.parametrize(
    "name",
    [
        "os:getpid", "builtins:exec", "agent_side:unmarked", "agent_side:Path.unlink", "pid", "",
        "labctl.sandbox.agent:os.kill", "labctl.sandbox.process:run", "labctl.none:f",
    ],
)  # fmt: skip
def test_a_function_that_is_not_marked_is_refused_inside_too(
    agent: Agent, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "name_of", lambda _: name)
    monkeypatch.setattr(remote, "written", lambda *_: [])
    with pytest.raises(AgentError, match=r"may be called here|No module named"):
        agent.call(agent_side.pid)


@pytest.mark.parametrize("args", [[], [1, 2], ["1"], [None], [True]])
def test_arguments_that_a_function_does_not_take_are_refused_on_both_sides(
    agent: Agent, args: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TypeError, match="agent_side:same"):
        agent.call(agent_side.same, *args)
    monkeypatch.setattr(remote, "written", lambda *_: args)
    with pytest.raises(AgentError, match=r"argument|should stand here"):
        agent.call(agent_side.same, *args)


def test_events_arrive_in_order_before_the_value(agent: Agent) -> None:
    seen: list[str] = []
    value = agent.call_with_events(
        agent_side.count, "abc", emit=lambda event: seen.append(event.subject)
    )
    assert (value, seen) == (3, ["a", "b", "c"])


def test_a_listener_that_fails_fails_its_call_and_no_other(agent: Agent) -> None:
    def emit(_event: Event) -> None:
        raise BrokenPipeError("nobody reads the progress")

    def body() -> object:
        return agent.call_with_events(agent_side.count, "abc", emit=emit)

    assert isinstance(within(20, body), BrokenPipeError)
    assert within(20, lambda: agent.call(agent_side.same, 1)) is None


def test_an_error_that_only_its_module_knows_arrives_as_what_it_is_a_kind_of(agent: Agent) -> None:
    with pytest.raises(UsageError, match="a mistake of the user's") as told:
        agent.call(agent_side.own)
    assert type(told.value) is UsageError
    assert (told.value.hint, told.value.detail) == ("do it another way", "some\nlines")


def test_an_errors_words_cannot_steer_a_terminal(agent: Agent) -> None:
    with pytest.raises(LabctlError) as told:
        agent.call(agent_side.plain_error)
    assert told.value.message == "up\\x1b[2J and down"
    assert "\x1b" not in told.value.hint + told.value.detail


def test_a_full_disk_inside_is_told_as_that(agent: Agent) -> None:
    with pytest.raises(HostError, match="No space left on device") as told:
        agent.call(agent_side.fill)
    assert "free some space" in told.value.hint


def test_many_threads_get_their_own_answers(agent: Agent) -> None:
    with ThreadPoolExecutor(50) as pool:
        assert list(pool.map(lambda n: agent.call(agent_side.same, n), range(500))) == [*range(500)]


def test_a_slow_call_does_not_hold_up_a_quick_one(agent: Agent) -> None:
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(agent.run, ["sleep", "1000"], Deadline(1, "sleeping"))
        assert agent.call(agent_side.same, 1) == 1
        assert not slow.done()
        with pytest.raises(DeadlineError):
            slow.result()


def children(pid: int) -> list[int]:
    lists = Path(f"/proc/{pid}/task").glob("*/children")  # each thread has its own
    return [int(child) for one in lists for child in one.read_text().split()]


def test_callers_hear_of_an_agent_that_was_killed(agent: Agent) -> None:
    pid = agent.call(agent_side.pid)
    with ThreadPoolExecutor(4) as pool:
        waiting = [
            pool.submit(within, 20, lambda: agent.run(["sleep", "1000"], Deadline(1000, "x")))
            for _ in range(4)
        ]
        while len(found := children(pid)) < 4:
            time.sleep(0.01)
        os.kill(pid, signal.SIGKILL)
        for one in waiting:
            error = one.result()
            assert isinstance(error, LabctlError)
            assert "has ended" in str(error)
    for child in found:
        os.kill(child, signal.SIGKILL)
    with pytest.raises(LabctlError, match="the agent that works in the lab has ended"):
        agent.call(agent_side.same, 1)


def test_a_closed_agent_is_gone_and_says_so() -> None:
    agent = Agent.start(agent_side.WORDS)
    pid = agent.call(agent_side.pid)
    agent.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(LabctlError, match="the agent that works in the lab has ended"):
        agent.call(agent_side.same, 1)
    agent.close()


# --- programs that go on ------------------------------------------------------------------------


def start(agent: Agent, folder: Path, argv: list[str], detached: bool = False) -> Process:
    out, err = folder / "out", folder / "err"
    return Process.start(agent, argv, stdout=out, stderr=err, detached=detached)


def test_a_program_ends_when_its_input_does(agent: Agent, tmp_path: Path) -> None:
    program = start(agent, tmp_path, WAIT)
    assert program.poll() is None
    assert program.finish(soon()) == 0


def test_a_finished_program_still_tells_its_status(agent: Agent, tmp_path: Path) -> None:
    program = start(agent, tmp_path, ["false"])
    assert program.finish(soon()) == 1
    assert program.poll() == 1
    assert program.finish(soon()) == 1


def test_a_program_that_ignores_its_input_is_killed_at_the_deadline(
    agent: Agent, tmp_path: Path
) -> None:
    program = start(agent, tmp_path, ["sleep", "1000"])
    with pytest.raises(DeadlineError, match="did not end"):
        program.finish(Deadline(0.1, "ending it"))
    with pytest.raises(ProcessLookupError):
        os.kill(program.pid, 0)


def test_programs_end_with_the_agent_unless_detached(tmp_path: Path) -> None:
    agent = Agent.ahead([])
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    tied = start(agent, tmp_path / "a", WAIT)
    detached = start(agent, tmp_path / "b", ["sleep", "1000"], detached=True)
    agent.close()
    try:
        state = Path(f"/proc/{tied.pid}/stat")
        limit = soon()
        while state.exists() and state.read_text().rpartition(")")[2].split()[0] not in "ZX":
            limit.pause(0.01)
        os.kill(detached.pid, 0)
    finally:
        os.kill(detached.pid, signal.SIGKILL)


def test_signalling_a_program_that_is_gone_is_no_error(agent: Agent, tmp_path: Path) -> None:
    program = start(agent, tmp_path, ["sleep", "1000"])
    program.kill(signal.SIGKILL)
    assert program.finish(soon()) == -signal.SIGKILL
    program.kill()


def test_output_goes_to_its_files(agent: Agent, tmp_path: Path) -> None:
    program = start(agent, tmp_path, ["sh", "-c", "echo one; echo two >&2"])
    program.finish(soon())
    assert (tmp_path / "out").read_text() == "one\n"
    assert (tmp_path / "err").read_text() == "two\n"


def test_a_program_that_is_missing_is_one_line(agent: Agent, tmp_path: Path) -> None:
    with pytest.raises(LabctlError, match="no-such-program"):
        start(agent, tmp_path, ["no-such-program"])


# --- what may be called -------------------------------------------------------------------------


def test_everything_that_may_be_called_says_what_is_sent() -> None:
    for module in (boot_probe, driver, xen, features, links, namespace):
        assert module.__name__ in {name.partition(":")[0] for name in remote._functions}
    ours = [name for name in remote._functions if name.startswith("labctl.")]
    assert len(ours) > 25
    for name in ours:
        known = remote.signature(name)
        for kind in (*known.args, known.result):
            codec.form(kind)


def test_what_starts_a_xen_guest_comes_as_it_was_sent() -> None:
    nic = spec.Nic("eth0", "vm1-eth0", "02:00:00:00:00:01", "xen", {"csum": False})
    guest = spec.Guest(
        name="vm1", domain="lab-vm1", memory=96, vcpus=1, kernel=Path("/k"), initramfs=Path("/i"),
        cmdline="quiet", nics=(nic,), console=Path("/c"), log=Path("/l"),
        dom0=spec.Dom0(Path("/d"), ""), drives=(Path("/k"),),
    )  # fmt: skip
    one = xen.XenGuest(guest, {"vm1-eth0": "lan"}, "host vm1\n", {Path("/k"): "/boot/k"})
    host = xen.XenHost("xen1", Path("/lab"), Path("/lab/log"))
    name = remote.name_of(xen.start)
    args = remote.written(name, (host, [one], "lab"))
    assert remote.given(name, json.loads(codec.text(args))) == [host, [one], "lab"]
