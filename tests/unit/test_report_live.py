"""The page of a running lab: each part and its state, whatever its texts hold."""

from __future__ import annotations

from typing import Any

import pytest

from labctl import topology
from labctl.report import live

LAB = topology.load(topology.find("router-hop"))


def described(**of_vm2: Any) -> dict[str, Any]:
    interface = {
        "name": "eth0", "network": "left", "segment": "", "mac": "52:54:00:00:00:01",
        "mtu": 1500, "kind": "virtio", "outer": "vm1-eth0", "addresses": ["10.0.1.1/24"],
    }  # fmt: skip
    part = {
        "is": "node", "state": "running", "start": "cloned", "links": {}, "image": "micro",
        "addresses": "10.0.1.1/24", "interfaces": [interface],
    }  # fmt: skip
    left = {"name": "left", "is": "network", "state": "", "image": "", "addresses": "10.0.1.0/24"}
    parts = [{"name": "vm1", **part}, {"name": "vm2", **part, **of_vm2}, left]
    return {"name": "lab", "state": "damaged" if of_vm2 else "up", "parts": parts}


def test_a_page_shows_each_part_its_state_and_the_drawing() -> None:
    text = live.render(described(), LAB)
    for word in ("vm1", "vm2", "left", "running (cloned)", "vm1-eth0", "52:54:00:00:00:01", "<svg"):
        assert word in text
    assert "<h1>lab is up</h1>" in text


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"state": "powered off"}, "powered off"),
        ({"links": {"eth0": "its TAP vm2-eth0 is down"}}, "vm2:eth0 has no link: its TAP"),
    ],
)
def test_what_does_not_run_is_said_first(wrong: dict[str, Any], words: str) -> None:
    text = live.render(described(**wrong), LAB)
    assert "not all of it runs: vm2</h1>" in text
    assert words in text


def test_texts_of_others_are_texts() -> None:
    text = live.render(described(image="<script>alert(1)</script>\x1b[31m"), LAB)
    assert "<script>" not in text
    assert "\x1b" not in text


def test_a_lab_that_has_ended_has_a_page_too() -> None:
    assert "lab is dead" in live.render({"name": "lab", "state": "dead"}, LAB)
