"""The near end of an agent: calls to functions that run inside a world."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

from labctl.errors import LabctlError
from labctl.events import Emit
from labctl.world import agent
from labctl.world.agent import AgentError, Enter, Reply, Request
from labctl.world.deadline import Deadline
from labctl.world.process import WATCH_SECONDS, Result, environment, run

P = ParamSpec("P")
T = TypeVar("T")


class _Forked:
    """A copy of this process that does something else and ends: what Popen is for a program."""

    def __init__(self, target: Callable[[], None]) -> None:
        self._process = get_context("fork").Process(target=target, daemon=True)
        self._process.start()
        self.pid = cast("int", self._process.pid)

    @property
    def returncode(self) -> int | None:
        """The exit status, or None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; raises `subprocess.TimeoutExpired`."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("labctl", timeout or 0)
        return self._process.exitcode

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()


class Agent:
    """An agent process and the calls under way to it; safe to use from several threads."""

    def __init__(
        self,
        process: subprocess.Popen[bytes] | _Forked,
        line: socket.socket,
        why_closed: Callable[[], str] = lambda: "",
    ) -> None:
        """Hold an agent that serves at the other end of `line`; `start` and `ahead` make one.

        `why_closed` tells more when the agent ends of its own accord.
        """
        self._process = process
        self._why_closed = why_closed
        self._socket = line
        self._connection = Connection(os.dup(line.fileno()))
        self._sending = threading.Lock()
        self._numbers = itertools.count()
        self._waiting: dict[int, tuple[Future[object], Emit | None]] = {}
        self._closed = False
        self._why = ""
        threading.Thread(target=self._receive, daemon=True, name="labctl-agent").start()

    @classmethod
    def start(cls, words: Sequence[str], why_closed: Callable[[], str] = lambda: "") -> Agent:
        """Start an agent by the words of its command.

        They may lead through other programs, such as ssh, that hand on standard input and output.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                words,
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                env=environment(),
                start_new_session=True,
            )
        return cls(process, ours, why_closed)

    @classmethod
    def ahead(cls, modules: Sequence[str]) -> Agent:
        """Start one outside that imports `modules` and does nothing else before `enter_world`.

        It is forked off this process where that has one thread, and started anew where it has more,
        of Python's or a library's: a lock that another one holds would stay locked in a copy.
        """
        if _threads() > 1:
            return cls.start([sys.executable, "-P", "-m", agent.__name__, *modules])
        ours, theirs = socket.socketpair()
        with theirs:
            return cls(_Forked(lambda: agent.begin_forked(theirs, ours, modules)), ours)

    def enter_world(self, pid: int, user: bool) -> None:
        """Let an agent that was started ahead enter the world of this PID 1."""
        with self._sending, contextlib.suppress(OSError):  # a dead agent shows at the first call
            self._connection.send(Enter(pid, user))

    def _receive(self) -> None:
        why = "the lab went down meanwhile"
        try:
            while True:
                self._take(self._connection.recv())
        except (EOFError, OSError):
            pass
        except Exception as error:
            why = f"what a lab's agent answered cannot be read: {type(error).__name__}: {error}"
        # Whatever ended it: nobody may wait for an answer that cannot come.
        self._closed = True
        self._why = self._why_closed()
        why = self._why or why
        for future, _ in list(self._waiting.values()):
            future.set_exception(LabctlError(why, "run: labctl status"))

    def _take(self, reply: Reply) -> None:
        if reply.number not in self._waiting:
            return  # its caller has failed already
        future, emit = self._waiting[reply.number]
        if reply.event is not None:
            try:
                if emit:
                    emit(reply.event)
            except Exception as error:  # the listener's fault, told to the one who brought it
                del self._waiting[reply.number]
                future.set_exception(error)
            return
        del self._waiting[reply.number]
        if reply.error is not None:
            future.set_exception(reply.error)
        else:
            future.set_result(reply.value)

    def _submit(
        self, function: Callable[..., object], args: tuple[Any, ...], emit: Emit | None
    ) -> Future[object]:
        future: Future[object] = Future()
        call = agent.packed((function, args))
        number = next(self._numbers)
        self._waiting[number] = (future, emit)
        try:
            if self._closed:
                raise OSError
            with self._sending:
                self._connection.send(Request(number, call, emit is not None))
        except OSError:
            self._waiting.pop(number, None)
            raise LabctlError(self._why or "the lab is down", "run: labctl status") from None
        return future

    def begin(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[object]:
        """Like `call`, but return at once; what comes of it is in the future."""
        if kwargs:
            raise TypeError("functions called inside a world take positional arguments only")
        return self._submit(function, args, None)

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a module-level function inside and return its result; its errors are raised here."""
        return self._result(self.begin(function, *args, **kwargs))

    def call_with_events(self, function: Callable[..., T], *args: object, emit: Emit) -> T:
        """Like `call`, for a function that takes `emit=` and reports progress while it runs."""
        return self._result(self._submit(function, args, emit))

    @staticmethod
    def _result(future: Future[object]) -> T:  # type: ignore[type-var]
        try:
            return cast("T", future.result())
        except AgentError as fault:
            # The traceback from inside is for a developer, not for the page a user reads.
            fault.add_note(fault.detail)
            fault.detail = ""
            fault.hint = fault.hint or "LABCTL_DEBUG=1 shows where it happened"
            raise

    def run(
        self,
        argv: Sequence[str],
        deadline: Deadline,
        *,
        stdin: bytes = b"",
        check: bool = True,
        watch: Callable[[], None] | None = None,
    ) -> Result:
        """Run a program inside to its end; see `labctl.world.process.run`.

        `watch` is called here, outside. Where it raises, the program goes on until its deadline.
        """
        future = self._submit(_run, (tuple(argv), deadline, stdin, check), None)
        while watch and not wait([future], WATCH_SECONDS).done:
            watch()
        return self._result(future)

    def close(self) -> None:
        """End the agent: it sees the socket close and goes."""
        with contextlib.suppress(OSError):
            # Not close(): the receiving thread holds the socket, and only this wakes it.
            self._socket.shutdown(socket.SHUT_RDWR)
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._socket.close()


def _threads() -> int:
    """Count the threads of this process, also those that Python does not know of."""
    return sum(1 for _ in Path("/proc/self/task").iterdir())


def _run(argv: tuple[str, ...], deadline: Deadline, stdin: bytes, check: bool) -> Result:
    return run(argv, deadline=deadline, stdin=stdin, check=check)
