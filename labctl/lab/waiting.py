"""Steps that wait, each with a deadline, and a command that ends with its `with` block."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, TypeVar

from labctl.errors import DeadlineError, GuestError, LabctlError, UsageError, shown
from labctl.lab.node import Job, Node
from labctl.sandbox.deadline import Deadline

T = TypeVar("T")

WAIT_SECONDS = 60.0
LOOK_SECONDS = 0.1

Protocol = Literal["tcp", "udp"]
_WAITING = {"tcp": "0A", "udp": "07"}
"""The state of a socket that waits for anybody: TCP_LISTEN, and of UDP TCP_CLOSE, as it is in the
files of proc_pid_net(5) (include/net/tcp_states.h)."""


def wait_until(
    what: str,
    condition: Callable[[], T],
    *,
    within: float = WAIT_SECONDS,
    every: float = LOOK_SECONDS,
) -> T:
    """Call `condition` until it returns something true, and return that.

    It is called every `every` seconds, at least once. A `LabctlError` from it means *not yet*, such
    as from a command in a guest that exits with other than 0; a `UsageError` and what is none of
    labctl's are raised at once. Raises `DeadlineError` after `within` seconds, with `what` and what
    the condition came to last. A call that takes long is not cut short.
    """
    deadline = Deadline(within, what)
    while True:
        hint = ""
        try:
            value = condition()
        except UsageError:
            raise
        except LabctlError as error:
            last, hint = error.message, error.hint
        else:
            if value:
                return value
            last = shown(value)
        if deadline.passed:
            raise DeadlineError(f"{what}: not within {within:g} s; at last: {last}", hint)
        with contextlib.suppress(DeadlineError):  # one last look, so that its answer is the newest
            deadline.pause(every)


def wait_for_port(
    node: Node, port: int, *, protocol: Protocol = "tcp", within: float = WAIT_SECONDS
) -> None:
    """Wait until a program in a guest listens on a port, on whatever address.

    The guest's own kernel is asked (/proc/net/tcp and its like), so nothing is sent that a capture
    or a counter would show. For UDP that is a socket that is bound and not connected. Raises
    `UsageError` for what is no port, `DeadlineError` after `within` seconds.
    """
    if protocol not in _WAITING or not 0 < port < 1 << 16:
        raise UsageError(
            f"there is no port {shown(port)} of {shown(protocol)}",
            "ports of tcp or udp: 1 to 65535",
        )
    name = protocol.upper()

    def listens() -> bool:
        ports = listening(node, protocol)
        if port not in ports:
            known = ", ".join(map(str, sorted(ports)[:20]))
            raise GuestError(f"it listens on {known or 'none'}")
        return True

    wait_until(f"{node.name} listens on {name} port {port}", listens, within=within)


def listening(node: Node, protocol: Protocol = "tcp") -> set[int]:
    """Return the ports on which programs in a guest listen."""
    text = node.run(f"cat /proc/net/{protocol} /proc/net/{protocol}6 2>/dev/null || true").stdout
    found = set()
    for line in text.splitlines():
        words = line.split()
        if len(words) > 3 and words[3] == _WAITING[protocol]:
            _, colon, number = words[1].rpartition(":")
            if colon and re.fullmatch("[0-9A-F]{4}", number):  # else no line of that file
                found.add(int(number, 16))
    return found


@contextlib.contextmanager
def background(node: Node, command: str | Sequence[str]) -> Iterator[Job]:
    """Run a command in a guest for the length of a `with` block; it is ended there in any case.

    The command is one program with its words; for a pipe or a list write `sh -c '…'`. Gives the
    job: its `output` and `errors` so far, also afterwards, and `poll()`, its exit status or None.
    Raises what `Node.start` and `Job.stop` raise; an error in the block comes first.
    """
    job = node.start(command if isinstance(command, str) else shlex.join(command))
    try:
        yield job
    except BaseException:
        with contextlib.suppress(LabctlError):
            job.stop()
        raise
    job.stop()
