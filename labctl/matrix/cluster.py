"""The engine of dask.distributed (`labctl[cluster]`): workers that anybody's scheduler knows.

Which job runs where is decided by labctl, as everywhere; dask carries it there, and what came of it
back. A worker declares its cores and memory to dask, too, so that two matrices share it soundly.

dask talks to itself by pickle: who may speak to a scheduler may run what he likes on its workers.
So an address is a loopback's, or TLS with a certificate of yours; see docs/security.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import queue
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from labctl.errors import HostError, UsageError
from labctl.jobs.local import cores
from labctl.jobs.model import GRACE, Ended, How, Job, News, Place
from labctl.lab import memory
from labctl.matrix import worker
from labctl.matrix.run import ARCHIVE, GROUP, Tell
from labctl.matrix.worker import Facts
from labctl.sandbox import owned, paths

ASK = 2.0
"""Seconds between two looks at which workers there are."""
AGAIN = 5.0
"""Seconds until a scheduler that cannot be reached is asked again."""
REACH = 30.0
"""Seconds in which it is to answer."""
CORES, MEMORY = "labctl-cores", "labctl-memory"
"""What a worker declares to dask."""
PREFIX = "dask-"


@dataclass(frozen=True)
class Keys:
    """The files of TLS, as `dask scheduler --tls-…` takes them."""

    authority: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


def _distributed() -> Any:
    try:
        import distributed
    except ImportError:
        raise HostError(
            "dask.distributed is not installed", "install it: pip install 'labctl[cluster]'"
        ) from None
    return distributed


def check_address(address: str, keys: Keys) -> None:
    """Raise `UsageError` for an address where others could read along, or give orders."""
    parts = urlsplit(address)
    try:
        named = parts.hostname or ""
        loopback = named == "localhost" or ipaddress.ip_address(named).is_loopback
        port = parts.port
    except ValueError:
        loopback, port = False, 0
    if parts.scheme not in ("tcp", "tls") or port is None:
        raise UsageError(f"{address} is no scheduler's address", "such as tcp://127.0.0.1:8786")
    if parts.scheme == "tcp" and not loopback:
        raise UsageError(
            f"{address} is open to everybody on that network",
            "use tls:// with --tls-ca, --tls-cert and --tls-key, or a tunnel of ssh to 127.0.0.1",
        )
    if parts.scheme == "tls" and not (keys.authority and keys.certificate and keys.key):
        raise UsageError(f"{address} needs --tls-ca, --tls-cert and --tls-key")


def _security(address: str, keys: Keys) -> Any:
    """Return dask's settings of TLS; None for a loopback's address."""
    if not address.startswith("tls:"):
        return None
    from distributed.security import Security

    files = {"cert": str(keys.certificate), "key": str(keys.key)}
    return Security(
        tls_ca_file=str(keys.authority),
        require_encryption=True,
        **{
            f"tls_{role}_{name}": path
            for role in ("client", "worker")
            for name, path in files.items()
        },
    )


class Dask:
    """Runs jobs on the workers of a scheduler."""

    def __init__(
        self,
        address: str,
        keys: Keys,
        folder: Callable[[Job], Path],
        portable: Callable[[Job], Job],
        ours: Facts,
        *,
        mixed: bool,
        tell: Tell,
    ) -> None:
        """Use the scheduler at an address; see `labctl.matrix.ssh.Ssh` for the rest.

        Raises `UsageError` for an address that is not to be used, `HostError` where dask is
        missing.
        """
        check_address(address, keys)
        self._distributed = _distributed()
        self._address, self._keys = address, keys
        self._folder, self._portable, self._tell = folder, portable, tell
        self._ours, self._mixed = ours, mixed
        self._client: Any = None
        self._places: dict[str, Place] = {}
        self._groups: dict[str, str] = {}
        self._known: set[str] = set()
        self._ask_at = 0.0
        self._said = ""
        self._running: dict[str, tuple[Job, str, Path, Any]] = {}
        """Job, worker, folder and future, by the future's key."""
        self._done: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._ended: list[Ended] = []

    def start(self, job: Job, place: str) -> None:
        """See `Engine`."""
        folder = self._folder(job)
        if self._groups.get(place):
            (folder / GROUP).write_text(self._groups[place])
        key = f"labctl-{job.name}-{uuid.uuid4().hex[:8]}"
        needs = {CORES: min(job.need.cores, self._places[place].cores), MEMORY: job.need.memory}
        try:
            future = self._client.submit(
                worker.run_sent, worker.line(self._portable(job)).decode(), key=key, pure=False,
                workers=[place], allow_other_workers=False, resources=needs, retries=0,
            )  # fmt: skip
        except Exception as error:
            self._ended.append(Ended(job, place, How.LOST, f"the scheduler is lost: {error}"))
            return
        self._running[key] = job, place, folder, future
        future.add_done_callback(lambda one: self._done.put(one.key))

    def wait(self, seconds: float) -> News:
        """See `Engine`."""
        end = time.monotonic() + seconds
        self._look()
        while not self._ended:
            with contextlib.suppress(queue.Empty):
                self._finish(self._done.get(timeout=max(0.0, min(0.5, end - time.monotonic()))))
            if time.monotonic() >= end:
                break
        found, self._ended = self._ended, []
        return News(tuple(found), dict(self._places))

    def stop(self) -> None:
        """See `Engine`."""
        if self._client is None:
            return
        with contextlib.suppress(Exception):
            self._client.cancel([one[3] for one in self._running.values()], force=True)
            end = time.monotonic() + GRACE + 10
            while self._running and time.monotonic() < end:
                # A worker ends what it runs when that is not wanted any more.
                places = list({one[1] for one in self._running.values()} & set(self._places))
                busy = self._client.run(worker.busy, workers=places, on_error="ignore")
                if not any(busy.values()):
                    break
                time.sleep(0.5)
        self._running = {}
        self._close()

    def _close(self) -> None:
        with contextlib.suppress(Exception):
            self._client.close(timeout=5)
        self._client, self._places, self._known = None, {}, set()

    def _finish(self, key: str) -> None:
        if key not in self._running:
            return
        job, place, folder, future = self._running.pop(key)
        try:
            text, packed = future.result(timeout=REACH)
            told = worker.ANSWER.validate_json(text)
            if told.size:
                if not worker.is_whole(packed, told):
                    raise ValueError("what came of it is damaged: its digest is another one")
                (folder / ARCHIVE).write_bytes(packed)
        except Exception as error:  # whatever dask, or somebody else's worker, makes of it
            why = f"{type(error).__name__}: {error}"
            self._ended.append(Ended(job, place, How.LOST, why))
            return
        self._ended.append(Ended(job, place, told.how, told.reason, told.status))

    def _look(self) -> None:
        """Find out which workers there are; what one that is gone had is lost."""
        if time.monotonic() < self._ask_at:
            return
        self._ask_at = time.monotonic() + ASK
        try:
            if self._client is None:
                self._client = self._distributed.Client(
                    self._address, timeout=REACH, set_as_default=False,
                    security=_security(self._address, self._keys),
                )  # fmt: skip
                self._say("", "reached", up=True)
            if self._client.status != "running":
                raise OSError("the connection ended")
            self._take(self._client.scheduler_info(n_workers=-1)["workers"])
        except Exception as error:
            # dask's errors have no common class; without its scheduler nothing can be told.
            self._lose(lambda _place: True, f"the scheduler at {self._address} is lost")
            self._close()
            self._ask_at = time.monotonic() + AGAIN
            self._say("", f"cannot be reached: {error}", up=False)

    def _take(self, workers: dict[str, Any]) -> None:
        ours = {name for name, told in workers.items() if CORES in told.get("resources", {})}
        gone = set(self._places) - ours
        for name in gone:
            del self._places[name]
        self._lose(lambda place: place in gone, "its worker is lost")
        self._known &= ours
        for name in sorted(ours - self._known):
            answers = self._client.run(worker.facts_json, workers=[name], on_error="ignore")
            if name not in answers:
                continue  # it is asked again
            told = worker.FACTS.validate_json(answers[name])
            self._known.add(name)
            group = told.differences(self._ours)
            if group and not self._mixed:
                self._say(name, f"refused, its versions are others: {group}; --mixed takes it")
                continue
            has = workers[name]["resources"]
            self._groups[name] = group
            self._places[name] = Place(name, int(has[CORES]), int(has[MEMORY]), told.machine)
            self._say(name, f"{int(has[CORES])} cores, {int(has[MEMORY])} MiB", up=True)

    def _lose(self, is_lost: Callable[[str], bool], why: str) -> None:
        for key, (job, place, _, future) in list(self._running.items()):
            if is_lost(place):
                del self._running[key]
                with contextlib.suppress(Exception):
                    future.cancel(force=True)
                self._ended.append(Ended(job, place, How.LOST, why))

    def _say(self, place: str, words: str, *, up: bool = False) -> None:
        if (line := f"{place} {words}") != self._said:
            self._said = line
            told = place or self._address
            self._tell({"event": "place", "place": told, "words": words, "up": up})


def serve(address: str, keys: Keys, has: tuple[int | None, int | None]) -> None:
    """Be a worker of a scheduler until this is interrupted, also when the scheduler goes and comes.

    `has` are the cores and MiB that it may give away; None for all there are. Raises as `Dask`.
    """
    check_address(address, keys)
    _distributed()
    with owned.temporary(paths.runtime(), PREFIX) as folder:
        try:
            asyncio.run(_serve(address, keys, folder, has[0] or cores(), has[1] or memory.free()))
        finally:
            worker.end_all()


async def _serve(address: str, keys: Keys, folder: Path, own: int, free: int) -> None:
    from distributed import Worker
    from distributed.utils import get_ip

    host = urlsplit(address).hostname or ""
    while True:
        with contextlib.suppress(OSError, TimeoutError, RuntimeError):
            async with Worker(
                address, nthreads=own, resources={CORES: own, MEMORY: free}, memory_limit=0,
                security=_security(address, keys), local_directory=str(folder),
                host=get_ip(host), dashboard_address="127.0.0.1:0", death_timeout=REACH,
            ) as one:  # fmt: skip
                await one.finished()
        await asyncio.sleep(AGAIN)
