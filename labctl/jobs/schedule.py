"""Which job runs where and when: the longest first, no place overcommitted, one retry elsewhere.

Nothing here starts anything or looks at a clock of its own, so the same code runs 10,000 jobs on a
simulated clock (`tests/matrix/simulate.py`).
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from labctl.jobs.model import BROKE_OFF, Ended, Engine, How, Job, Need, Place

WAIT_SECONDS = 1.0
"""How long is waited for news at a time: then progress is told."""
PATIENCE = 300.0
"""Seconds that a job waits for a place that can take it, while nothing runs."""
ELSEWHERE = 30.0
"""Seconds that a retry waits for another machine, before the same one will do."""
TRIES = 2


@dataclass
class _Waiting:
    """A job that waits to be started."""

    job: Job
    tries: int = 0
    since: float = 0.0
    avoid: str = ""
    """The machine on which it broke off."""


@dataclass
class _Used:
    """A place, and what is left of it."""

    place: Place
    cores: int
    memory: int
    running: dict[str, _Waiting] = field(default_factory=dict)


def unheard(*_: object) -> None:
    """Tell nobody."""


@dataclass
class Scheduler:
    """Runs jobs to their ends on the places of an engine."""

    engine: Engine
    on_start: Callable[[Job, Place], None] = unheard
    on_end: Callable[[Ended, bool], None] = unheard
    """Told of the end of a try, and whether the job is tried again."""
    on_wait: Callable[[], None] = unheard
    """Called every second or so."""
    clock: Callable[[], float] = time.monotonic
    retry: bool = True
    """Whether what broke off is tried once more, elsewhere."""
    limit: int | None = None
    """How many may run at a place at once, whatever room there is."""

    def __post_init__(self) -> None:
        """Begin with nothing."""
        self._queues: dict[Need, list[tuple[float, int, _Waiting]]] = {}
        self._used: dict[str, _Used] = {}
        self._count = 0
        self._waiting = 0
        self._idle_since: float | None = None

    def run(self, jobs: Sequence[Job]) -> None:
        """Run all of them; when this is left by an exception, all that runs is ended.

        `on_end` is told of those, too, as stopped.
        """
        for job in jobs:
            self._push(_Waiting(job))
        final = False
        try:
            final = self._look(0.0)
            while self._waiting or self._running():
                self._fill()
                if not self._running() and self._is_hopeless(final):
                    self._give_up()
                    break
                final = self._look(WAIT_SECONDS)
                self.on_wait()
        except BaseException:
            self.engine.stop()
            for used in self._used.values():
                for one in used.running.values():
                    self.on_end(
                        Ended(one.job, used.place.name, How.STOPPED, "it was interrupted"), False
                    )
            raise
        self.engine.stop()

    def _running(self) -> bool:
        return any(used.running for used in self._used.values())

    def _push(self, one: _Waiting) -> None:
        queue = self._queues.setdefault(one.job.need, [])
        # What is tried again has waited longest, and holds up the end.
        self._count += 1
        heapq.heappush(queue, (-one.job.expected - 1e9 * one.tries, self._count, one))
        self._waiting += 1

    def _look(self, seconds: float) -> bool:
        """Take in what has happened; say whether no other place will come."""
        news = self.engine.wait(seconds)
        for ended in news.ended:
            self._end(ended)
        for name in [name for name in self._used if name not in news.places]:
            if not self._used[name].running:
                del self._used[name]
        for name, place in news.places.items():
            if name not in self._used:
                self._used[name] = _Used(place, place.cores, place.memory)
        for name, used in self._used.items():
            if name not in news.places:
                used.cores = used.memory = -1  # nothing more is started there
        return news.final

    def _end(self, ended: Ended) -> None:
        used = self._used.get(ended.place)
        one = used.running.pop(ended.job.name, None) if used else None
        if used is None or one is None:
            return  # told twice
        used.cores += min(ended.job.need.cores, used.place.cores)
        used.memory += ended.job.need.memory
        one.tries += 1
        again = self.retry and ended.how in BROKE_OFF and one.tries < TRIES
        self.on_end(ended, again)
        if again:
            one.avoid = used.place.machine or used.place.name
            one.since = self.clock()
            self._push(one)

    def _fill(self) -> None:
        """Start what there is room for."""
        for used in self._used.values():
            while self.limit is None or len(used.running) < self.limit:
                one = self._next(used)
                if one is None:
                    break
                used.cores -= min(one.job.need.cores, used.place.cores)
                used.memory -= one.job.need.memory
                used.running[one.job.name] = one
                self.on_start(one.job, used.place)
                self.engine.start(one.job, used.place.name)

    def _next(self, used: _Used) -> _Waiting | None:
        """Take the longest job that fits from the queue."""
        best: tuple[float, int, _Waiting] | None = None
        for need, queue in self._queues.items():
            fits = min(need.cores, used.place.cores) <= used.cores and need.memory <= used.memory
            if not (fits and queue):
                continue
            first = self._first(queue, used.place)
            if first and (best is None or first < best):
                best = first
        if best is None:
            return None
        queue = self._queues[best[2].job.need]
        if queue[0] is best:
            heapq.heappop(queue)
        else:
            queue.remove(best)
            heapq.heapify(queue)
        self._waiting -= 1
        return best[2]

    def _first(
        self, queue: list[tuple[float, int, _Waiting]], place: Place
    ) -> tuple[float, int, _Waiting] | None:
        """Return the first that may run at a place: retries, which are few, may have to wait."""
        if not self._must_wait(queue[0][2], place):
            return queue[0]
        free = (entry for entry in queue if not self._must_wait(entry[2], place))
        return min(free, default=None)

    def _must_wait(self, one: _Waiting, place: Place) -> bool:
        here = place.machine or place.name
        return one.avoid == here and self.clock() - one.since < ELSEWHERE

    def _is_hopeless(self, final: bool) -> bool:
        """Whether nothing of what waits will ever be started."""
        if self._idle_since is None:
            self._idle_since = self.clock()
        needs = [need for need, queue in self._queues.items() if queue]
        places = [used.place for used in self._used.values() if used.memory >= 0]
        if any(place.ever_holds(need) for place in places for need in needs):
            self._idle_since = None
            return False
        return final or self.clock() - self._idle_since >= PATIENCE

    def _give_up(self) -> None:
        sizes = [used.place.memory for used in self._used.values()]
        for queue in self._queues.values():
            for _, _, one in sorted(queue):
                reason = "there is no machine to run it on"
                if sizes:
                    reason = (
                        f"it takes about {one.job.need.memory} MiB, and the largest place has "
                        f"{max(sizes)}"
                    )
                self.on_end(Ended(one.job, "", How.NO_PLACE, reason), False)
            queue.clear()
        self._waiting = 0
