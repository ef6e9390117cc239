"""Every topology can be a lab: what a lab is called after it, and what a lab can be called."""

from __future__ import annotations

from pathlib import Path

import pytest

from labctl.errors import UsageError
from labctl.lab import naming, state
from labctl.lab.lab import Lab
from labctl.topology import find, load

TEXT = "networks: {lan: {}}\nnodes: {vm1: {interfaces: [{network: lan}]}}\n"


@pytest.mark.parametrize(
    ("written", "called"),
    [
        ("bridged", "bridged"),
        ("router-hop", "router-hop"),
        ("a--b", "a--b"),
        ("My_Pair", "my-pair"),
        ("two.hosts.v2", "two-hosts-v2"),
        ("my pair (2)", "my-pair-2"),
        ("-x", "x"),
        ("7", "7"),
        ("größe", "gr-e"),
        ("対", "lab"),
        ("", "lab"),
        ("x" * 63, "x" * 40),
        ("x" * 39 + "_y", "x" * 39),
    ],
)
def test_a_lab_is_called_after_its_topology(written: str, called: str) -> None:
    assert naming.from_topology(written) == called
    naming.check(called)
    marked = naming.from_topology(written, "12ab34cd")
    assert marked.endswith("-12ab34cd")
    naming.check(marked)


def test_a_name_that_two_topologies_share_does_not_hide_the_mark() -> None:
    long = "x" * 63
    assert naming.from_topology(long, "aa") != naming.from_topology(long, "bb")


@pytest.mark.parametrize("name", ["", "My_Pair", "a.b", "-a", "x" * 41, "../up", "a\n"])
def test_a_name_that_somebody_chose_is_not_changed_but_refused(name: str) -> None:
    with pytest.raises(UsageError, match="is not a name for a lab") as told:
        Lab.up(load(find("bridged")), name=name)
    assert told.value.hint == "use a-z, 0-9 and -, 40 at most"


def test_a_file_whose_name_cannot_be_a_labs_comes_up_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "My_Pair.yaml"
    file.write_text(TEXT)

    class ReachedError(Exception):
        """As far as a test without root may go."""

    def stop(name: str, *_: object) -> Path:
        raise ReachedError(name)

    monkeypatch.setattr(state, "directory", stop)
    with pytest.raises(ReachedError, match=r"^my-pair$"):
        Lab.up(load(file))
