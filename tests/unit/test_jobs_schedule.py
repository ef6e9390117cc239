from __future__ import annotations

from pathlib import Path

import pytest

from labctl.jobs.child import Child
from labctl.jobs.local import HERE, Local
from labctl.jobs.model import Ended, How, Job, Need, News, Place
from labctl.jobs.schedule import Scheduler
from matrix.simulate import Simulated, simulate


def job(name: str, seconds: float = 10.0, cores: int = 1, memory: int = 100) -> Job:
    return Job(name, (), Need(cores, memory), 100.0, seconds)


class Told:
    """A simulated engine, and what the scheduler told of it."""

    def __init__(
        self, places: list[Place], jobs: list[Job], fails_at: dict[str, float] | None = None
    ) -> None:
        self.engine = Simulated(places, fails_at or {}, {one.name: one.expected for one in jobs})
        self.started: list[tuple[str, str, float]] = []
        self.ended: list[tuple[str, How, bool]] = []
        self.scheduler = Scheduler(
            self.engine, on_start=self._start, on_end=self._end, clock=lambda: self.engine.now
        )
        self.scheduler.run(jobs)

    def _start(self, one: Job, place: Place) -> None:
        self.started.append((one.name, place.name, self.engine.now))

    def _end(self, one: Ended, again: bool) -> None:
        self.ended.append((one.job.name, one.how, again))


def test_the_longest_is_started_first() -> None:
    jobs = [job("short", 1), job("long", 100), job("middle", 50)]
    told = Told([Place("a", 1, 1000)], jobs)
    assert [name for name, _, _ in told.started] == ["long", "middle", "short"]


def test_a_place_is_never_overcommitted() -> None:
    jobs = [job(f"j{number}", 10, cores=2, memory=400) for number in range(5)]
    told = Told([Place("cores", 4, 10_000), Place("memory", 100, 500)], jobs)
    at_first = [place for _, place, at in told.started if at == 0]
    assert sorted(at_first) == ["cores", "cores", "memory"]


def test_what_wants_more_cores_than_any_place_has_runs_alone() -> None:
    told = Told([Place("a", 2, 1000)], [job("wide", 10, cores=8), job("narrow", 5)])
    assert [at for _, _, at in told.started] == [0, 10]


def test_what_fits_nowhere_is_told_with_its_size() -> None:
    told: list[Ended] = []
    engine = Simulated([Place("a", 4, 500)], {}, {"big": 1.0, "small": 1.0})
    jobs = [job("big", memory=800), job("small")]
    run = Scheduler(engine, on_end=lambda one, _: told.append(one), clock=lambda: engine.now)
    run.run(jobs)
    found = {one.job.name: one for one in told}
    assert found["small"].how is How.ENDED
    assert found["big"].how is How.NO_PLACE
    assert "800 MiB" in found["big"].reason


def test_what_its_machine_lost_is_tried_once_more_elsewhere() -> None:
    places = [Place("a1", 1, 500, "a"), Place("a2", 1, 500, "a"), Place("b", 1, 500, "b")]
    told = Told(places, [job("x", 20), job("y", 20), job("z", 20)], {"a1": 5.0})
    tries = [(name, place) for name, place, _ in told.started]
    (lost,) = [name for name, how, _ in told.ended if how is How.LOST]
    assert [place for name, place in tries if name == lost] == ["a1", "b"]
    assert sorted(name for name, how, _ in told.ended if how is How.ENDED) == ["x", "y", "z"]


def test_what_broke_off_twice_is_not_tried_again() -> None:
    places = [Place("a", 1, 500), Place("b", 1, 500), Place("c", 1, 500)]
    told = Told(places, [job("x", 20)], {"a": 5.0, "b": 7.0, "c": 9.0})
    assert [(how, again) for _, how, again in told.ended][-1] == (How.LOST, False)
    assert len(told.ended) == 2


def test_ten_thousand_cells_are_a_small_case_of_what_is_simulated() -> None:
    found = simulate(cells=400, workers=20, seed=3)
    assert found.results == 400
    assert found.failed_workers == 1
    assert found.ratio < 1.3, "so few cells end less evenly than ten thousand"


class Interrupting(Simulated):
    def wait(self, seconds: float) -> News:
        if seconds:
            raise KeyboardInterrupt
        return super().wait(seconds)


def test_what_runs_when_it_is_interrupted_is_told_as_stopped() -> None:
    told: list[Ended] = []
    engine = Interrupting([Place("a", 1, 500)], {}, {"x": 1.0, "y": 1.0})
    scheduler = Scheduler(engine, on_end=lambda one, _: told.append(one))
    with pytest.raises(KeyboardInterrupt):
        scheduler.run([job("x"), job("y")])
    assert [(one.job.name, one.how) for one in told] == [("x", How.STOPPED)]
    assert engine.running == []


def here(tmp_path: Path) -> Local:
    return Local(Place(HERE, 4, 1000), lambda _job: tmp_path)


def test_a_process_that_ends_by_itself_is_told_with_its_status_and_last_words(
    tmp_path: Path,
) -> None:
    child = Child(job("x"), HERE, tmp_path, ["sh", "-c", "echo said; exit 3"])
    ended = child.finish()
    assert (ended.how, ended.status, ended.reason) == (How.ENDED, 3, "said")


def test_a_process_that_a_signal_ended_has_crashed(tmp_path: Path) -> None:
    ended = Child(job("x"), HERE, tmp_path, ["sh", "-c", "kill -SEGV $$"]).finish()
    assert ended.how is How.CRASHED
    assert "SIGSEGV" in ended.reason


def test_a_process_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    late = Job("x", (), Need(1, 1), 0.1)
    ended = Child(late, HERE, tmp_path, ["sleep", "1000"]).finish()
    assert ended.how is How.DEADLINE
    assert "0.1 s" in ended.reason


def test_files_of_a_job_lie_where_it_works(tmp_path: Path) -> None:
    with_file = Job("x", (), Need(1, 1), 10, files={"a.py": "text"})
    ended = Child(with_file, HERE, tmp_path, ["sh", "-c", "cat a.py"]).finish()
    assert ended.reason == "text"


def test_the_engine_of_this_machine_ends_what_runs_when_it_is_stopped(tmp_path: Path) -> None:
    engine = here(tmp_path)
    child = Child(job("x"), HERE, tmp_path, ["sleep", "1000"])
    engine._children.append(child)
    engine.stop()
    assert child._child.poll() is not None
    engine.start(job("y"), HERE)
    assert engine._children == [], "something was started after the end"
