"""Letting guests complete their sums: whatever fails on the way, nothing of it is left behind."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from labctl.experiments.software_checksums import software_checksums
from labctl.sandbox.process import CommandError


class XenGuest:
    """A guest behind netfront that refuses commands which contain `refused`."""

    def __init__(self, refused: str = "") -> None:
        self.refused = refused
        self.qdisc = False
        self.filtered = False
        self.segments = True

    def interface(self, _name: str) -> Any:
        return SimpleNamespace(model="xen")

    @contextlib.contextmanager
    def offload(self, wanted: dict[str, bool], _interface: str) -> Iterator[None]:
        assert not any(wanted.values())
        self.segments = False
        try:
            yield
        finally:
            self.segments = True

    def run(self, command: str) -> None:
        for one in command.split(" && "):
            if self.refused and self.refused in one:
                raise CommandError(f"`{one}` exited with 2")
            if "qdisc" in one:
                assert self.qdisc is ("del" in one)
                self.qdisc = "add" in one
                self.filtered = self.filtered and self.qdisc
            if "filter add" in one:
                assert self.qdisc
                self.filtered = True


def test_a_xen_guest_finishes_its_sums_by_tc_and_is_as_before_afterwards() -> None:
    guest: Any = XenGuest()
    with software_checksums(guest):
        assert (guest.qdisc, guest.filtered, guest.segments) == (True, True, False)
    assert (guest.qdisc, guest.filtered, guest.segments) == (False, False, True)


@pytest.mark.parametrize("refused", ["qdisc add", "filter add"])
def test_a_refused_command_leaves_nothing_behind(refused: str) -> None:
    guest: Any = XenGuest(refused)
    with pytest.raises(CommandError), software_checksums(guest):
        pass
    assert (guest.qdisc, guest.segments) == (False, True)
