from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_words import Labctl, labctl, runtime
from junitparser import JUnitXml

from labctl.errors import HostError, LabctlError, UsageError
from labctl.jobs.model import Ended, How, Job, News, Place
from labctl.matrix import cells, cluster, file, merge, progress, run, worker
from labctl.matrix.cluster import Keys
from labctl.matrix.file import Written
from labctl.matrix.run import RESULTS, Wanted
from labctl.report import matrix as pages
from labctl.results import matrix, matrix_junit
from labctl.results.matrix import Attempt
from labctl.results.model import ArmResult, Check, Environment, Run, Verdict
from labctl.results.recorder import Recorder
from labctl.topology import TopologyError

__all__ = ["labctl", "runtime"]
FILE = """
name: some
experiments: [bridged, router-hop]
axes:
  nic: [virtio, e1000]
  ip: [ipv4, ipv6]
exclude:
  - {experiment: bridged, nic: e1000}
repeat: 2
timeout: 20m
"""


def read(tmp_path: Path, text: str) -> Written:
    path = tmp_path / "some.yaml"
    path.write_text(text)
    return file.load(path)


def some(tmp_path: Path, text: str = FILE) -> list[cells.Planned]:
    return cells.plan(read(tmp_path, text))


def test_cells_are_all_combinations_but_those_left_out(tmp_path: Path) -> None:
    found = some(tmp_path)
    assert len(found) == 2 * (2 + 4)
    assert found[0].cell.name == "bridged nic=virtio ip=ipv4"
    assert found[-1].cell.name == "router-hop nic=e1000 ip=ipv6 #2"
    assert found[-1].words == ("experiment", "router-hop", "--nic", "e1000", "--only", "*/ipv6")
    assert found[0].timeout == 1200
    assert found[0].need.cores == 2
    assert len({one.cell.key for one in found}) == len(found)


def test_an_axis_that_one_experiment_has_leaves_the_others_alone(tmp_path: Path) -> None:
    text = "experiments: [bridged, router-hop]\naxes: {between: [raw], ip: [ipv4]}\n"
    assert [one.cell.labels for one in some(tmp_path, text)] == [
        {"ip": "ipv4"}, {"between": "raw", "ip": "ipv4"}
    ]  # fmt: skip


def test_a_cell_that_has_changed_has_another_digest_and_the_same_key(tmp_path: Path) -> None:
    lab = tmp_path / "lab.yaml"
    text = "experiments: [effects]\naxes: {topology: [lab.yaml]}\n"
    found = []
    for memory in (128, 256):
        lab.write_text(
            "networks: {lan: {}}\n"
            "nodes:\n"
            f"  a: {{memory: {memory}, interfaces: [{{network: lan, addresses: [10.0.0.1/24]}}]}}\n"
            "  b: {interfaces: [{network: lan, addresses: [10.0.0.2/24]}]}\n"
        )
        (one,) = some(tmp_path, text)
        found.append(one.cell)
    assert found[0].key == found[1].key
    assert found[0].digest != found[1].digest


@pytest.mark.parametrize(
    ("text", "place", "what"),
    [
        ("experiments: [bridge]\n", "1:15", "there is no experiment bridge"),
        ("experiments: [bridged]\nrepeats: 2\n", "2:1", "unknown key 'repeats'"),
        ("experiments: [bridged]\nrepeat: 0\n", "2:9", "repeat"),
        ("experiments: []\n", "1:14", "experiments"),
        ("experiments: [bridged]\naxes: {ip: [ipv9]}\n", "2:12", "bridged has no ip 'ipv9'"),
        ("experiments: [bridged]\naxes: {nic: [e2000]}\n", "2:13", "no NIC 'e2000'"),
        ("experiments: [bridged]\naxes: {colour: [red]}\n", "2:8", "has an axis 'colour'"),
        ("experiments: [bridged]\naxes: {kernel: [debian-99]}\n", "2:16", "no kernel"),
        ("experiments: [bridged]\naxes: {topology: [none.yaml]}\n", "2:18", "no topology"),
        ("experiments: [bridged]\naxes: {start: [warm]}\n", "2:15", "there is no start 'warm'"),
        ("experiments: [bridged]\naxes: {offload: [tx]}\n", "2:17", "'tx' is no offload"),
        ("experiments: [bridged]\ntimeout: soon\n", "2:10", "'soon' is no duration"),
        ("experiments: [bridged]\naxes: {ip: [ipv4, ipv4]}\n", "2:12", "twice"),
        ("- a\n", "1:1", "a matrix is a mapping"),
        ("", "1:1", "the file is empty"),
    ],
)
def test_what_is_wrong_is_told_at_its_place(
    tmp_path: Path, text: str, place: str, what: str
) -> None:
    with pytest.raises(TopologyError) as found:
        some(tmp_path, text)
    assert f"some.yaml:{place}: " in str(found.value)
    assert what in str(found.value)


def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no cell of some is left"):
        some(tmp_path, "experiments: [bridged]\nexclude: [{experiment: '*'}]\n")


def test_parts_are_whole_disjoint_and_alike_in_size(tmp_path: Path) -> None:
    every = some(tmp_path)
    parts = [cells.shard(every, part, 5) for part in range(1, 6)]
    keys = [one.cell.key for part in parts for one in part]
    assert sorted(keys) == sorted(one.cell.key for one in every)
    assert {len(part) for part in parts} <= {2, 3}
    turned = [cells.shard(every[::-1], part, 5) for part in range(1, 6)]
    assert turned == parts, "the order in the file must not matter"


def test_an_experiment_of_a_file_is_carried_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from labctl import experiment\n"
        "@experiment('mine', topology='bridged.yaml', hypothesis='x')\n"
        "def mine(trial): ...\n"
    )
    (one,) = some(tmp_path, "experiments: [mine.py]\n")
    assert one.words == ("experiment", f"{path}::mine")
    words, texts = one.portable()
    assert words == ("experiment", "mine.py::mine")
    assert texts == {"mine.py": path.read_text()}


def test_a_cell_that_needs_a_file_of_this_machine_is_for_no_other(tmp_path: Path) -> None:
    (tmp_path / "bzImage").write_bytes(b"kernel")
    (one,) = some(tmp_path, "experiments: [bridged]\naxes: {kernel: [bzImage]}\n")
    with pytest.raises(UsageError, match="bzImage, which other machines"):
        one.portable()


def record(place: Path, verdict: Verdict) -> None:
    recorder = Recorder.create("bridged", place / RESULTS)
    check = Check("c", verdict, "x", "y")
    arms = [ArmResult.judge("a", "d", [check])]
    recorder.finish(
        Run.judge(
            recorder.id, "bridged", "h", arms, environment=Environment(), started=recorder.started
        )
    )


class Stand:
    """An engine that does in no time what it is told for each try."""

    def __init__(self, does: Callable[[int, Job, Path], Ended]) -> None:
        self.does = does
        self.count = 0
        self.ended: list[Ended] = []
        self.folder: Callable[[Job], Path] = lambda _job: Path()

    def start(self, job: Job, place: str) -> None:
        self.count += 1
        ended = self.does(self.count, job, self.folder(job))
        self.ended.append(dataclasses.replace(ended, place=place))

    def wait(self, seconds: float) -> News:
        found, self.ended = tuple(self.ended), []
        assert seconds >= 0
        return News(found, {"a": Place("a", 2, 4000), "b": Place("b", 2, 4000)})

    def stop(self) -> None: ...

    def make(self, folder: Callable[[Job], Path]) -> contextlib.AbstractContextManager[Stand]:
        self.folder = folder
        return contextlib.nullcontext(self)


def passing(_count: int, job: Job, place: Path) -> Ended:
    record(place, Verdict.PASS)
    return Ended(job, "a", How.ENDED, status=0)


def wanted(tmp_path: Path, **rest: Any) -> Wanted:
    every = some(tmp_path, "experiments: [bridged]\naxes: {ip: [ipv4, ipv6]}\n")
    return Wanted("some", every, tmp_path / "out", **rest)


def go(want: Wanted, stand: Stand) -> tuple[matrix.Matrix, list[dict[str, Any]]]:
    told: list[dict[str, Any]] = []
    return run.run(want, stand.make, told.append), told


def test_what_has_a_result_is_not_run_again(tmp_path: Path) -> None:
    made, told = go(wanted(tmp_path), Stand(passing))
    assert made.verdict is Verdict.PASS
    assert [one["event"] for one in told] == ["plan", "start", "start", "end", "end"]
    stand = Stand(passing)
    again, told = go(wanted(tmp_path), stand)
    assert stand.count == 0
    assert again == made
    assert told[0]["known"] == 2


def test_verdicts_are_run_again_when_the_user_says_so(tmp_path: Path) -> None:
    go(wanted(tmp_path), Stand(passing))
    stand = Stand(passing)
    made, _ = go(wanted(tmp_path, again=("fail",)), stand)
    assert stand.count == 0
    made, _ = go(wanted(tmp_path, again=("pass",)), stand)
    assert stand.count == 2
    assert [len(one.attempts) for one in made.outcomes] == [2, 2]
    assert "2 attempts had a verdict before" in pages.render(made, tmp_path / "out")


def test_a_try_that_is_lost_is_recorded_and_made_again(tmp_path: Path) -> None:
    def once_lost(count: int, job: Job, place: Path) -> Ended:
        if count == 1:
            return Ended(job, "a", How.LOST, "its worker is \x1b[2J lost")
        return passing(count, job, place)

    made, _ = go(wanted(tmp_path), Stand(once_lost))
    broken = next(one for one in made.outcomes if len(one.attempts) == 2)
    first, second = broken.attempts
    assert (first.how, first.verdict, first.run) == ("lost", Verdict.ERROR, "")
    assert first.reason == r"its worker is \x1b[2J lost"
    assert (second.number, second.verdict) == (2, Verdict.PASS)
    assert made.verdict is Verdict.PASS
    assert len(list((tmp_path / "out/runs").iterdir())) == 2


def test_a_process_that_leaves_no_record_is_an_error_and_run_again(tmp_path: Path) -> None:
    def silent(_count: int, job: Job, _place: Path) -> Ended:
        return Ended(job, "a", How.ENDED, "no such thing", status=2)

    made, _ = go(wanted(tmp_path), Stand(silent))
    assert made.verdict is Verdict.ERROR
    assert made.outcomes[0].attempts[0].reason == "no such thing"
    made, _ = go(wanted(tmp_path), Stand(passing))
    assert made.verdict is Verdict.PASS


def test_a_run_that_was_ended_is_no_verdict(tmp_path: Path) -> None:
    def late(_count: int, job: Job, place: Path) -> Ended:
        record(place, Verdict.PASS)
        return Ended(job, "a", How.DEADLINE, "it took longer than 1 s")

    made, _ = go(wanted(tmp_path), Stand(late))
    assert {one.verdict for one in made.outcomes} == {Verdict.ERROR}
    assert all(one.attempts[0].run for one in made.outcomes), "what it had is kept"


def test_who_interrupts_leaves_an_attempt_that_is_run_again(tmp_path: Path) -> None:
    class Interrupting(Stand):
        def wait(self, seconds: float) -> News:
            if self.count:
                raise KeyboardInterrupt
            return super().wait(seconds)

    with pytest.raises(KeyboardInterrupt):
        go(wanted(tmp_path), Interrupting(passing))
    made = matrix.read(tmp_path / "out")
    assert {one.how for each in made.outcomes for one in each.attempts} == {"stopped"}
    made, _ = go(wanted(tmp_path), Stand(passing))
    assert made.verdict is Verdict.PASS


def test_an_archive_that_is_damaged_is_an_error_with_its_reason(tmp_path: Path) -> None:
    def odd(_count: int, job: Job, place: Path) -> Ended:
        with tarfile.open(place / run.ARCHIVE, "w") as archive:
            member = tarfile.TarInfo("../../evil")
            member.size = 3
            archive.addfile(member, io.BytesIO(b"bad"))
        return Ended(job, "a", How.ENDED, status=0)

    made, _ = go(wanted(tmp_path), Stand(odd))
    assert made.verdict is Verdict.ERROR
    assert "no exported run" in made.outcomes[0].attempts[0].reason
    assert not list((tmp_path / "out/runs").iterdir())


def test_one_matrix_is_run_by_one_process_at_a_time(tmp_path: Path) -> None:
    want = wanted(tmp_path)
    with run.held(want.folder), pytest.raises(HostError, match="labctl matrix"):
        go(want, Stand(passing))


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("x")
    with pytest.raises(UsageError, match="holds no matrix"):
        go(wanted(tmp_path), Stand(passing))


def parts(tmp_path: Path) -> list[Path]:
    every = wanted(tmp_path).cells
    found = []
    for part in (1, 2):
        folder = tmp_path / f"part{part}"
        chosen = cells.shard(every, part, 2)
        go(Wanted("some", every, folder, f"{part}/2", chosen), Stand(passing))
        found.append(folder)
    return found


def test_parts_are_joined_and_each_attempt_counts_once(tmp_path: Path) -> None:
    folders = parts(tmp_path)
    assert matrix.read(folders[0]).verdict is Verdict.PASS
    half = merge.merge(folders[:1], tmp_path / "whole")
    assert half.verdict is Verdict.ERROR, "a cell that is in no part could not be told"
    for _ in range(2):
        whole = merge.merge([*folders, folders[0]], tmp_path / "whole")
        assert whole.verdict is Verdict.PASS
        assert [len(one.attempts) for one in whole.outcomes] == [1, 1]
    assert len(list((tmp_path / "whole/runs").iterdir())) == 2


def test_a_part_of_another_matrix_is_refused(tmp_path: Path) -> None:
    folders = parts(tmp_path)
    other = Wanted("other", some(tmp_path, "experiments: [bridged]\n"), tmp_path / "other")
    go(other, Stand(passing))
    with pytest.raises(UsageError, match="another matrix"):
        merge.merge([folders[0], tmp_path / "other"], tmp_path / "whole")


def test_a_part_that_names_a_run_elsewhere_is_refused(tmp_path: Path) -> None:
    (folder, _) = parts(tmp_path)
    (path,) = (folder / "attempts").iterdir()
    path.write_text(json.dumps({**json.loads(path.read_text()), "run": "../../etc"}))
    with pytest.raises(LabctlError, match="names no run"):
        merge.merge([folder], tmp_path / "whole")


def attempt(cell: str, digest: str, verdict: Verdict, number: int = 1) -> Attempt:
    return Attempt(cell, digest, number, "ended", verdict, run="r", started="t", seconds=1.0)


def of_kernel(tmp_path: Path, kernel: str, verdicts: list[Verdict]) -> matrix.Matrix:
    text = f"experiments: [bridged]\naxes: {{kernel: [{kernel}], ip: [ipv4, ipv6]}}\n"
    plan = [one.cell for one in some(tmp_path, text)]
    tries = [
        attempt(one.key, one.digest, verdict) for one, verdict in zip(plan, verdicts, strict=True)
    ]
    return matrix.planned(f"on {kernel}", plan, tries)


def test_two_kernels_are_compared_cell_by_cell(tmp_path: Path) -> None:
    old = of_kernel(tmp_path, "debian-12", [Verdict.PASS, Verdict.PASS])
    new = of_kernel(tmp_path, "debian-13", [Verdict.PASS, Verdict.FAIL])
    found = matrix.diff(old, new)
    assert [(one.cell, one.a, one.b) for one in found.changes] == [
        ("bridged ip=ipv6", "pass", "fail")
    ]
    assert found.constants == {"kernel": ("debian-12", "debian-13")}
    assert found.same == 1


def test_the_pages_hold_every_cell_and_run_nothing(tmp_path: Path) -> None:
    made = of_kernel(tmp_path, "debian-12", [Verdict.PASS, Verdict.FAIL])
    text = pages.render(made, tmp_path)
    assert "<script" not in text
    assert text.count('<tr class="row') == 2
    assert "verdict-0" in text
    report = JUnitXml.fromstring(matrix_junit.render(made).decode())
    assert (report.tests, report.failures, report.errors) == (2, 1, 0)


@pytest.mark.parametrize("text", ["{", "[]", '{"version": 2}', '{"name": 1, "outcomes": []}'])
def test_a_file_that_holds_no_matrix_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / matrix.JSON).write_text(text)
    with pytest.raises(LabctlError, match="cannot be read"):
        matrix.read(tmp_path)


def test_an_attempt_that_cannot_be_read_is_as_if_it_were_not_there(tmp_path: Path) -> None:
    made, _ = go(wanted(tmp_path), Stand(passing))
    for path in (tmp_path / "out/attempts").iterdir():
        path.write_text("{")
    assert [one.verdict for one in matrix.read(tmp_path / "out").outcomes] == [None, None]
    assert made.verdict is Verdict.PASS


def test_the_rest_is_estimated_by_the_pace_so_far() -> None:
    now = [0.0]
    one = progress.Progress(dict.fromkeys("abcd", 10.0), clock=lambda: now[0])
    assert one.left() is None
    one.start("a")
    now[0] = 20.0
    one.end("a", again=False)
    one.start("b")
    assert one.left() == pytest.approx(60.0)
    assert progress.words(60.0) == "about 60 s left"
    assert progress.words(4 * 3600) == "about 4 h 00 min left"


@pytest.mark.parametrize(
    ("address", "what"),
    [
        ("tcp://10.0.0.1:8786", "open to everybody"),
        ("tcp://[fd00::1]:8786", "open to everybody"),
        ("tls://10.0.0.1:8786", "needs --tls-ca"),
        ("localhost:8786", "is no scheduler's address"),
        ("ucx://127.0.0.1:1", "is no scheduler's address"),
    ],
)
def test_a_scheduler_that_others_could_reach_is_refused(address: str, what: str) -> None:
    with pytest.raises(UsageError, match=what):
        cluster.check_address(address, Keys())


def test_a_scheduler_of_this_machine_needs_no_keys() -> None:
    for address in ("tcp://127.0.0.1:8786", "tcp://localhost:1", "tcp://[::1]:1"):
        cluster.check_address(address, Keys())


def test_other_versions_are_told() -> None:
    ours = worker.Facts("a", 1, 1, {"labctl": "1", "qemu": "7"})
    assert worker.Facts("b", 2, 2, {"labctl": "1", "qemu": "7"}).differences(ours) == ""
    assert worker.Facts("b", 2, 2, {"labctl": "1", "qemu": "8"}).differences(ours) == "qemu 8"


@pytest.mark.parametrize(
    "order",
    [
        {"name": "../../x", "words": [], "deadline": 1, "files": {}},
        {"name": "0" * 16, "words": [], "deadline": 1, "files": {"../x": ""}},
        {"name": "0" * 16, "words": [], "deadline": 1, "files": {".profile": ""}},
        {"name": "0" * 16, "words": [], "deadline": -1, "files": {}},
    ],
)
def test_an_odd_order_is_refused(order: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        worker.ORDER.validate_json(json.dumps(order))


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "run", None)


@pytest.mark.usefixtures("runtime", "quiet")
def test_a_dry_run_lists_the_cells_and_starts_nothing(labctl: Labctl, tmp_path: Path) -> None:
    path = tmp_path / "some.yaml"
    path.write_text(FILE)
    told = labctl("matrix", str(path), "--dry-run", "--json", "--shard", "1/2")
    assert told.code == 0
    assert len(json.loads(told.out)) == 6
    told = labctl("matrix", "bridged", "--axis", "ip=ipv4", "--dry-run")
    assert "labctl experiment bridged --only ipv4" in told.out


@pytest.mark.usefixtures("runtime", "quiet")
@pytest.mark.parametrize(
    "words",
    [
        ("bridged", "--shard", "3/2"),
        ("bridged", "--local", "1", "--ssh", "host"),
        ("a.yaml", "bridged"),
        ("bridged", "--axis", "ip"),
        ("bridged", "--timeout", "soon"),
        ("bridged", "--scheduler", "tcp://10.0.0.1:1"),
    ],
)
def test_words_that_make_no_sense_are_refused(labctl: Labctl, words: tuple[str, ...]) -> None:
    assert labctl("matrix", *words).code == 2
