"""A few inputs for every door through which others' bytes come in; `make fuzz` tries many."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from fuzz import findings
from fuzz.target import Target, classify, printed
from fuzz.targets import TARGETS
from labctl.errors import LabctlError

INPUTS = 40


def target(check: Callable[[bytes], None]) -> Target:
    """A target that answers as told."""
    return Target("any", "", 1, (), list, lambda _rng: b"", check)


def raising(error: Exception) -> Target:
    def fault(_data: bytes) -> None:
        raise error

    return target(fault)


@pytest.mark.parametrize("name", TARGETS)
def test_whatever_comes_in_the_answer_is_a_value_or_a_clear_error(name: str) -> None:
    door = TARGETS[name]
    made = (door.make(Random(f"short/{number}")) for number in range(INPUTS))
    for data in itertools.chain(door.seeds()[:20], made):
        found = classify(door, data)
        assert found is None, (found.text, data)


@pytest.mark.parametrize(
    "name", ["topologies", "captures", "frames", "recipes", "records", "archives"]
)
def test_a_sound_input_is_taken(name: str) -> None:
    TARGETS[name].check(TARGETS[name].seeds()[0])


@pytest.mark.parametrize("name", TARGETS)
def test_an_input_is_named_by_its_seed(name: str) -> None:
    assert TARGETS[name].make(Random("1/2")) == TARGETS[name].make(Random("1/2"))


def test_an_error_of_labctls_own_is_an_answer_and_another_is_a_finding() -> None:
    assert classify(raising(LabctlError("no", "do this")), b"") is None
    found = classify(raising(KeyError("x")), b"")
    assert found is not None
    assert found.key == "KeyError in test_fuzz_targets.py:fault"


@pytest.mark.parametrize("error", [LabctlError(""), LabctlError("x" * 10**6)])
def test_an_error_that_tells_nothing_or_has_no_end_is_a_finding(error: LabctlError) -> None:
    assert classify(raising(error), b"") is not None


def test_an_input_that_takes_long_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fuzz.target.SECONDS", -1.0)
    found = classify(target(lambda _data: None), b"")
    assert found is not None
    assert found.key == "slow"


def test_colours_are_printed() -> None:
    assert "bold" in printed(lambda: print("bold"))


def test_a_finding_is_kept_once_and_made_small(tmp_path: Path) -> None:
    def fault(data: bytes) -> None:
        if b"ab" in data:
            raise ValueError("x")

    data = b"-" * 50 + b"ab" + b"-" * 50
    found = classify(target(fault), data)
    assert found is not None
    assert findings.keep(tmp_path, target(fault), data, found)
    assert not findings.keep(tmp_path, target(fault), data, found)
    (folder,) = tmp_path.iterdir()
    assert (folder / "smallest").read_bytes() == b"ab"
    assert (folder / "input").read_bytes() == data
