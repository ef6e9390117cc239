"""Experiments by variants: their cases, names and order, what is run of them, and what is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from labctl.cli.main import cli
from labctl.errors import GuestError, UsageError
from labctl.events import silent
from labctl.experiments import Arm, Case, Experiment, Skip, Trial, experiment, load, runner
from labctl.experiments.builtin.effects.experiment import pairs
from labctl.experiments.model import UNTOLD
from labctl.experiments.variants import Axis, product
from labctl.results.model import Verdict, combine
from labctl.topology import Topology, from_mapping

AXES: dict[str, Axis] = {"router": ["raw", "raw-vnet"], "ip": {"ipv4": 4, "ipv6": 6}}
ALL = ["raw/ipv4", "raw/ipv6", "raw-vnet/ipv4", "raw-vnet/ipv6"]


def names(cases: tuple[Case, ...]) -> list[str]:
    return [case.name for case in cases]


def passes(_trial: Trial, arm: Arm, case: Case) -> str:
    arm.check("c", "yes", "yes", True)
    return f"of {case.name}"


def made(
    body: Callable[[Trial, Arm, Case], Any] = passes,
    story: Callable[[Mapping[str, Any]], list[str]] | None = None,
) -> Experiment:
    return experiment(
        "mine", topology="bridged.yaml", hypothesis="it works", variants=AXES, story=story
    )(body)


def tried(one: Experiment, folder: Path) -> Trial:
    nothing: Any = None
    trial = Trial(nothing, folder, folder, silent)
    one.run(trial)
    return trial


# --- cases --------------------------------------------------------------------------------------


def test_cases_are_the_product_of_the_axes_the_last_changing_fastest() -> None:
    cases = product(AXES)
    assert names(cases) == ALL
    assert [(case["router"], case["ip"]) for case in cases] == [
        ("raw", 4), ("raw", 6), ("raw-vnet", 4), ("raw-vnet", 6),
    ]  # fmt: skip
    assert cases[0].description == "router raw, ip ipv4"


def test_combinations_that_make_no_sense_are_left_out() -> None:
    cases = product(AXES, where=lambda case: case["router"] == "raw" or case["ip"] == 4)
    assert names(cases) == ["raw/ipv4", "raw/ipv6", "raw-vnet/ipv4"]


def test_a_case_is_described_in_the_authors_words() -> None:
    cases = product({"ip": [4]}, describe=lambda case: f"version {case['ip']}")
    assert [(case.name, case.description) for case in cases] == [("4", "version 4")]


@pytest.mark.parametrize(
    ("axes", "where", "told"),
    [
        ({"ip": []}, None, "the axis 'ip' has no values"),
        ({"ip": [4]}, lambda _: False, "the variants give no case"),
        ({}, lambda _: False, "the variants give no case"),
        ({"ip": ["4", 4]}, None, "two cases are called 4"),
        ({"a": ["x", "x/y"], "b": ["y/z", "z"]}, None, "two cases are called x/y/z"),
    ],
)
def test_variants_that_give_no_cases_with_names_are_refused(
    axes: dict[str, list[Any]], where: Any, told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        product(axes, where)


def test_wrong_variants_in_a_users_file_are_told_with_their_line(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from labctl.experiments import experiment\n"
        "made = experiment('mine', topology='bridged', hypothesis='h', variants={'ip': []})\n"
    )
    with pytest.raises(UsageError, match=r"mine\.py:2: the axis 'ip' has no values"):
        load.find([str(file)])


# --- running them -------------------------------------------------------------------------------


def test_the_body_is_called_once_a_case_in_an_arm_of_its_name(tmp_path: Path) -> None:
    trial = tried(made(), tmp_path)
    assert [arm.name for arm in trial.arms] == ALL
    assert {arm.verdict for arm in trial.arms} == {Verdict.PASS}
    assert (trial.story, trial.notes) == ([], [])


def test_the_story_gets_what_every_case_returned(tmp_path: Path) -> None:
    trial = tried(made(story=lambda found: [f"{k}: {v}" for k, v in found.items()]), tmp_path)
    assert trial.story == [f"{name}: of {name}" for name in ALL]
    assert trial.notes == []


@pytest.mark.parametrize(
    "fault", [GuestError("vm1 died"), AssertionError("no"), Skip("no such NIC here")]
)
def test_where_a_case_breaks_off_the_others_run_and_no_story_is_told(
    tmp_path: Path, fault: Exception
) -> None:
    def breaks(_trial: Trial, arm: Arm, case: Case) -> None:
        arm.check("c", "yes", "yes", True)
        if case.name == "raw/ipv6":
            raise fault

    trial = tried(made(breaks, story=lambda _: ["all is told"]), tmp_path)
    assert [arm.name for arm in trial.arms] == ALL
    assert [arm.verdict is Verdict.PASS for arm in trial.arms] == [True, False, True, True]
    assert (trial.story, trial.notes) == ([], [UNTOLD])


def test_a_case_that_fails_has_come_to_its_end(tmp_path: Path) -> None:
    def fails(_trial: Trial, arm: Arm, _case: Case) -> None:
        arm.check("c", "yes", "no", False)

    assert tried(made(fails, story=lambda _: ["so it was"]), tmp_path).story == ["so it was"]


# --- a part of them -----------------------------------------------------------------------------


def test_cases_that_are_not_chosen_are_skipped_and_it_is_said(tmp_path: Path) -> None:
    trial = tried(made(story=lambda _: ["all"]).select(["raw/*"]), tmp_path)
    verdicts = [arm.verdict for arm in trial.arms]
    assert verdicts == [Verdict.PASS, Verdict.PASS, Verdict.SKIP, Verdict.SKIP]
    assert trial.arms[2].checks[0].observed == "not chosen by --only raw/*"
    assert trial.notes == ["2 of 4 cases were chosen by --only"]
    assert trial.story == []
    assert combine(verdicts) is Verdict.PASS


def test_what_chooses_nothing_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="mine has no case 'raw/ipv5'") as told:
        made().select(["raw/ipv4", "raw/ipv5"])
    assert "did you mean raw/ipv" in told.value.hint
    plain = Experiment("plain", "bridged.yaml", "it works", lambda _trial: None)
    with pytest.raises(UsageError, match="plain has no cases to choose from"):
        plain.select(["raw/*"])


def test_a_pattern_that_fits_all_leaves_nothing_out(tmp_path: Path) -> None:
    trial = tried(made(story=lambda _: ["all"]).select(["*/ipv4", "*/ipv6"]), tmp_path)
    assert (trial.story, trial.notes) == (["all"], [])


def test_the_command_of_a_record_runs_the_same_part_again() -> None:
    words = runner._command(made().select(["raw/*"]).on("mine.yaml"), "auto")
    assert words.endswith("test_experiments_variants.py --topology mine.yaml --only 'raw/*'")


def test_an_experiment_on_another_topology_takes_the_users_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bridged.yaml").write_text("name: another\nnodes: {a: {}}\n")
    (built_in,) = load.find(["bridged"])
    assert built_in.load().name == "bridged"
    assert built_in.on("bridged.yaml").load().name == "another"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["router-hop", "--only", "rav/*"], "router-hop has no case 'rav/*'"),
        (["bridged", "--topology", "no-such"], "there is no topology 'no-such'"),
    ],
)
def test_a_wrong_choice_starts_nothing(
    words: list[str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a lab was started")

    monkeypatch.setattr(runner, "Lab", SimpleNamespace(up=never))
    done = CliRunner().invoke(cli, ["experiment", *words])
    assert told in f"{done.output}{done.exception}"


# --- cases that follow from the topology --------------------------------------------------------


def test_a_function_finds_the_axes_in_the_topology_it_is_run_on(tmp_path: Path) -> None:
    def nodes(topology: Topology) -> dict[str, Axis]:
        return {"node": list(topology.nodes)}

    one = experiment("mine", topology="bridged", hypothesis="it works", variants=nodes)(passes)
    assert one.select(["vm2"]).only == ("vm2",)
    with pytest.raises(UsageError, match="mine has no case 'four'"):
        one.select(["four"])
    assert one.on("dual-stack").select(["four"]).only == ("four",)
    lab: Any = SimpleNamespace(topology=one.load())
    trial = Trial(lab, tmp_path, tmp_path)
    one.run(trial)
    assert [arm.name for arm in trial.arms] == ["vm1", "vm2"]


@pytest.mark.parametrize(
    ("topology", "cases"),
    [
        ("bridged", ["vm1 to vm2/ipv4", "vm1 to vm2/ipv6", "vm2 to vm1/ipv4", "vm2 to vm1/ipv6"]),
        (
            "dual-stack",
            ["four to both/ipv4", "six to both/ipv6", "both to four/ipv4", "both to six/ipv6"],
        ),
    ],
)
def test_effects_crosses_between_all_guests_that_have_addresses_of_one_version(
    topology: str, cases: list[str]
) -> None:
    (one,) = load.find(["effects"])
    found = one.on(topology)
    for name in cases:
        assert found.select([name]).only == (name,)
    with pytest.raises(UsageError, match="no case"):
        found.select(["four to six/*"])


def test_effects_tells_what_each_router_on_the_way_does() -> None:
    axes = pairs(load.find(["effects"])[0].load().with_router_kind("r2", "raw"))
    assert isinstance(axes["pair"], dict)
    assert axes["pair"]["vm1 to vm2"].what == "through r1 (namespace: keeps), r2 (raw: loses)"


def test_effects_needs_two_guests_that_are_joined() -> None:
    apart = from_mapping({"networks": {"a": {}}, "nodes": {"vm1": {"interfaces": []}}})
    with pytest.raises(UsageError, match="has no two guests"):
        pairs(apart)


def test_one_run_for_each_kernel_of_the_command_line_or_of_its_own() -> None:
    @experiment(
        "mine", topology="bridged.yaml", hypothesis="it works", kernels=["debian-11", "debian-13"]
    )
    def mine(_trial: Trial) -> None:
        raise AssertionError

    assert [one.kernel for one in mine.by_kernel()] == ["debian-11", "debian-13"]
    chosen = mine.by_kernel(["debian-12", "debian-12"])
    assert [one.kernel for one in chosen] == ["debian-12"]
    assert {node.image for node in chosen[0].load().nodes.values()} == {"micro@debian-12"}
    assert "--kernel debian-12" in runner._command(chosen[0], "auto")
    plain = Experiment("plain", "bridged.yaml", "it works", lambda _trial: None)
    assert plain.by_kernel() == [plain]


@pytest.mark.parametrize("kernel", ["debian-99", "./gone"])
def test_a_kernel_that_is_not_there_is_told_before_anything_starts(kernel: str) -> None:
    plain = Experiment("plain", "bridged.yaml", "it works", lambda _trial: None)
    with pytest.raises(UsageError, match="there is no kernel"):
        plain.by_kernel(["debian-12", kernel])
