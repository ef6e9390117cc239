"""Guests on the kernels of Debian's releases: the same experiments, with the same verdicts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from live import Place, place

pytestmark = pytest.mark.integration

RELEASES = {"debian-11": "5.10.", "debian-12": "6.1.", "debian-13": "6.12.", "debian-sid": "7."}
OLDEST = "debian-11"
NEWER = [name for name in RELEASES if name != OLDEST]
NO_REASON = "the guest's kernel gives no reasons (before 5.17)"


@pytest.fixture(scope="module")
def here(pytestconfig: pytest.Config) -> Iterator[Place]:
    with place(pytestconfig.getoption("--accel")) as where:
        yield where


def run(here: Place, experiment: str, *kernels: str) -> dict[str, Any]:
    """Run an experiment once with each kernel; return the records by kernel."""
    words = [word for name in kernels for word in ("--kernel", name)]
    told = here.run("experiment", experiment, *words, "--json")
    found = {one["kernel"]: one for one in told.json()}
    assert list(found) == list(kernels), told
    for name, one in found.items():
        record = json.loads((Path(one["path"]) / "result.json").read_text())
        assert one["verdict"] == record["verdict"] == "pass", one
        ran = record["environment"]["guest_kernels"]
        assert all(release.startswith(RELEASES[name]) for release in ran.values()), ran
        assert set(record["environment"]["images"]) == {f"micro@{name}"}
    return found


def reasons(record: dict[str, Any]) -> set[tuple[str, str]]:
    """Return the verdicts of the checks of why a packet was dropped, with what was observed."""
    return {
        (check["verdict"], check["observed"])
        for arm in record["arms"]
        for check in arm["checks"]
        if check["name"].startswith("drop reason")
    }


def test_bridged_on_the_oldest(here: Place) -> None:
    run(here, "bridged", OLDEST)


@pytest.mark.slow
def test_bridged_on_each_newer_one(here: Place) -> None:
    run(here, "bridged", *NEWER)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", RELEASES)
def test_router_hop_on_each(here: Place, kernel: str) -> None:
    found = reasons(run(here, "router-hop", kernel)[kernel])
    assert found, "no arm looked for the reason"
    assert (("skip", NO_REASON) in found) == (kernel == OLDEST)


def test_two_kernels_in_one_lab(here: Place) -> None:
    lan = "interfaces: [{network: lan, addresses: [10.0.1.%d/24]}]"
    here.write(
        "two.yaml",
        "name: two\nnetworks: {lan: {}}\nnodes:\n"
        f"  old: {{kernel: {OLDEST}, {lan % 1}}}\n  own: {{{lan % 2}}}\n",
    )
    assert here.run("up", "two.yaml").status == 0
    try:
        said = [here.run("exec", node, "--", "uname", "-r").stdout for node in ("old", "own")]
        assert said[0].startswith(RELEASES[OLDEST])
        assert not said[1].startswith(RELEASES[OLDEST])
        assert here.run("exec", "old", "--", "ping", "-c1", "-W9", "10.0.1.2").status == 0
    finally:
        assert here.run("down", "two").status == 0
