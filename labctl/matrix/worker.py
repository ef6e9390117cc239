"""What a machine does for a matrix that another one runs: what it is, and one job at a time.

Over SSH this is a program that is told of its job on its standard input and answers on its output,
in lines of JSON, the last of them followed by the packed run. Both sides say every few seconds that
they are there: whoever hears nothing for `SILENCE` seconds takes the other for lost, and a job that
nobody waits for is ended. In a worker of dask the same is a function.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from labctl.errors import LabctlError
from labctl.jobs.child import Child
from labctl.jobs.local import cores
from labctl.jobs.model import GRACE, Ended, How, Job, Need
from labctl.lab import memory
from labctl.results import archive, store
from labctl.sandbox import owned, paths, process
from labctl.sandbox.deadline import Deadline
from labctl.version import __version__

PROTOCOL = "labctl-matrix-worker 1"
BEAT = 5.0
"""Seconds between two signs of life."""
SILENCE = 30.0
"""Seconds after which the other side is taken for lost."""
PREFIX = "matrix-"
"""What the folders of jobs begin with, in the runtime folder."""
MOST_LINE = 4 << 20
_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, config=_STRICT)
class Facts:
    """What a machine has, and which versions would run a cell."""

    machine: Annotated[str, Field(max_length=200)]
    """Its name and its boot: two workers of one machine say the same."""
    cores: Annotated[int, Field(ge=1, le=100_000)]
    memory: Annotated[int, Field(ge=0, le=1 << 40)]
    """MiB that are free."""
    versions: Annotated[dict[str, str], Field(max_length=20)]

    def differences(self, ours: Facts) -> str:
        """Return which versions are others than ours; empty for none."""
        names = sorted({*self.versions, *ours.versions})
        return ", ".join(
            f"{name} {self.versions.get(name, 'none')[:60]}"
            for name in names
            if self.versions.get(name) != ours.versions.get(name)
        )


@dataclass(frozen=True, config=_STRICT)
class Order:
    """A job as it is sent."""

    name: Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
    words: Annotated[tuple[str, ...], Field(max_length=1000)]
    deadline: Annotated[float, Field(gt=0, le=10_000_000)]
    files: Annotated[
        dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]{0,200}$")], str],
        Field(max_length=100),
    ]

    def job(self) -> Job:
        """Return it as the job that it is."""
        return Job(self.name, self.words, Need(0, 0), self.deadline, files=self.files)


@dataclass(frozen=True, config=_STRICT)
class Answer:
    """What came of a job; `size` bytes of its packed run follow."""

    how: How
    reason: str
    status: int | None
    size: Annotated[int, Field(ge=0, le=archive.MOST_BYTES)]
    sha256: str


FACTS, ORDER, ANSWER = TypeAdapter(Facts), TypeAdapter(Order), TypeAdapter(Answer)


def facts() -> Facts:
    """Return what this machine is."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return Facts(f"{platform.node()[:100]} {boot}", cores(), memory.free(), dict(versions()))


@cache
def versions() -> Mapping[str, str]:
    """Return the versions that could make two machines differ, but for the host's kernel."""
    return {"labctl": __version__, "code": _code(), "qemu": _qemu(), "images": _images()}


def _code() -> str:
    """Return a digest of labctl itself: of two checkouts the version may be the same."""
    top = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(top.rglob("*.py")):
        digest.update(f"{path.relative_to(top)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _qemu() -> str:
    words = [f"qemu-system-{platform.machine()}", "--version"]
    with contextlib.suppress(LabctlError):
        said = process.run(words, deadline=Deadline(20, "asking QEMU for its version"), check=False)
        return said.stdout.splitlines()[0][:100] if said.stdout else ""
    return ""


def _images() -> str:
    """Return a digest of what all images are made of: recipes, and the locks of their packages."""
    from labctl.images import recipe_paths

    digest = hashlib.sha256()
    for path in sorted(recipe_paths.files(), key=lambda one: (one.parent.name, one.name)):
        digest.update(f"{path.parent.name}/{path.name}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def run_order(
    order: Order, wanted: Callable[[], bool], done: Callable[[Ended, Path | None], None]
) -> None:
    """Run a job to its end; it is told to end once `wanted` says no.

    `done` is called with its end and its packed run, if it has one, before the folder of both goes.
    Raises `LabctlError` or `OSError` where it could not be begun.
    """
    owned.make_folders(paths.runtime())
    with owned.temporary(paths.runtime(), PREFIX) as folder, _counted():
        results = folder / "results"
        words = (*order.words, "--results", str(results), "--end-with-input")
        job = order.job()
        child = Child(Job(job.name, words, job.need, job.deadline, files=job.files), "", folder)
        while (ended := child.look()) is None:
            if _over.is_set() or not wanted():
                child.tell_to_end()
            child.wait(1.0)
        done(ended, _packed(results, folder))


_over = threading.Event()
_running: list[int] = []


@contextlib.contextmanager
def _counted() -> Iterator[None]:
    """Count a job that this process runs."""
    _running.append(1)
    try:
        yield
    finally:
        _running.pop()


def busy() -> int:
    """Return how many jobs this process runs."""
    return len(_running)


def end_all() -> None:
    """End all jobs of this process, and wait for them."""
    _over.set()
    deadline = Deadline(GRACE + 10, "waiting for the end of its jobs")
    while busy() and not deadline.passed:
        time.sleep(0.1)


def facts_json() -> str:
    """Return what this machine is, as text."""
    return FACTS.dump_json(facts()).decode()


def run_sent(text: str) -> tuple[str, bytes]:
    """Run a job in a worker of dask's, as long as its scheduler wants it; return answer and run.

    It returns JSON and an archive, which are believed as little as any other's.
    """
    from distributed import get_worker

    mine = get_worker()
    key = mine.get_current_task()
    found: list[tuple[str, bytes]] = []

    def wanted() -> bool:
        task = mine.state.tasks.get(key)
        is_up = mine.status.name in ("running", "paused")
        return is_up and task is not None and task.state == "executing"

    def done(ended: Ended, packed: Path | None) -> None:
        data = packed.read_bytes() if packed else b""
        found.append((ANSWER.dump_json(answer(ended, packed)).decode(), data))

    run_order(ORDER.validate_json(text), wanted, done)
    return found[0]


def is_whole(data: bytes, told: Answer) -> bool:
    """Whether a packed run is what an answer says."""
    return len(data) == told.size and hashlib.sha256(data).hexdigest() == told.sha256


def _packed(results: Path, folder: Path) -> Path | None:
    for run in store.list_runs(results)[:1]:
        if run.run:
            file = folder / "run.tar"
            archive.export(run.path, file)
            return file
    return None


def answer(ended: Ended, packed: Path | None) -> Answer:
    """Return the end of a job as it is sent."""
    size, digest = 0, ""
    if packed:
        with packed.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = packed.stat().st_size
    return Answer(ended.how, ended.reason, ended.status, size, digest)


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Run the one job that `source` tells of, and answer to `sink`."""
    lock = threading.Lock()

    def say(line: str, packed: Path | None = None) -> None:
        with lock:
            sink.write(line.encode() + b"\n")
            if packed:
                with packed.open("rb") as file:
                    shutil.copyfileobj(file, sink)
            sink.flush()

    say(PROTOCOL)
    order = ORDER.validate_json(source.readline(MOST_LINE))
    heard = [time.monotonic()]
    over = threading.Event()

    def listen() -> None:
        with contextlib.suppress(OSError):
            while os.read(source.fileno(), 4096):
                heard[0] = time.monotonic()
        heard[0] = float("-inf")

    def beat() -> None:
        while not over.wait(BEAT):
            try:
                say("{}")
            except OSError:
                heard[0] = float("-inf")

    for target in (listen, beat):
        threading.Thread(target=target, daemon=True, name="labctl-worker").start()

    def done(ended: Ended, packed: Path | None) -> None:
        over.set()
        say(ANSWER.dump_json(answer(ended, packed)).decode(), packed)

    run_order(order, lambda: time.monotonic() - heard[0] < SILENCE, done)


def serve_here() -> None:
    """Serve on this process's own input and output, which nobody else writes to."""
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        serve(sys.stdin.buffer, sink)
    except (OSError, ValueError) as error:
        raise LabctlError(f"this job cannot be run: {error}") from None


def told(order: Job) -> dict[str, Any]:
    """Return a job as plain data, as a worker reads it."""
    data: dict[str, Any] = ORDER.dump_python(
        Order(order.name, order.words, order.deadline, dict(order.files)), mode="json"
    )
    return data


def line(order: Job) -> bytes:
    """Return a job as the line that a worker reads."""
    return json.dumps(told(order)).encode() + b"\n"
