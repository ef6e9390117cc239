"""Watches of drops: any number at once in one guest, and what killed ones leave."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from tracefs import Tracefs

from labctl.errors import LabctlError
from labctl.kinds.guests.micro import Micro
from labctl.lab.node import Node
from labctl.lab.watch import watch_drops
from labctl.sandbox.process import CommandError, Result


class Guest:
    """A node whose shell is this machine's, with a folder for tracefs."""

    def __init__(self, folder: Path, *, tells: bool = True) -> None:
        self.name = "vm1"
        self.model = SimpleNamespace(guest_kind=Micro())
        self.directory = folder / "lab"
        self.directory.mkdir()
        self.tracefs = Tracefs(folder / "tracing", tells=tells)

    def run(self, words: Sequence[str], *, check: bool = True, timeout: float = 1.0) -> Result:
        assert timeout
        assert words[:2] == ("sh", "-c")
        try:
            return Result(("sh",), 0, self.tracefs.run(words[2]), "")
        except subprocess.CalledProcessError as wrong:
            if check:
                raise CommandError("refused") from None
            return Result(("sh",), wrong.returncode, "", "")

    @property
    def node(self) -> Node:
        return cast("Node", self)

    @property
    def claims(self) -> list[str]:
        return sorted(path.name for path in (self.directory / "watches").iterdir())


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    return Guest(tmp_path)


def test_the_end_of_one_watch_leaves_the_others_going(guest: Guest) -> None:
    with watch_drops(guest.node):
        (first,) = guest.tracefs.instances()
        with watch_drops(guest.node) as second:
            assert len(guest.tracefs.instances()) == 2
            assert second.why_not == ""
        assert guest.tracefs.instances() == [first]
        assert guest.claims == [first.removeprefix("labctl-")]
    assert guest.tracefs.instances() == guest.claims == []


HOLD = """
import fcntl, sys, time
file = open(sys.argv[1], "x")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(600)
"""


def test_only_watches_whose_process_is_dead_are_removed(guest: Guest) -> None:
    (guest.directory / "watches").mkdir()
    claim = guest.directory / "watches" / "0a"
    words = [sys.executable, "-c", HOLD, str(claim)]
    guest.tracefs.run("mkdir /sys/kernel/tracing/instances/labctl-0a")
    guest.tracefs.run("mkdir /sys/kernel/tracing/instances/labctl-unknown")
    guest.tracefs.run("mkdir /sys/kernel/tracing/instances/other")
    with subprocess.Popen(words, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        try:
            assert holder.stdout.readline() == b"held\n"
            with watch_drops(guest.node):
                assert "labctl-0a" in guest.tracefs.instances()
            assert guest.claims == ["0a"]
        finally:
            holder.kill()
    with watch_drops(guest.node):
        assert "labctl-0a" not in guest.tracefs.instances()
    assert guest.claims == []
    assert guest.tracefs.instances() == ["labctl-unknown", "other"]


def test_a_watch_that_fails_within_is_ended(guest: Guest) -> None:
    with pytest.raises(LabctlError, match="within"), watch_drops(guest.node):
        raise LabctlError("within")
    assert guest.tracefs.instances() == guest.claims == []


def test_a_kernel_that_does_not_tell_is_left_as_it_was(tmp_path: Path) -> None:
    guest = Guest(tmp_path, tells=False)
    with watch_drops(guest.node) as watch:
        assert "does not trace drops" in watch.why_not
        assert watch.read() == ()
    assert guest.tracefs.instances() == guest.claims == []


def test_a_lab_that_is_gone_is_an_error_of_its_own(guest: Guest) -> None:
    guest.directory.rmdir()
    with pytest.raises(LabctlError, match="vm1"), watch_drops(guest.node):
        pass
