"""The scheduler of matrices on a simulated clock: its own code, with jobs that only take time.

Makespan is set against the lower bound that no schedule can beat: all work that is to be done by
all cores there are, and the longest job. What workers that fail throw away is no work of the bound;
their cores count until they fail.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from labctl.jobs.model import Ended, How, Job, Need, News, Place
from labctl.jobs.schedule import Scheduler

MEMORY = 700
"""MiB of a job for each of its cores."""


class Simulated:
    """An engine whose jobs end when their time has passed on its clock."""

    def __init__(
        self, places: Sequence[Place], fails_at: dict[str, float], real: dict[str, float]
    ) -> None:
        self.now = 0.0
        self.places = {place.name: place for place in places}
        self.fails = sorted((at, name) for name, at in fails_at.items())
        self.real = real
        """Seconds that each job takes, which nobody knows beforehand."""
        self.running: list[tuple[float, int, Job, str]] = []
        self.count = 0
        self.wasted = 0.0
        """Core-seconds of tries that broke off."""
        self.begun: dict[str, float] = {}

    def start(self, job: Job, place: str) -> None:
        self.count += 1
        self.begun[job.name] = self.now
        heapq.heappush(self.running, (self.now + self.real[job.name], self.count, job, place))

    def wait(self, seconds: float) -> News:
        ended: list[Ended] = []
        if seconds and self.running:
            until = self.running[0][0]
            if self.fails and self.fails[0][0] < until:
                self.now, lost = self.fails.pop(0)
                del self.places[lost]
                kept = []
                for entry in self.running:
                    if entry[3] == lost:
                        used = self.now - self.begun[entry[2].name]
                        self.wasted += used * entry[2].need.cores
                        ended.append(Ended(entry[2], lost, How.LOST, "it failed"))
                    else:
                        kept.append(entry)
                self.running = kept
                heapq.heapify(self.running)
            else:
                self.now = until
                while self.running and self.running[0][0] <= until:
                    _, _, job, place = heapq.heappop(self.running)
                    ended.append(Ended(job, place, How.ENDED, status=0))
        elif seconds:
            self.now += seconds
        return News(tuple(ended), dict(self.places))

    def stop(self) -> None:
        self.running = []


@dataclass(frozen=True)
class Result:
    """What a simulation came to."""

    cells: int
    workers: int
    failed_workers: int
    retried: int
    results: int
    errors: int
    """Cells that broke off twice: their worker failed, and so did that of the retry."""
    makespan: float
    bound: float
    real_seconds: float

    @property
    def ratio(self) -> float:
        return self.makespan / self.bound

    @property
    def overhead_ms(self) -> float:
        """Milliseconds of the scheduler's own for each cell."""
        return self.real_seconds / self.cells * 1000


def simulate(
    cells: int = 10_000, workers: int = 200, failing: float = 0.05, seed: int = 1
) -> Result:
    """Run cells of 10 to 300 s with one to four cores on workers with four to sixteen."""
    chance = random.Random(seed)
    places = []
    for number in range(workers):
        cores = chance.choice((4, 8, 16))
        places.append(Place(f"w{number}", cores, cores * 1000, f"m{number}"))
    jobs, real = [], {}
    for number in range(cells):
        cores = chance.choice((1, 2, 2, 4))
        expected = chance.uniform(10, 300)
        name = f"c{number}"
        real[name] = expected * chance.uniform(0.8, 1.2)  # nobody knows it so well
        jobs.append(Job(name, (), Need(cores, cores * MEMORY), 3600, expected))
    work = sum(real[job.name] * job.need.cores for job in jobs)
    total = sum(place.cores for place in places)
    lost = chance.sample(places, round(failing * workers))
    # All of them fail while there is work for everybody.
    fails_at = {place.name: chance.uniform(0, 0.8 * work / total) for place in lost}
    engine = Simulated(places, fails_at, real)
    ended: dict[str, int] = {}
    retried = errors = 0

    def on_end(one: Ended, again: bool) -> None:
        nonlocal retried, errors
        retried += again
        errors += not again and one.how is not How.ENDED
        if not again:
            ended[one.job.name] = ended.get(one.job.name, 0) + 1

    begun = time.perf_counter()
    Scheduler(engine, on_end=on_end, clock=lambda: engine.now).run(jobs)
    seconds = time.perf_counter() - begun
    assert all(count == 1 for count in ended.values()), "a cell was counted twice"
    alive = total - sum(place.cores for place in lost)
    done_by_lost = sum(place.cores * fails_at[place.name] for place in lost)
    bound = max((work - done_by_lost) / alive, max(real.values()))
    return Result(
        cells, workers, len(lost), retried, len(ended), errors, engine.now, bound, seconds
    )


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.matrix simulate")
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=200)
    parser.add_argument("--failing", type=float, default=0.05)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(words)
    found = [
        simulate(asked.cells, asked.workers, asked.failing, seed)
        for seed in range(1, asked.seeds + 1)
    ]
    for one in found:
        if asked.json:
            print(json.dumps({**vars(one), "ratio": one.ratio, "overhead_ms": one.overhead_ms}))
        else:
            print(
                f"{one.results} of {one.cells} cells, {one.workers} workers, "
                f"{one.failed_workers} failed, {one.retried} tried again, "
                f"{one.errors} broke off twice: "
                f"makespan "
                f"{one.makespan:.0f} s, bound {one.bound:.0f} s, ratio {one.ratio:.3f}; "
                f"{one.overhead_ms:.2f} ms a cell"
            )
    return int(any(one.ratio > 1.1 or one.results < one.cells for one in found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
