"""What a step cannot do without, asked of guests that are scripts."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from labctl.errors import GuestError, UsageError
from labctl.experiments.require import require
from labctl.experiments.run_context import Skip
from labctl.sandbox.process import Result


class Node:
    name = "vm1"

    def __init__(self, release: str = "6.1.0-13-amd64", lacks: str = "") -> None:
        self.release = release
        self.lacks = lacks
        self.ran: list[str] = []

    def run(self, command: str, *, check: bool = True) -> Result:
        assert not check
        self.ran.append(command)
        return Result((), int(bool(self.lacks) and self.lacks in command), "", "")

    def ask(self, command: str, parse: Callable[[str], Any]) -> Any:
        assert command == "uname -r"
        try:
            return parse(self.release + "\n")
        except ValueError:
            raise GuestError(f"{self.name} answered with what makes no sense") from None


def node(release: str = "6.1.0-13-amd64", lacks: str = "") -> Any:
    return Node(release, lacks)


def test_what_is_there_skips_nothing() -> None:
    guest = node()
    require(guest, programs=("perl", "tc"), modules="sch_netem", kernel="5.10", tools="sh")
    require(guest)
    require(tools=("sh", "ls"))
    assert [line.split()[:2] for line in guest.ran[:2]] == [["command", "-v"]] * 2


@pytest.mark.parametrize(
    ("lacks", "wanted", "why"),
    [
        ("iperf3", {"programs": ("perl", "iperf3")}, "vm1 has no program iperf3"),
        ("netem", {"modules": "sch-netem"}, "vm1 has no kernel module sch-netem"),
        ("", {"kernel": "6.2"}, "vm1 has Linux 6.1.0-13-amd64, older than 6.2"),
        ("", {"tools": "no-such-tool"}, "this host has no program no-such-tool"),
        (
            "perl",
            {"programs": "perl", "kernel": "7", "tools": "no-such-tool"},
            None,
        ),
    ],
)
def test_what_lacks_is_a_skip_that_says_why(
    lacks: str, wanted: dict[str, Any], why: str | None
) -> None:
    if why is None:
        with pytest.raises(UsageError, match="'7' is no kernel version"):
            require(node(lacks=lacks), **wanted)
        return
    with pytest.raises(Skip) as skipped:
        require(node(lacks=lacks), **wanted)
    assert str(skipped.value) == why


def test_all_that_lacks_is_told_at_once() -> None:
    with pytest.raises(Skip, match="no program perl; this host has no program no-such-tool"):
        require(node(lacks="perl"), programs="perl", tools="no-such-tool")


@pytest.mark.parametrize(
    ("release", "wanted", "enough"),
    [
        ("6.1.0-13-amd64", "6.1", True),
        ("6.10.0", "6.9", True),
        ("6.9.7", "6.10", False),
        ("5.10.0-30-cloud-amd64", "5.10.1", False),
        ("7.0-rc3", "6.18.2", True),
        ("6.12.43+deb13-amd64", "6.12.43", True),
    ],
)
def test_versions_are_compared_as_numbers(release: str, wanted: str, enough: bool) -> None:
    if enough:
        require(node(release), kernel=wanted)
    else:
        with pytest.raises(Skip):
            require(node(release), kernel=wanted)


def test_a_guest_that_tells_no_version_is_an_error_and_no_skip() -> None:
    with pytest.raises(GuestError):
        require(node("whatever"), kernel="6.1")


@pytest.mark.parametrize("wrong", [{"programs": "perl"}, {"modules": "tun"}, {"kernel": "6.1"}])
def test_what_a_guest_must_have_needs_a_guest(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="of a guest"):
        require(**wrong)


@pytest.mark.parametrize("name", ["", "a b", "$(reboot)", "tun.ko", "../tun"])
def test_a_modules_name_is_a_name(name: str) -> None:
    guest = node()
    with pytest.raises(UsageError, match="no name of a kernel module"):
        require(guest, modules=(name,))
    assert guest.ran == []


@pytest.mark.parametrize(
    ("listed", "loads", "there"),
    [("kernel/net/sched/sch_netem.ko", False, True), ("", True, True), ("", False, False)],
)
def test_a_shell_finds_a_module_that_is_built_in_or_loads(
    tmp_path: Path, listed: str, loads: bool, there: bool
) -> None:
    guest = node()
    require(guest, modules="sch-netem")
    (line,) = guest.ran
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "modules.builtin").write_text(listed + "\n")
    modprobe = tmp_path / "modprobe"
    modprobe.write_text(f"#!/bin/sh\nexit {int(not loads)}\n")
    modprobe.chmod(0o755)
    line = line.replace("/lib/modules/$(uname -r)", str(folder)).replace("/sys/module", "/nowhere")
    path = f"{tmp_path}:/usr/bin:/bin"
    done = subprocess.run(["sh", "-c", line], env={"PATH": path}, capture_output=True, check=False)
    assert (done.returncode == 0) is there
