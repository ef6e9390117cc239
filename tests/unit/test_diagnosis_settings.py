"""What a proof that was cut off leaves in the lab's folder: undone by the next, or refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tracing_frames import PATH

from labctl.diagnosis.settings import State, mend, read, restoring
from labctl.errors import LabctlError
from labctl.guests import ethtool
from labctl.lab.lab import Lab
from labctl.network import features

ON, OFF = features.Feature(True, False), features.Feature(False, False)
TX = "tx-checksumming"


class Node:
    """A guest with one interface and one feature."""

    def __init__(self) -> None:
        self.model = SimpleNamespace(interfaces=[SimpleNamespace(name="eth0", model="virtio")])
        self.now = {TX: ethtool.Feature(True, False, True)}

    def features(self, _link: str) -> dict[str, ethtool.Feature]:
        return dict(self.now)

    def restore_features(self, wanted: dict[str, ethtool.Feature], _link: str) -> None:
        self.now = dict(wanted)


class Running:
    """A lab as far as a proof changes it, with one Linux for all that is not in a guest."""

    def __init__(self, directory: Path) -> None:
        self.name, self.directory = "one", directory
        self.nodes = {"vm1": Node(), "vm2": Node()}
        self.links = {(hop.netns, hop.link): {TX: ON} for hop in PATH if not hop.in_guest}
        self.r1 = SimpleNamespace(kind="raw", set_kind=self._set_kind)

    def _set_kind(self, kind: str) -> None:
        self.r1.kind = kind

    def node(self, name: str) -> Node:
        return self.nodes[name]

    def router(self, name: str) -> SimpleNamespace:
        return {"r1": self.r1}[name]

    forwarder = router

    def place(self, host: str) -> SimpleNamespace:
        assert host == ""
        return SimpleNamespace(call=self._call)

    def _call(self, act: Callable[..., object], link: str, *more: Any) -> object:
        values = self.links[(more[-1], link)]
        if act is features.restore:
            values.update(more[0])
        return dict(values)

    @property
    def lab(self) -> Lab:
        return cast("Lab", self)


@pytest.fixture
def running(tmp_path: Path) -> Running:
    return Running(tmp_path)


def killed(running: Running) -> State:
    """Leave the journal of a proof that was killed, and what it had turned."""
    before = read(running.lab, PATH)
    with restoring(running.lab, before, PATH):
        journal = (running.directory / "knobs.json").read_bytes()
    assert not (running.directory / "knobs.json").exists()
    (running.directory / "knobs.json").write_bytes(journal)
    running.r1.kind = "namespace"
    running.nodes["vm1"].now = {TX: ethtool.Feature(False, False, False)}
    running.links[("r1", "eth1")][TX] = OFF
    running.links[("", "vm2-eth0")][TX] = OFF
    return before


def test_what_a_killed_proof_changed_is_put_back_from_its_journal(running: Running) -> None:
    before = killed(running)
    assert len(before.differing(read(running.lab, PATH))) == 4
    assert mend(running.lab)
    assert before.differing(read(running.lab, PATH)) == []
    assert not mend(running.lab), "once"


OLD = {
    "state": {"guests": {}, "links": {}, "routers": {"r1": "raw"}},
    "path": [{"name": "vm1:eth0", "place": "guest", "owner": "vm1", "link": "eth0", "host": ""}],
}


@pytest.mark.parametrize("text", [json.dumps(OLD), "{}", "", "no json"])
def test_the_journal_of_another_labctl_is_refused_in_one_line(running: Running, text: str) -> None:
    (running.directory / "knobs.json").write_text(text)
    with pytest.raises(LabctlError, match=r"^what a proof .* in lab one cannot be read: ") as told:
        mend(running.lab)
    assert "\n" not in told.value.message
    assert "labctl down one" in told.value.hint
    assert running.r1.kind == "raw"
    assert (running.directory / "knobs.json").exists(), "what it says is not lost"
