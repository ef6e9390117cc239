"""The agent's protocol, in the namespaces of the test itself: calls, events, errors, ends."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import agent_side
import pytest

from labctl.errors import DeadlineError, HostError, LabctlError
from labctl.events import Event
from labctl.world.agent import AgentError, packed
from labctl.world.base import Process
from labctl.world.client import Agent
from labctl.world.deadline import Deadline
from labctl.world.process import CommandError

WAIT = [sys.executable, "-I", "-S", "-c", "import sys; sys.stdin.read()"]


@pytest.fixture
def agent() -> Iterator[Agent]:
    started = Agent.ahead([])
    yield started
    started.close()


@pytest.fixture
def taught(agent: Agent) -> Agent:
    """An agent that can import this folder's modules."""
    agent.call(exec, f"import sys; sys.path.append({str(Path(__file__).parent)!r})")
    return agent


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
    assert agent.call(os.getpid) != os.getpid()
    assert agent.call(os.path.join, "a", "b") == "a/b"


def test_calls_take_positional_arguments_only(agent: Agent) -> None:
    with pytest.raises(TypeError):
        agent.call(int, "1", base=2)


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
        agent.call(os.listdir, "/no/such/folder")
    assert "LABCTL_DEBUG" in told.value.hint
    assert told.value.detail == ""  # a user is shown the detail
    assert "Traceback" in "".join(told.value.__notes__)


def test_even_an_exit_inside_is_only_that_calls_error(agent: Agent) -> None:
    with pytest.raises(AgentError, match="SystemExit"):
        agent.call(sys.exit, 3)
    assert agent.call(abs, -1) == 1


def test_a_value_that_cannot_be_pickled_fails_its_call_and_no_other(agent: Agent) -> None:
    error = within(20, lambda: agent.call(threading.Lock))
    assert isinstance(error, AgentError)
    assert agent.call(abs, -1) == 1


def test_a_function_that_is_unknown_inside_fails_its_call_and_no_other(
    agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "of_the_users_own.py").write_text("def f(): return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    module = __import__("of_the_users_own")
    error = within(20, lambda: agent.call(module.f))
    assert isinstance(error, AgentError)
    assert "of_the_users_own" in str(error)
    assert agent.call(abs, -1) == 1


def test_a_function_that_cannot_be_named_is_refused_here(agent: Agent) -> None:
    with pytest.raises((AttributeError, pickle.PicklingError), match=r"lambda|local"):
        agent.call(lambda: 1)
    assert agent.call(abs, -1) == 1


def test_events_arrive_in_order_before_the_value(taught: Agent) -> None:
    seen: list[str] = []
    value = taught.call_with_events(
        agent_side.count, "abc", emit=lambda event: seen.append(event.subject)
    )
    assert (value, seen) == (3, ["a", "b", "c"])


def test_a_listener_that_fails_fails_its_call_and_no_other(taught: Agent) -> None:
    def emit(_event: Event) -> None:
        raise BrokenPipeError("nobody reads the progress")

    def body() -> object:
        return taught.call_with_events(agent_side.count, "abc", emit=emit)

    assert isinstance(within(20, body), BrokenPipeError)
    assert within(20, lambda: taught.call(abs, -1)) is None


def test_an_error_that_does_not_survive_pickling_is_told_all_the_same(taught: Agent) -> None:
    with pytest.raises(AgentError, match="StubbornError: stubborn as a mule"):
        taught.call(agent_side.stubborn)


def test_a_full_disk_inside_is_told_as_that(taught: Agent) -> None:
    with pytest.raises(HostError, match="No space left on device") as told:
        taught.call(agent_side.fill)
    assert "free some space" in told.value.hint


def test_an_answer_that_cannot_be_read_leaves_nobody_waiting(taught: Agent) -> None:
    error = within(20, lambda: taught.call(agent_side.poison))
    assert isinstance(error, LabctlError)
    assert "no number" in str(error)
    assert isinstance(within(20, lambda: taught.call(abs, -1)), LabctlError)


def test_many_threads_get_their_own_answers(taught: Agent) -> None:
    with ThreadPoolExecutor(50) as pool:
        assert list(pool.map(lambda n: taught.call(agent_side.same, n), range(500))) == [
            *range(500)
        ]


def test_a_slow_call_does_not_hold_up_a_quick_one(agent: Agent) -> None:
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(agent.run, ["sleep", "1000"], Deadline(1, "sleeping"))
        assert agent.call(abs, -1) == 1
        assert not slow.done()
        with pytest.raises(DeadlineError):
            slow.result()


def children(pid: int) -> list[int]:
    lists = Path(f"/proc/{pid}/task").glob("*/children")  # each thread has its own
    return [int(child) for one in lists for child in one.read_text().split()]


def test_callers_hear_of_an_agent_that_was_killed(agent: Agent) -> None:
    pid = agent.call(os.getpid)
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
            assert "went down" in str(error)
    for child in found:
        os.kill(child, signal.SIGKILL)
    with pytest.raises(LabctlError, match="the lab is down"):
        agent.call(abs, -1)


def test_a_closed_agent_is_gone_and_says_so() -> None:
    agent = Agent.ahead([])
    pid = agent.call(os.getpid)
    agent.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(LabctlError, match="the lab is down"):
        agent.call(abs, -1)
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


def test_what_is_sent_names_no_module_that_another_python_lacks(agent: Agent) -> None:
    here = Path("/tmp/x y")
    sent = packed({"here": [here]})
    assert b"pathlib" not in sent, "in 3.13 it is pathlib._local, which 3.11 has not"
    assert pickle.loads(sent) == {"here": [here]}
    assert agent.call(Path.joinpath, here, "z") == here / "z"
