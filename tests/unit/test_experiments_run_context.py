"""Arms, trials and runs: nothing that broke off, failed or was never checked may end as a pass."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest

from labctl import topology
from labctl.capture.session import Evidence
from labctl.errors import GuestError, HostError, LabctlError, UsageError
from labctl.events import Event, silent
from labctl.experiments import Experiment, Trial, load, runner
from labctl.experiments import run_context as trials
from labctl.experiments.builtin import BUILTIN
from labctl.experiments.probes import Answer
from labctl.experiments.run_context import Arm, Skip, lines_of
from labctl.experiments.traffic_run import TrafficRun, check_answer, check_no_errors
from labctl.lab.lab import Lab
from labctl.results import junit, store
from labctl.results.model import Environment, Run, Verdict
from labctl.results.tables import list_table
from labctl.topology.graph import PacketPath

Body = Callable[[Trial], None]


def trial(tmp_path: Path, events: list[Event] | None = None) -> Trial:
    nothing: Any = None
    return Trial(nothing, tmp_path, tmp_path, silent if events is None else events.append)


# --- arms ---------------------------------------------------------------------------------------


def test_an_arm_that_checks_nothing_is_an_error(tmp_path: Path) -> None:
    one = trial(tmp_path)
    with one.arm("a", "an arm"):
        pass
    assert one.arms[0].verdict is Verdict.ERROR
    assert [check.observed for check in one.arms[0].checks] == [trials.UNCHECKED]


@pytest.mark.parametrize(
    ("answers", "verdict"),
    [
        ([True], Verdict.PASS),
        ([True, False], Verdict.FAIL),
        ([True, False, None], Verdict.ERROR),
        ([None], Verdict.ERROR),
    ],
)
def test_an_arms_verdict_is_that_of_its_worst_check(
    tmp_path: Path, answers: list[bool | None], verdict: Verdict
) -> None:
    one = trial(tmp_path)
    with one.arm("a", "an arm") as arm:
        for number, answer in enumerate(answers):
            assert arm.check(f"c{number}", "yes", "?", answer) is (answer is True)
    assert one.arms[0].verdict is verdict


@pytest.mark.parametrize("answer", [True, False])
def test_what_is_seen_in_a_broken_lab_is_an_error_whatever_it_was(
    tmp_path: Path, answer: bool
) -> None:
    def broken() -> None:
        raise LabctlError("the switch has ended", "bring it up again")

    nothing: Any = None
    one = Trial(nothing, tmp_path, tmp_path, check_lab=broken)
    with one.arm("a", "an arm") as arm:
        arm.check("ssh", "works", "?", answer)
    (made,) = one.arms
    assert made.verdict is Verdict.ERROR
    assert (made.checks[-1].name, made.checks[-1].observed) == ("lab", "the switch has ended")


def test_the_times_of_an_arms_checks_add_up_to_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([100.0, 160.0, 160.5, 161.0, 170.0])
    monkeypatch.setattr(trials, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    one = trial(tmp_path)
    with one.arm("a", "an arm") as arm:
        for name in ("ssh", "udp", "SYN"):
            arm.check(name, "yes", "yes", True)
    assert [check.seconds for check in one.arms[0].checks] == [60.0, 0.5, 0.5]
    assert one.arms[0].seconds == 70.0
    nowhere = {"environment": Environment(), "started": ""}
    report = ElementTree.fromstring(junit.render(Run.judge("id", "e", "h", one.arms, **nowhere)))  # type: ignore[arg-type]
    assert [suite.get("time") for suite in report.iter("testsuite")] == ["61.0"]


def test_arms_of_one_name_are_numbered_and_keep_captures_of_their_own(tmp_path: Path) -> None:
    one = trial(tmp_path)
    folders = set()
    for name in ("try", "try", "try", "try #2", "raw/ipv4", "raw ipv4", "raw-ipv4"):
        with one.arm(name, "an arm") as arm:
            arm.check("c", "yes", "yes", True)
            arm.keep(Evidence(()))
            folders.add(one.scratch(arm.name))
    assert [arm.name for arm in one.arms] == [
        "try",
        "try #2",
        "try #3",
        "try #2 #2",
        "raw/ipv4",
        "raw ipv4 #2",
        "raw-ipv4 #3",
    ]
    assert len(list(tmp_path.glob("*.pcapng"))) == len(folders) == 7


def test_a_failed_assertion_is_a_fail_and_the_next_arm_runs(tmp_path: Path) -> None:
    one = trial(tmp_path)
    with one.arm("a", "an arm") as arm:
        arm.check("c", "yes", "yes", True)
        assert 1 + 1 == 3, "sums are off"
    with one.arm("b", "another") as arm:
        arm.check("c", "yes", "yes", True)
    assert [arm.verdict for arm in one.arms] == [Verdict.FAIL, Verdict.PASS]
    assert "sums are off" in one.arms[0].checks[-1].observed


def test_a_fault_of_the_lab_is_an_error_with_its_evidence_and_the_next_arm_runs(
    tmp_path: Path,
) -> None:
    one = trial(tmp_path)
    with one.arm("a", "an arm") as arm:
        arm.check("c", "yes", "yes", True)
        raise GuestError("vm1 died", "read its console", "kernel panic\nend of it")
    with one.arm("b", "another") as arm:
        arm.check("c", "yes", "yes", True)
    assert [arm.verdict for arm in one.arms] == [Verdict.ERROR, Verdict.PASS]
    told = one.arms[0].checks[-1]
    assert told.observed == "vm1 died"
    assert told.evidence == ("read its console", "kernel panic", "end of it")


@pytest.mark.parametrize("fault", [KeyError("vm9"), KeyboardInterrupt(), SystemExit(0)])
def test_an_arm_that_breaks_off_is_no_pass(tmp_path: Path, fault: BaseException) -> None:
    one = trial(tmp_path)

    def broken() -> None:
        with one.arm("a", "an arm") as arm:
            arm.check("c", "yes", "yes", True)
            raise fault

    with pytest.raises(type(fault)):
        broken()
    assert one.arms[0].verdict is Verdict.ERROR
    assert type(fault).__name__ in one.arms[0].checks[-1].observed


def test_a_skipped_arm_says_why(tmp_path: Path) -> None:
    one = trial(tmp_path)
    with one.arm("a", "an arm"):
        raise Skip("no such NIC here")
    assert one.arms[0].verdict is Verdict.SKIP
    assert one.arms[0].checks[0].observed == "no such NIC here"


@pytest.mark.parametrize(
    ("before", "verdict"),
    [(True, Verdict.SKIP), (False, Verdict.FAIL), (None, Verdict.ERROR)],
)
def test_an_arm_that_is_given_up_is_no_pass_and_hides_nothing(
    tmp_path: Path, before: bool | None, verdict: Verdict
) -> None:
    one = trial(tmp_path)
    with one.arm("a", "an arm") as arm:
        arm.check("in effect", "off", "?", before)
        raise Skip("no such NIC here")
    assert one.arms[0].verdict is verdict
    assert one.arms[0].checks[-1].observed == "no such NIC here"


def test_a_single_check_that_is_skipped_leaves_the_verdict_to_the_others(tmp_path: Path) -> None:
    one = trial(tmp_path)
    with one.arm("a", "an arm") as arm:
        arm.check("ssh", "works", "works", True)
        arm.skip("drop reason", "TCP_CSUM", "this kernel gives none")
    assert one.arms[0].verdict is Verdict.PASS


def test_events_tell_of_arms_and_checks(tmp_path: Path) -> None:
    events: list[Event] = []
    with trial(tmp_path, events).arm("a", "an arm") as arm:
        arm.check("c", "yes", "no", False)
    assert [(one.stage, one.state) for one in events] == [
        ("arm", "start"),
        ("check", "progress"),
        ("arm", "failed"),
    ]
    assert events[1].detail == "fail: c: no"


# --- answers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "works", "verdict"),
    [
        (Answer(True, "works"), True, Verdict.PASS),
        (Answer(True, "works"), False, Verdict.FAIL),
        (Answer(False, "hangs: vm2 counted 2"), True, Verdict.FAIL),
        (Answer(False, "hangs: vm2 counted 2"), False, Verdict.PASS),
        (Answer(False, "Connection refused"), False, Verdict.FAIL),  # expected is a hang
        (Answer(None, "no cause seen"), False, Verdict.ERROR),
        (Answer(None, "no cause seen"), True, Verdict.ERROR),
    ],
)
def test_only_the_expected_answer_passes(
    tmp_path: Path, answer: Answer, works: bool, verdict: Verdict
) -> None:
    arm = Arm("a", "an arm", tmp_path, silent)
    check_answer(arm, "ssh", answer, works)
    assert arm.checks[0].verdict is verdict


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (Answer(True, "works", {"vm1": {}, "vm2": {}}), Verdict.PASS),
        (Answer(True, "works", {"vm2": {"TcpInCsumErrors": 1}}), Verdict.FAIL),
        (Answer(None, "?"), Verdict.ERROR),
    ],
)
def test_checksum_errors_are_none_only_where_it_could_be_told(
    tmp_path: Path, answer: Answer, verdict: Verdict
) -> None:
    arm = Arm("a", "an arm", tmp_path, silent)
    check_no_errors(
        arm, TrafficRun(PacketPath(()), "10.0.1.1", "10.0.1.2", "vm1", "vm2", ssh=answer)
    )
    assert arm.checks[0].verdict is verdict


# --- runs ---------------------------------------------------------------------------------------


class FakeLab:
    """A lab that is up, as far as a run looks at it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.topology = topology.load(topology.find("bridged.yaml"))
        self.timings = {"up": 1.0}
        self.downs = 0
        self.fault: Exception | None = None
        (directory / "console").mkdir(parents=True)
        (directory / "console" / "vm1.log").write_text("Linux version\n")

    def check_programs(self) -> None:
        pass

    def down(self) -> None:
        self.downs += 1
        if self.fault:
            raise self.fault


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeLab:
    lab = FakeLab(tmp_path / "lab")
    monkeypatch.setattr(Lab, "up", lambda *_, **__: lab)
    monkeypatch.setattr(runner, "_environment", lambda _lab, host: host)
    return lab


def passing(trial: Trial) -> None:
    with trial.arm("a", "an arm") as arm:
        arm.check("c", "yes", "yes", True)


def run(body: Body, tmp_path: Path) -> Run:
    experiment = Experiment("mine", "bridged.yaml", "it works", body)
    found, path = runner.run(experiment, results=tmp_path / "results")
    assert path.parent == tmp_path / "results"
    assert store.load("last", tmp_path / "results") == found
    return found


def test_a_run_that_passes_is_recorded_with_its_consoles(fake: FakeLab, tmp_path: Path) -> None:
    found = run(passing, tmp_path)
    assert (found.verdict, found.partial, fake.downs) == (Verdict.PASS, False, 1)
    (log,) = (tmp_path / "results" / found.id / "console").iterdir()
    assert log.read_text() == "Linux version\n"
    assert {"up", "experiment", "down"} <= set(found.timings)


@pytest.mark.usefixtures("fake")
def test_a_run_without_arms_is_an_error(tmp_path: Path) -> None:
    found = run(lambda _trial: None, tmp_path)
    assert found.verdict is Verdict.ERROR
    assert [check.observed for arm in found.arms for check in arm.checks] == [trials.UNCHECKED]


def test_a_lab_that_does_not_come_up_is_a_recorded_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise HostError("no namespaces here", "change the host")

    monkeypatch.setattr(Lab, "up", refuse)
    found = run(passing, tmp_path)
    assert found.verdict is Verdict.ERROR
    assert found.arms[0].checks[0].observed == "no namespaces here"
    assert found.arms[0].checks[0].evidence == ("change the host",)


@pytest.mark.parametrize("fault", [GuestError("vm1 is gone"), KeyError("vm9")])
def test_a_body_that_breaks_is_a_recorded_error_and_the_lab_goes(
    fake: FakeLab, tmp_path: Path, fault: Exception
) -> None:
    def body(trial: Trial) -> None:
        passing(trial)
        raise fault

    found = run(body, tmp_path)
    assert (found.verdict, fake.downs) == (Verdict.ERROR, 1)
    assert found.arms[0].verdict is Verdict.PASS
    told = found.arms[1].checks[0]
    assert str(fault) in told.observed
    if isinstance(fault, KeyError):  # the experiment's own mistake: show its lines
        assert any("raise fault" in line for line in told.evidence)


@pytest.mark.parametrize("fault", [None, KeyError("vm9"), KeyboardInterrupt()])
def test_what_an_experiment_defers_happens_before_its_lab_goes(
    fake: FakeLab, tmp_path: Path, fault: BaseException | None
) -> None:
    downs: list[int] = []

    def tidy() -> None:
        downs.append(fake.downs)
        raise GuestError("vm1 is gone")

    def body(trial: Trial) -> None:
        trial.defer(lambda: downs.append(fake.downs))
        trial.defer(tidy)
        passing(trial)
        if fault:
            raise fault

    if isinstance(fault, KeyboardInterrupt):
        with pytest.raises(KeyboardInterrupt):
            run(body, tmp_path)
        found = store.load("last", tmp_path / "results")
    else:
        found = run(body, tmp_path)
    assert (downs, fake.downs) == ([0, 0], 1)
    assert found.verdict is Verdict.ERROR
    observed = [check.observed for arm in found.arms for check in arm.checks]
    assert any(text.endswith("tidy: vm1 is gone") for text in observed)


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(
    ("before", "verdict"),
    [(True, Verdict.SKIP), (False, Verdict.FAIL), (None, Verdict.ERROR)],
)
def test_a_run_that_is_given_up_is_no_pass_and_hides_nothing(
    tmp_path: Path, before: bool | None, verdict: Verdict
) -> None:
    def body(trial: Trial) -> None:
        with trial.arm("control", "an arm") as arm:
            arm.check("c", "yes", "?", before)
        raise Skip("no such NIC here")

    found = run(body, tmp_path)
    assert (found.verdict, found.partial) == (verdict, False)
    assert found.arms[-1].checks[0].observed == "no such NIC here"


@pytest.mark.usefixtures("fake")
def test_an_arm_that_the_runner_adds_has_a_name_of_its_own(tmp_path: Path) -> None:
    def body(trial: Trial) -> None:
        with trial.arm("skipped", "an arm") as arm:
            arm.check("c", "yes", "yes", True)
        raise Skip("no such NIC here")

    assert [arm.name for arm in run(body, tmp_path).arms] == ["skipped", "skipped #2"]


def test_an_interrupt_goes_on_and_what_was_found_is_kept_as_partial(
    fake: FakeLab, tmp_path: Path
) -> None:
    def body(trial: Trial) -> None:
        passing(trial)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(body, tmp_path)
    assert fake.downs == 1
    found = store.load("last", tmp_path / "results")
    assert found.partial
    assert found.verdict is not Verdict.PASS
    assert [arm.name for arm in found.arms][:1] == ["a"]
    (listed,) = store.list_runs(tmp_path / "results")
    assert listed.to_json()["state"] == "interrupted"
    assert list_table([listed]).rows[0][1] == "interrupted"


@pytest.mark.parametrize("fault", [LabctlError("a link stays"), OSError("disk full")])
def test_a_lab_that_does_not_go_down_is_a_recorded_error(
    fake: FakeLab, tmp_path: Path, fault: Exception
) -> None:
    fake.fault = fault
    found = run(passing, tmp_path)
    assert found.verdict is Verdict.ERROR
    assert str(fault) in found.arms[-1].checks[0].observed


def test_a_mistake_in_the_topology_starts_and_records_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        runner.run(
            Experiment("mine", "no-such-topology", "it works", passing), results=tmp_path / "r"
        )
    assert not (tmp_path / "r").exists()


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("name", BUILTIN)
def test_a_built_in_experiment_whose_every_arm_breaks_is_an_error_not_a_crash(
    tmp_path: Path, name: str
) -> None:
    """The fake lab has no nodes and no routers at all, so every arm and the body meet a fault."""
    found, path = runner.run(BUILTIN[name], results=tmp_path / "results")
    assert found.verdict is Verdict.ERROR
    assert json.loads((path / "result.json").read_text())["verdict"] == "error"


@pytest.mark.usefixtures("fake")
def test_a_built_in_experiment_is_of_the_shipped_topology_whatever_lies_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bridged.yaml").write_text("name: another\nnetworks: {}\n")
    monkeypatch.chdir(tmp_path)
    found, _ = runner.run(BUILTIN["bridged"], results=tmp_path / "results")
    assert found.environment.topology == "bridged"


class DeadLab(FakeLab):
    """A lab of which every part says that it is gone."""

    topology: topology.Topology

    def _gone(self, *_: object, **__: object) -> Any:
        raise GuestError("the lab went down meanwhile")

    node = router = forwarder = restart = _gone

    @property
    def nodes(self) -> Any:
        return self._gone()


@pytest.mark.parametrize("name", BUILTIN)
def test_a_built_in_experiment_survives_a_lab_that_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    lab = DeadLab(tmp_path / "lab")
    lab.topology = BUILTIN[name].load()
    monkeypatch.setattr(Lab, "up", lambda *_, **__: lab)
    monkeypatch.setattr(runner, "_environment", lambda _lab, host: host)
    found, _ = runner.run(BUILTIN[name], results=tmp_path / "results")
    assert found.verdict is Verdict.ERROR
    observed = {check.observed for arm in found.arms for check in arm.checks}
    assert observed == {"the lab went down meanwhile"}


# --- finding experiments ------------------------------------------------------------------------


def test_built_in_experiments_are_found_by_name() -> None:
    assert load.find(["router-hop", "bridged"]) == [BUILTIN["router-hop"], BUILTIN["bridged"]]
    assert all(one.summary and one.name == name for name, one in BUILTIN.items())


def test_a_wrong_name_is_told_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="no experiment router-hpo") as told:
        load.find(["bridged", "router-hpo"])
    assert "did you mean router-hop?" in told.value.hint
    with pytest.raises(UsageError) as told:
        load.find(["zzz"])
    assert "bridged" in told.value.hint


MINE = """
from labctl.experiments import Trial, experiment

@experiment("mine", topology="bridged.yaml", hypothesis="it works")
def mine(trial: Trial) -> None:
    pass
"""


def test_a_users_file_gives_its_experiments(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    (found,) = load.find([str(tmp_path / "mine.py")])
    assert (found.name, found.topology, found.summary) == ("mine", "bridged.yaml", "it works")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\ndef f(:\n", r"mine\.py:2:7: "),
        ("import no_such_module\n", r"mine\.py:1: ModuleNotFoundError: .*no_such_module"),
        ("\n\n1 / 0\n", r"mine\.py:3: ZeroDivisionError"),
        ("x = 1\n", r"mine\.py holds no experiment"),
        ("\x00", r"mine\.py"),
    ],
)
@pytest.mark.parametrize("relative", [False, True])
def test_a_users_file_that_is_wrong_is_told_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str, relative: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(UsageError, match=message):
        load.find(["mine.py" if relative else str(tmp_path / "mine.py")])


def test_two_experiments_of_one_name_are_refused(tmp_path: Path) -> None:
    text = """
from labctl.experiments import experiment
@experiment("{}", topology="bridged.yaml", hypothesis="it works")
def mine(trial): ...
"""
    ours, theirs = tmp_path / "ours.py", tmp_path / "theirs.py"
    ours.write_text(text.format("bridged"))
    theirs.write_text(text.format("mine"))
    with pytest.raises(UsageError, match="two experiments are called bridged"):
        load.find([str(ours)])
    with pytest.raises(UsageError, match="two experiments are called mine"):
        load.find([str(theirs), str(theirs)])
    assert [one.name for one in load.find([str(theirs), "bridged", "bridged"])] == [
        "mine",
        "bridged",
        "bridged",
    ]


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no file"):
        load.find([str(tmp_path / "none.py")])
    with pytest.raises(UsageError, match="there is no file"):
        load.find(["./none"])


def test_the_hint_of_a_lab_that_is_gone_leads_to_the_console_that_was_kept() -> None:
    error = GuestError("vm1 has ended", "read what it said last: labctl logs vm1", "panic")
    assert lines_of(error) == [
        "read what it said last: console/vm1.log in the folder of this run",
        "panic",
    ]
