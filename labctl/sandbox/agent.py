"""The process of ours inside a sandbox: it runs our functions there and answers with their results.

A namespace of users can only be entered by a process with one thread, and what uses a lab (a test
suite, an experiment) lives outside. So each `labctl` process that needs the inside starts one agent
through nsenter(1), or ssh(1), and sends it names of functions with their arguments, over its
standard input and output (see `remote`). The agent ends when these do, so it never outlives its
user.

Who makes a sandbox can start its agent ahead of it: the agent imports what it will need while the
topology is read and the sandbox is made, and enters by itself when told. Where it can it is forked,
so that it has what its user has imported already.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from labctl.errors import exhausted, host_error
from labctl.events import Emit
from labctl.sandbox import codec, remote
from labctl.sandbox.bounded import Output
from labctl.sandbox.deadline import Deadline
from labctl.sandbox.framing import FrameError, Line
from labctl.sandbox.process import Result, environment, run
from labctl.sandbox.remote import AgentError, Reply, Request

THREADS = 64
# linux/sched.h
CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000


@dataclass(frozen=True)
class Enter:
    """Enter the sandbox of this PID 1; sent once, to an agent that was started before it."""

    pid: int
    user: bool
    """Whether the sandbox has a user namespace of its own."""


def serve(line: Line) -> None:
    """Answer requests until the other end closes."""
    sending = threading.Lock()

    def send(reply: Reply) -> None:
        try:
            data = codec.dumps(reply, Reply)
            with sending, contextlib.suppress(OSError):
                line.send(data)
        except (codec.CodecError, FrameError) as wrong:  # else the caller would wait for ever
            lost = remote.failure(AgentError(f"what it returned cannot be sent: {wrong}"))
            with sending, contextlib.suppress(OSError):
                line.send(codec.dumps(Reply(reply.number, error=lost), Reply))

    def handle(request: Request) -> None:
        emit: Emit = lambda event: send(Reply(request.number, event=event))  # noqa: E731
        try:
            value = answer(request, emit)
        except BaseException as error:  # whatever it is, the caller must hear of it
            send(Reply(request.number, error=remote.failure(_plain(error))))
        else:
            send(Reply(request.number, value))

    pool = ThreadPoolExecutor(THREADS)
    while True:
        try:
            request = codec.loads(line.receive(), Request)
        except (EOFError, OSError):
            break
        except (FrameError, codec.CodecError) as wrong:
            sys.stderr.write(f"no request of labctl's: {wrong}\n")
            break
        pool.submit(handle, request)
    # Calls still running belong to nobody any more; do not wait for them.
    for child in list(_children.values()):
        with contextlib.suppress(OSError):
            if child.stdin:
                child.stdin.close()
    os._exit(0)


def answer(request: Request, emit: Emit) -> codec.Plain:
    """Call the function of a request and return its result as JSON; raises what it raises."""
    function = remote.find(request.function)
    args = remote.given(request.function, request.args)
    extra = {remote.EMIT: emit} if request.events else {}
    value = function(*args, **extra)
    try:
        return codec.Plain(codec.write(value, remote.signature(request.function).result))
    except codec.CodecError as wrong:
        raise AgentError(f"{request.function} returned what it should not: {wrong}") from None


def _plain(error: BaseException) -> BaseException:
    """Return an error as what it is to a user: a full disk is that, whatever met it."""
    if told := exhausted(error):
        return told
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return host_error(error, "a file of the lab") or error
    return error


_children: dict[int, subprocess.Popen[bytes]] = {}
_outputs: dict[int, Output] = {}
OUTPUT_SECONDS = 2.0
"""For what an ended program has said to be in its files."""


@remote.remote
def spawn(
    argv: Sequence[str], stdout: Path, stderr: Path, netns: str, detached: bool, limit: int = 0
) -> int:
    """Start a long-running program in the sandbox; return its pid there.

    Detached, it belongs to PID 1 and outlives the agent; else its standard input is a pipe that
    closes with `finish` or with the agent, which is the sign for it to end. With a `limit` it is
    killed once it has written so many bytes to one of its files, which holds no more.
    """
    enter = ["nsenter", f"--net=/run/netns/{netns}", "--"] if netns else []
    with stdout.open("ab") as out, stderr.open("ab") as err:
        child = subprocess.Popen(
            [*enter, *argv],
            stdin=subprocess.DEVNULL if detached else subprocess.PIPE,
            stdout=subprocess.PIPE if limit else out,
            stderr=subprocess.PIPE if limit else err,
            env=environment(),
            start_new_session=True,
        )
    _children[child.pid] = child
    if limit:
        _outputs[child.pid] = Output(child, stdout, stderr, limit)
    return child.pid


@remote.remote
def execute(argv: Sequence[str], deadline: Deadline, stdin: bytes, check: bool) -> Result:
    """Run a program to its end; see `labctl.sandbox.process.run`."""
    return run(argv, deadline=deadline, stdin=stdin, check=check)


@remote.remote
def finish(pid: int, deadline: Deadline) -> int:
    """Close a child's standard input and wait for its end; return its exit status.

    Raises `DeadlineError` (the child is killed) when it does not end in time.
    """
    child = _children[pid]
    if child.stdin:
        with contextlib.suppress(BrokenPipeError):
            child.stdin.close()
    try:
        return child.wait(deadline.left)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
        raise deadline.error(f"process {pid} did not end") from None
    finally:
        if output := _outputs.pop(pid, None):
            output.settle(OUTPUT_SECONDS)
        _children.pop(pid, None)


@remote.remote
def poll(pid: int) -> int | None:
    """Return a child's exit status, or None while it runs."""
    status = _children[pid].poll()
    if status is not None and pid in _outputs:
        _outputs[pid].settle(OUTPUT_SECONDS)
    return status


@remote.remote
def kill(pid: int, number: int = signal.SIGTERM) -> None:
    """Signal a process of the sandbox by its pid there; one that is gone is no error."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


@remote.remote
def end_marked(mark: str) -> None:
    """End every program, but this, with a word in its environment that starts with `mark`."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            words = (entry / "environ").read_bytes().split(b"\0")
            if any(word.startswith(mark.encode()) for word in words):
                os.kill(int(entry.name), signal.SIGKILL)


@remote.remote
def read(file: Path) -> str:
    """Return the text of a file in the sandbox."""
    return file.read_text(errors="replace")


@remote.remote
def remove(file: Path) -> None:
    """Remove a file in the sandbox, if it is there."""
    file.unlink(missing_ok=True)


def enter(sandbox: Enter) -> None:
    """Move this process, which has one thread, into a sandbox's namespaces (setns(2), by a pidfd).

    Only its children are in the process namespace. Raises `OSError`.
    """
    kinds = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | (CLONE_NEWUSER if sandbox.user else 0)
    handle = os.pidfd_open(sandbox.pid)
    # os.setns comes with Python 3.12.
    if ctypes.CDLL(None, use_errno=True).setns(handle, kinds) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")
    os.close(handle)


def wait_for_sandbox(line: Line, modules: Sequence[str]) -> None:
    """Import `modules`, wait for `Enter`, and return in a child process, in that sandbox."""
    gc.disable()  # it would look through all that is imported, again and again, for nothing
    for module in modules:
        import_module(module)
    gc.enable()
    try:
        enter(codec.loads(line.receive(), Enter))
    except EOFError:
        os._exit(0)  # it is not needed after all
    inside = os.fork()
    if inside:
        line.close()  # the child's alone now: its end must show at the other end
        os._exit(os.waitstatus_to_exitcode(os.waitpid(inside, 0)[1]) & 0xFF)


def main() -> None:
    """Serve on standard input and output; arguments name modules to import ahead of a sandbox."""
    # Copies, which no child inherits: what a library prints must not get among the replies.
    begin(Line(os.dup(0), os.dup(1)), sys.argv[1:])


def begin(line: Line, modules: Sequence[str]) -> None:
    """Serve on a line, from inside a sandbox that is still to be where there are `modules`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the user's process
    with Path(os.devnull).open() as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    if modules:
        wait_for_sandbox(line, modules)
    serve(line)


def begin_forked(line: socket.socket, theirs: socket.socket, modules: Sequence[str]) -> None:
    """Serve on a socket in a process that was forked off the user's, as `main` does in its own.

    `theirs` is the other end, which is left to the user's process alone.
    """
    theirs.close()
    os.setsid()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)  # the user's process has handlers
    ours = environment()
    os.environ.clear()
    os.environ.update(ours)
    handle = line.detach()
    begin(Line(handle, handle), modules)


if __name__ == "__main__":
    # Under `-m` this file is `__main__`, but requests say `labctl.sandbox.agent`: serve from that
    # module, so that there is one table of children.
    from labctl.sandbox import agent

    agent.main()
