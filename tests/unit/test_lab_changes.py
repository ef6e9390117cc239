"""Events: what another look found changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cli_words import Labctl
from test_results_records import CHECKS, recorded

from labctl.lab.changes import State, between, of_labs

pytest_plugins = ["cli_words"]


def lab(state: str = "up", **parts: Any) -> dict[str, Any]:
    default = {"is": "node", "state": "running", "links": {}}
    return {
        "name": "pair",
        "state": state,
        "parts": [{"name": name, **default, **more} for name, more in parts.items()],
    }


def told(
    before: list[dict[str, Any]], after: list[dict[str, Any]]
) -> list[tuple[str, str, str | None, str]]:
    events = between(of_labs(before), of_labs(after))
    return [(one["type"], one["name"], one["was"], one["state"]) for one in events]


def test_the_first_look_tells_all_that_is_there_and_an_equal_one_nothing() -> None:
    some = [lab(vm1={}, r1={"is": "router (raw)"}, lan={"is": "network", "state": ""})]
    assert told([], some) == [
        ("lab", "pair", None, "up"),
        ("node", "vm1", None, "running"),
        ("router", "r1", None, "running"),
    ]
    assert told(some, some) == []


def test_what_ends_is_lost_or_comes_back_is_told() -> None:
    well, lost = lab(vm1={}), lab("damaged", vm1={"links": {"eth0": "it has no carrier"}})
    assert told([well], [lost]) == [
        ("lab", "pair", "up", "damaged"),
        ("link", "vm1:eth0", None, "down"),
    ]
    assert told([lost], [well]) == [
        ("lab", "pair", "damaged", "up"),
        ("link", "vm1:eth0", "down", "up"),
    ]
    assert told([well], [lab("damaged", vm1={"state": "ended"})])[1:] == [
        ("node", "vm1", "running", "ended")
    ]
    assert told([lost], []) == [
        ("lab", "pair", "damaged", "gone"),
        ("node", "vm1", "running", "gone"),
        ("link", "vm1:eth0", "down", "gone"),
    ]


def test_another_kind_of_a_router_is_an_event_with_its_detail() -> None:
    before, after = (of_labs([lab(r1={"is": f"router ({kind})"})]) for kind in ("raw", "raw-vnet"))
    (event,) = between(before, after)
    assert event["detail"] == "router (raw-vnet)"
    assert before["router", "pair", "r1"] == State("running", "router (raw)")


@pytest.mark.usefixtures("runtime")
def test_runs_of_experiments_are_events_and_each_line_is_json(
    labctl: Labctl, tmp_path: Path
) -> None:
    run = recorded(tmp_path / "results", CHECKS)
    done = labctl("events", "--for", "0", "--results", str(tmp_path / "results"))
    assert done.code == 0
    (event,) = map(json.loads, done.out.splitlines())
    assert set(event) == {"time", "type", "lab", "name", "state", "was", "detail"}
    assert (event["type"], event["name"], event["state"]) == ("experiment", run.id, "finished")
    assert event["detail"] == "error"


@pytest.mark.usefixtures("runtime")
def test_a_table_that_watches_is_no_json(labctl: Labctl) -> None:
    done = labctl("status", "--watch", "--json")
    assert done.code == 2
    assert "labctl events" in done.out
