"""Waiting with a deadline, and commands that end with their block, on guests that are scripts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from labctl.errors import DeadlineError, GuestError, UsageError
from labctl.lab.waiting import background, listening, wait_for_port, wait_until
from labctl.sandbox.process import CommandError, Result


class Job:
    def __init__(self, fault: Exception | None = None) -> None:
        self.fault = fault
        self.output = "what it said"
        self.stopped = 0

    def stop(self) -> None:
        self.stopped += 1
        if self.fault:
            raise self.fault


class Node:
    name = "vm1"

    def __init__(self, *answers: str, job: Job | None = None) -> None:
        self._answers = iter(answers)
        self._last = ""
        self.job = job or Job()
        self.started: list[str] = []

    def run(self, command: str) -> Result:
        assert "2>/dev/null || true" in command
        self._last = next(self._answers, self._last)
        return Result((), 0, self._last, "")

    def start(self, command: str) -> Job:
        self.started.append(command)
        return self.job


def node(*answers: str, job: Job | None = None) -> Any:
    return Node(*answers, job=job)


# --- wait_until ---------------------------------------------------------------------------------


def answers(*values: Any) -> Any:
    """Return a condition that comes to these values in turn; an exception is raised."""
    left: Iterator[Any] = iter(values)

    def condition() -> Any:
        value = next(left)
        if isinstance(value, BaseException):
            raise value
        return value

    return condition


def test_the_first_true_answer_is_returned() -> None:
    assert wait_until("it is there", answers(None, "", 0, "here", 1), every=0) == "here"


def test_a_command_that_fails_means_not_yet() -> None:
    condition = answers(CommandError("exited with 1"), GuestError("no answer"), True)
    assert wait_until("it works", condition, every=0) is True


@pytest.mark.parametrize(
    ("last", "told"),
    [
        (0, "0"),
        (None, "nothing"),
        (False, "off"),
        ("", "''"),
        (CommandError("`false` exited with 1", "read its log"), "`false` exited with 1"),
    ],
)
def test_what_does_not_come_is_told_with_the_last_answer(last: Any, told: str) -> None:
    def condition() -> Any:
        if isinstance(last, Exception):
            raise last
        return last

    with pytest.raises(DeadlineError) as late:
        wait_until("the server answers", condition, within=0.01, every=0.001)
    assert late.value.message == f"the server answers: not within 0.01 s; at last: {told}"
    assert late.value.hint == getattr(last, "hint", "")


def test_it_is_asked_once_more_when_the_time_is_over() -> None:
    asked = []
    with pytest.raises(DeadlineError):
        wait_until("never", lambda: asked.append(1), within=0)
    assert len(asked) == 1
    # It came true during the last pause.
    assert wait_until("late", answers(False, "late"), within=0.01, every=60) == "late"


@pytest.mark.parametrize("fault", [UsageError("no such node"), AssertionError("over"), TypeError()])
def test_what_can_not_come_true_any_more_is_raised_at_once(fault: Exception) -> None:
    with pytest.raises(type(fault)):
        wait_until("it works", answers(fault), within=60)


# --- wait_for_port ------------------------------------------------------------------------------

TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1
   1: 0100000A:0050 0200000A:D431 01 00000000:00000000 00:00000000 00000000     0        0 2
  sl  local_address                         remote_address                        st tx_queue
   0: 00000000000000000000000000000000:1F90 00000000000000000000000000000000:0000 0A 00000000:0
"""
UDP = """\
   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
  12: 00000000:0FA7 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 3 2 0 0
  13: 0100000A:0043 0200000A:0044 01 00000000:00000000 00:00000000 00000000     0        0 4 2 0 0
"""


def test_the_kernels_files_tell_who_listens() -> None:
    assert listening(node(TCP)) == {22, 8080}
    assert listening(node(UDP), "udp") == {4007}
    assert listening(node("")) == set()


@pytest.mark.parametrize("text", ["a b c 0A", "0: 00000000:XYZ 0:0 0A", "\x1b[2J\n" * 9, "0A " * 9])
def test_what_no_kernel_says_is_no_port(text: str) -> None:
    assert listening(node(text)) == set()


def test_a_port_is_waited_for() -> None:
    wait_for_port(node("", TCP), 8080)
    wait_for_port(node(UDP), 4007, protocol="udp")
    with pytest.raises(DeadlineError) as late:
        wait_for_port(node(TCP), 80, within=0.01)
    assert late.value.message == (
        "vm1 listens on TCP port 80: not within 0.01 s; at last: it listens on 22, 8080"
    )


@pytest.mark.parametrize(("port", "protocol"), [(0, "tcp"), (65536, "udp"), (22, "sctp")])
def test_no_port_is_waited_for_that_there_cannot_be(port: int, protocol: Any) -> None:
    with pytest.raises(UsageError, match="no port"):
        wait_for_port(node(), port, protocol=protocol)


# --- background ---------------------------------------------------------------------------------


def test_a_command_ends_with_its_block_and_its_output_stays() -> None:
    fake = Job()
    guest = node(job=fake)
    with background(guest, ["nc", "-l", "-p", "80", "a b"]) as job:
        assert fake.stopped == 0
    assert (fake.stopped, job.output) == (1, "what it said")
    assert guest.started == ["nc -l -p 80 'a b'"]


@pytest.mark.parametrize("fault", [AssertionError("no"), KeyboardInterrupt()])
@pytest.mark.parametrize("stuck", [None, GuestError("vm1 is gone")])
def test_a_command_ends_however_its_block_does_and_the_first_error_counts(
    fault: BaseException, stuck: Exception | None
) -> None:
    job = Job(stuck)
    with pytest.raises(type(fault)), background(node(job=job), "sleep 300"):
        raise fault
    assert job.stopped == 1


def test_a_command_that_does_not_end_is_told() -> None:
    with (
        pytest.raises(GuestError, match="vm1 is gone"),
        background(node(job=Job(GuestError("vm1 is gone"))), "sleep 300"),
    ):
        pass
