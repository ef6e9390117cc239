"""The engine of other machines by SSH: a connection a job, and no port that listens anywhere.

Who may log in, and that nobody reads along, is OpenSSH's and the user's own configuration. A host
that cannot be reached is asked again every `AGAIN` seconds, so one that was cut off comes back.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import select
import shlex
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from labctl.errors import LabctlError
from labctl.jobs.model import GRACE, Ended, How, Job, News, Place
from labctl.matrix import worker
from labctl.matrix.run import ARCHIVE, GROUP, Tell
from labctl.matrix.worker import Answer, Facts
from labctl.sandbox import process
from labctl.sandbox.deadline import Deadline

AGAIN = 10.0
"""Seconds until a host that did not answer is asked again."""
ASKING = 120.0
"""Seconds in which a host is to say what it is, and a worker its first word."""
OPTIONS = (
    "-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=15", "-o", "ServerAliveInterval=5",
    "-o", "ServerAliveCountMax=4", "-o", "ControlPath=none",
)  # fmt: skip
PORTABLE = Callable[[Job], Job]
_CHUNK = 1 << 16


@dataclass(frozen=True)
class Way:
    """How labctl is reached on hosts."""

    program: str = "labctl"
    """What it is called there."""
    config: Path | None = None
    """The configuration of ssh(1); None for the user's own."""

    def command(self, host: str, *words: str) -> list[str]:
        """Return the words by which labctl is called on a host."""
        own = ["-F", str(self.config)] if self.config else []
        return ["ssh", *own, *OPTIONS, "--", host, f"{self.program} {shlex.join(words)}"]


@dataclass
class _Host:
    """A machine that was named."""

    name: str
    place: Place | None = None
    group: str = ""
    """Its versions, where they are not ours and that was allowed."""
    asking: bool = False
    ask_at: float = 0.0
    said: str = ""
    """What was told of it last, so that it is told once."""
    refused: bool = False
    starts: int = 0


@dataclass
class _Connection:
    """A job that runs on a host."""

    job: Job
    host: _Host
    place: str
    child: subprocess.Popen[bytes]
    folder: Path
    heard: float
    rest: bytes = b""
    answer: Answer | None = None
    file: BinaryIO | None = None
    left: int = 0
    greeted: bool = False
    digest: object = field(default_factory=hashlib.sha256)


class Ssh:
    """Runs jobs on hosts by ssh(1)."""

    def __init__(
        self,
        hosts: Sequence[str],
        way: Way,
        folder: Callable[[Job], Path],
        portable: PORTABLE,
        ours: Facts,
        *,
        mixed: bool,
        tell: Tell,
    ) -> None:
        """Run jobs on `hosts`, which are reached in a `way`.

        `portable` makes of a job one that another machine can run; `ours` are this machine's
        versions, and others are refused unless `mixed`.
        """
        self._hosts = [_Host(name) for name in dict.fromkeys(hosts)]
        self._way, self._folder, self._portable = way, folder, portable
        self._ours, self._mixed, self._tell = ours, mixed, tell
        self._running: list[_Connection] = []
        self._ended: list[Ended] = []
        self._lock = threading.Lock()
        self._stopped = False

    def start(self, job: Job, place: str) -> None:
        """See `Engine`."""
        host = next(one for one in self._hosts if one.place and one.place.name == place)
        folder = self._folder(job)
        try:
            child = self._connect(host)
        except OSError as error:
            self._ended.append(Ended(job, place, How.CRASHED, f"ssh cannot be started: {error}"))
            return
        if host.group:
            (folder / GROUP).write_text(host.group)
        one = _Connection(job, host, place, child, folder, time.monotonic())
        self._running.append(one)
        self._send(one, worker.line(self._portable(job)))

    def _connect(self, host: _Host) -> subprocess.Popen[bytes]:
        words = self._way.command(host.name, "matrix-worker", "--one")
        child = process.start_as(words, None)
        assert child.stdout
        assert child.stderr
        for stream in (child.stdout, child.stderr):
            os.set_blocking(stream.fileno(), False)
        return child

    def _send(self, one: _Connection, data: bytes) -> None:
        with contextlib.suppress(OSError, ValueError):
            assert one.child.stdin
            one.child.stdin.write(data)
            one.child.stdin.flush()

    def wait(self, seconds: float) -> News:
        """See `Engine`."""
        self._ask_hosts()
        end = time.monotonic() + seconds
        while not self._ended and time.monotonic() < end:
            self._listen(min(0.5, max(0.0, end - time.monotonic())))
            if not self._running:
                break
        if not self._running and not self._ended:
            time.sleep(max(0.0, min(0.5, end - time.monotonic())))
        found, self._ended = self._ended, []
        with self._lock:
            places = {one.place.name: one.place for one in self._hosts if one.place}
            final = all(one.refused for one in self._hosts)
        return News(tuple(found), places, final)

    def _listen(self, seconds: float) -> None:
        poll = select.poll()
        by_handle = {}
        for one in self._running:
            assert one.child.stdout
            poll.register(one.child.stdout.fileno(), select.POLLIN)
            by_handle[one.child.stdout.fileno()] = one
        if not by_handle:
            return
        for handle, _ in poll.poll(int(seconds * 1000)):
            self._read(by_handle[handle])
        now = time.monotonic()
        for one in list(self._running):
            if now - one.heard > (worker.SILENCE if one.greeted else ASKING):
                self._lose(one, f"{one.host.name} has said nothing for {now - one.heard:.0f} s")
        self._beat(now)

    _beaten = 0.0

    def _beat(self, now: float) -> None:
        """Say to every host that somebody still waits."""
        if now - self._beaten >= worker.BEAT:
            self._beaten = now
            for one in self._running:
                self._send(one, b"\n")

    def _read(self, one: _Connection) -> None:
        assert one.child.stdout
        try:
            data = os.read(one.child.stdout.fileno(), _CHUNK)
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(one, str(error))
            return
        if not data:
            self._lose(one, self._last_words(one))
            return
        one.heard = time.monotonic()
        one.rest += data
        try:
            self._take(one)
        except (ValueError, OSError) as error:
            self._lose(one, f"{one.host.name} answers what cannot be used: {error}")

    def _take(self, one: _Connection) -> None:
        """Take in what a host said; raises `ValueError` for what is no answer."""
        while one.answer is None:
            line, newline, rest = one.rest.partition(b"\n")
            if not newline:
                if len(line) > worker.MOST_LINE:
                    raise ValueError("a line without an end")
                return
            one.rest = rest
            if not one.greeted:  # what a login prints comes before it
                one.greeted = line.strip() == worker.PROTOCOL.encode()
            elif line.strip() != b"{}":
                one.answer = worker.ANSWER.validate_json(line)
                one.left = one.answer.size
                one.file = (one.folder / ARCHIVE).open("wb") if one.left else None
        taken, one.rest = one.rest[: one.left], one.rest[one.left :]
        if one.file:
            one.file.write(taken)
            one.digest.update(taken)  # type: ignore[attr-defined]
        one.left -= len(taken)
        if one.left == 0:
            self._finish(one)

    def _finish(self, one: _Connection) -> None:
        assert one.answer
        told = one.answer
        self._forget(one)
        if told.size and one.digest.hexdigest() != told.sha256:  # type: ignore[attr-defined]
            (one.folder / ARCHIVE).unlink(missing_ok=True)
            what = "what came of it is damaged: its digest is another one"
            self._ended.append(Ended(one.job, one.place, How.LOST, what))
            return
        self._ended.append(Ended(one.job, one.place, told.how, told.reason, told.status))

    def _lose(self, one: _Connection, why: str) -> None:
        self._forget(one)
        (one.folder / ARCHIVE).unlink(missing_ok=True)  # a part of it
        self._ended.append(Ended(one.job, one.place, How.LOST, why))
        # Whether the host is lost, or this job alone, is found out before it gets the next one.
        one.host.place, one.host.ask_at = None, time.monotonic() + 1.0

    def _last_words(self, one: _Connection) -> str:
        said = b""
        with contextlib.suppress(OSError, BlockingIOError):
            assert one.child.stderr
            said = os.read(one.child.stderr.fileno(), _CHUNK)
        told = process.last_lines(said.decode(errors="replace"), 2)
        return f"the connection to {one.host.name} ended" + (f": {told}" if told else "")

    def _forget(self, one: _Connection) -> None:
        self._running.remove(one)
        if one.file:
            one.file.close()
        _end(one.child, 0.0 if one.answer is None else 5.0)

    def stop(self) -> None:
        """See `Engine`: the jobs end when their input does, wherever they are."""
        self._stopped = True
        running, self._running = self._running, []
        for one in running:
            with contextlib.suppress(OSError):
                assert one.child.stdin
                one.child.stdin.close()
        end = time.monotonic() + GRACE
        for one in running:
            # What a host still says has to be read, else it waits for that.
            while one.child.poll() is None and time.monotonic() < end:
                assert one.child.stdout
                select.select([one.child.stdout], [], [], 0.5)
                with contextlib.suppress(OSError, BlockingIOError):
                    if not os.read(one.child.stdout.fileno(), _CHUNK):
                        break
            if one.file:
                one.file.close()
            _end(one.child, 5.0)

    def _ask_hosts(self) -> None:
        now = time.monotonic()
        for host in self._hosts:
            due = not (host.place or host.asking or host.refused) and now >= host.ask_at
            if due and not self._stopped:
                host.asking = True
                threading.Thread(
                    target=self._ask, args=(host,), daemon=True, name=f"labctl-ask-{host.name}"
                ).start()

    def _ask(self, host: _Host) -> None:
        """Find out what a host is; it becomes a place, or is asked again later."""
        words = self._way.command(host.name, "matrix-worker", "--facts")
        place, group, said = None, "", ""
        try:
            deadline = Deadline(ASKING, f"asking {host.name} what it is")
            out = process.run(words, deadline=deadline, package="openssh-client").stdout
            told = worker.FACTS.validate_json(out.strip().splitlines()[-1] if out.strip() else "")
        except LabctlError as error:
            said = error.message
        except ValueError:
            said = f"{self._way.program} there does not say what it is: another version?"
        else:
            group = told.differences(self._ours)
            name = f"{host.name}#{host.starts}" if host.starts else host.name
            place = Place(name, told.cores, told.memory, told.machine)
            said = f"{told.cores} cores, {told.memory} MiB" + (f", {group}" if group else "")
            if group and not self._mixed:
                host.refused, place = True, None
                said = f"refused, its versions are others: {group}; --mixed takes it"
        with self._lock:
            host.place, host.group, host.asking = place, group, False
            host.starts += place is not None
            host.ask_at = time.monotonic() + AGAIN
        if said != host.said:
            host.said = said
            self._tell({"event": "place", "place": host.name, "words": said, "up": bool(place)})


def _end(child: subprocess.Popen[bytes], seconds: float) -> None:
    """Let a connection end by itself for so long, then end it."""
    with contextlib.suppress(OSError):
        if child.stdin:
            child.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(seconds)
    child.kill()
    child.wait()
    for stream in (child.stdout, child.stderr):
        if stream:
            stream.close()
