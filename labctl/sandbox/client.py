"""The near end of an agent: calls to functions that run inside a sandbox."""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec, TypeVar, cast

from labctl.errors import DeadlineError, LabctlError
from labctl.events import Emit
from labctl.sandbox import agent, codec, remote
from labctl.sandbox.agent import Enter
from labctl.sandbox.deadline import Deadline
from labctl.sandbox.framing import FrameError, Line
from labctl.sandbox.process import WATCH_SECONDS, Result, environment
from labctl.sandbox.remote import AgentError, Reply, Request

P = ParamSpec("P")
T = TypeVar("T")

CLOSED = "the agent that works in the lab has ended"
CLOSING_SECONDS = 5.0
"""How long to wait for the reason that a line has broken."""


class _Forked:
    """A copy of this process that does something else and ends: what Popen is for a program."""

    def __init__(self, target: Callable[[], None]) -> None:
        self.pid = os.fork()
        self.returncode: int | None = None
        """The exit status, once waited for."""
        if self.pid == 0:
            try:
                target()
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)  # the end of what it is a copy of is not its own

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; raises `subprocess.TimeoutExpired`."""
        if self.returncode is None:
            handle = os.pidfd_open(self.pid)
            try:
                if not select.select([handle], [], [], timeout)[0]:
                    raise subprocess.TimeoutExpired("labctl", timeout or 0)
            finally:
                os.close(handle)
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode

    def kill(self) -> None:
        """End it at once."""
        if self.returncode is None:
            os.kill(self.pid, signal.SIGKILL)


class Other(NamedTuple):
    """Who is at the other end, for what is said of it."""

    name: str = "the lab's agent"
    hint: str = "run: labctl status"
    """What to do where its answers make no sense."""
    patience: float | None = None
    """Seconds after which a call is given up, beside what it may take itself; for a stranger."""


class _Waiting(NamedTuple):
    """A call under way."""

    future: Future[object]
    function: str
    emit: Emit | None


class Agent:
    """An agent process and the calls under way to it; safe to use from several threads."""

    def __init__(
        self,
        process: subprocess.Popen[bytes] | _Forked,
        line: socket.socket,
        why_closed: Callable[[], str] = lambda: "",
        other: Other = Other(),  # noqa: B008 - it is a tuple
    ) -> None:
        """Hold an agent that serves at the other end of `line`; `start` and `ahead` make one.

        `why_closed` tells more when the agent ends of its own accord.
        """
        self._process = process
        self.why_closed = why_closed
        self._other = other
        self._socket = line
        if other.patience:
            # It may read nothing, and then nobody could send to it (socket(7), SO_SNDTIMEO).
            limit = struct.pack("ll", int(other.patience) or 1, 0)
            line.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        handle = os.dup(line.fileno())
        self._line = Line(handle, handle)
        self._sending = threading.Lock()
        self._numbers = itertools.count()
        self._waiting: dict[int, _Waiting] = {}
        self._closed = False
        self._why = ""
        self._receiver = threading.Thread(target=self._receive, daemon=True, name="labctl-agent")
        self._receiver.start()

    @classmethod
    def start(
        cls,
        words: Sequence[str],
        why_closed: Callable[[], str] = lambda: "",
        other: Other = Other(),  # noqa: B008 - it is a tuple
    ) -> Agent:
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
        return cls(process, ours, why_closed, other)

    @classmethod
    def ahead(cls, modules: Sequence[str]) -> Agent:
        """Start one outside that imports `modules` and does nothing else before `enter_sandbox`.

        It is forked off this process where that has one thread, and started anew where it has more,
        of Python's or a library's: a lock that another one holds would stay locked in a copy.
        """
        if _threads() > 1:
            return cls.start([sys.executable, "-P", "-m", agent.__name__, *modules])
        ours, theirs = socket.socketpair()
        with theirs:
            return cls(_Forked(lambda: agent.begin_forked(theirs, ours, modules)), ours)

    def enter_sandbox(self, pid: int, user: bool) -> None:
        """Let an agent that was started ahead enter the sandbox of this PID 1."""
        with self._sending, contextlib.suppress(OSError):  # a dead agent shows at the first call
            if not self._closed:
                self._line.send(codec.dumps(Enter(pid, user), Enter))

    def _receive(self) -> None:
        why, hint = CLOSED, "run: labctl status"
        told = False
        try:
            while True:
                self._take(codec.loads(self._line.receive(), Reply))
        except (EOFError, OSError):
            pass
        except (FrameError, codec.CodecError) as wrong:
            why = f"{self._other.name} does not answer as an agent of labctl does: {wrong}"
            hint, told = self._other.hint, True
        except Exception as error:
            why = (
                f"an answer of {self._other.name} cannot be taken: {type(error).__name__}: {error}"
            )
            told = True
        # Whatever ended it: nobody may wait for an answer that cannot come.
        self._shut()  # it may go on sending
        if told:
            self._why = why
        elif not self._closed:
            self._why = self._why or self.why_closed() or why
        why = self._why or why
        with self._sending:  # nobody may send on a number that the next file gets
            self._closed = True
            self._line.close()
        for one in list(self._waiting.values()):
            one.future.set_exception(LabctlError(why, hint))

    def _take(self, reply: Reply) -> None:
        waiting = self._waiting.get(reply.number)
        if waiting is None:
            return  # its caller has failed already
        future, function, emit = waiting
        if reply.event is not None:
            try:
                if emit:
                    emit(reply.event)
            except Exception as error:  # the listener's fault, told to the one who brought it
                self._waiting.pop(reply.number, None)
                future.set_exception(error)
            return
        self._waiting.pop(reply.number, None)
        try:
            if reply.error is not None:
                future.set_exception(remote.error_of(reply.error))
            else:
                future.set_result(codec.read(reply.value, remote.signature(function).result))
        except codec.CodecError as wrong:
            why = f"{self._other.name} answered {function} with what is no answer: {wrong}"
            future.set_exception(LabctlError(why, self._other.hint))

    def _submit(
        self, function: Callable[..., object], args: tuple[Any, ...], emit: Emit | None
    ) -> Future[object]:
        future: Future[object] = Future()
        name = remote.name_of(function)
        number = next(self._numbers)
        request = Request(number, name, remote.written(name, args), emit is not None)
        data = codec.dumps(request, Request)
        self._waiting[number] = _Waiting(future, name, emit)
        try:
            with self._sending:
                if self._closed:
                    raise OSError
                self._line.send(data)
        except FrameError as wrong:
            self._waiting.pop(number, None)
            raise LabctlError(f"{name} cannot be called: {wrong}") from None
        except OSError:
            self._waiting.pop(number, None)
            self._receiver.join(CLOSING_SECONDS)  # it is finding out why
            raise LabctlError(self._why or CLOSED, "run: labctl status") from None
        return future

    def begin(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[object]:
        """Like `call`, but return at once; what comes of it is in the future."""
        if kwargs:
            raise TypeError("functions called inside a sandbox take positional arguments only")
        return self._submit(function, args, None)

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function that is `remote` inside and return its result; its errors are raised here.

        Raises `TypeError` for a function that is not, and for arguments that are not what it takes.
        """
        return self._result(self.begin(function, *args, **kwargs))

    def call_with_events(self, function: Callable[..., T], *args: object, emit: Emit) -> T:
        """Like `call`, for a function that takes `emit=` and reports progress while it runs."""
        return self._result(self._submit(function, args, emit))

    def _result(self, future: Future[object], further: float = 0.0) -> T:  # type: ignore[type-var]
        patience = self._other.patience
        if not wait([future], patience and patience + further).done:
            self._why = f"{self._other.name} did not answer for {patience:g} s"
            self._shut()
            raise DeadlineError(self._why, self._other.hint)
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
        """Run a program inside to its end; see `labctl.sandbox.process.run`.

        `watch` is called here, outside. Where it raises, the program goes on until its deadline.
        """
        future = self._submit(agent.execute, (argv, deadline, stdin, check), None)
        while watch and not wait([future], WATCH_SECONDS).done:
            watch()
        return self._result(future, deadline.left)

    def close(self) -> None:
        """End the agent: it sees the socket close and goes."""
        self._closed = True
        self._shut()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._socket.close()

    def _shut(self) -> None:
        """Let both ends see the end: not close(), for only this wakes who reads there."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)


def _threads() -> int:
    """Count the threads of this process, also those that Python does not know of."""
    return sum(1 for _ in Path("/proc/self/task").iterdir())
