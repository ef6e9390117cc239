"""How a guest is told to be, by its process, its console and libvirt's file of it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from labctl.backends.state import State
from labctl.guests import shutdown
from labctl.lab import guest_state, linkstate
from labctl.lab.guest_state import Condition
from labctl.sandbox.host import Host
from labctl.sandbox.linkflags import IFF_RUNNING, IFF_UP
from labctl.topology import find, load

READY = "labctl: ready\r\n"
PANIC = "[ 9.1] Kernel panic - not syncing: Attempted to kill init! exitcode=0x0\r\n"
TRACE = "[ 9.2] CPU: 0 PID: 1\r\n[ 9.3] Call Trace:\r\n" + "[ 9.4]  panic+0x1\r\n" * 20
END = "[ 9.9] ---[ end Kernel panic - not syncing: Attempted to kill init! ]---\r\n"


@pytest.fixture
def lab(tmp_path: Path) -> tuple[Host, State]:
    """A lab whose sandbox is this host's, so that processes of the test may be its QEMUs."""
    topology = load(find("bridged"))
    known = State("one", topology, "tcg", {}, None, {}, "", "now", True)  # type: ignore[arg-type]
    for name in ("console", "embed/run/qemu"):
        (tmp_path / name).mkdir(parents=True)
    return Host(tmp_path), known


@pytest.fixture
def qemu(lab: tuple[Host, State]) -> Iterator[subprocess.Popen[bytes]]:
    words = ["sh", "-c", "read end", "qemu", "-name", "guest=vm1,debug-threads=on"]
    with subprocess.Popen(words, stdin=subprocess.PIPE) as process:
        # Its descriptors close before its command line can be read (begin_new_exec, fs/exec.c).
        while b"guest=vm1" not in Path(f"/proc/{process.pid}/cmdline").read_bytes():
            pass
        (lab[0].directory / "embed/run/qemu/vm1.pid").write_text(f"{process.pid}\n")
        yield process
        process.kill()


def says(lab: tuple[Host, State], text: str) -> Condition:
    (lab[0].directory / "console/vm1.log").write_text(text)
    return guest_state.of_machine(*lab, "vm1")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "ended"),
        (READY, "ended"),
        (READY + "[ 8.0] reboot: Power down\r\n", "powered off"),
        (READY + "[ 8.0] reboot: Restarting system\r\n", "restarted"),
        (READY + PANIC + TRACE + END, "panicked"),
        (PANIC + TRACE + END + READY, "ended"),  # it was started again since
        ("x" * shutdown.TAIL * 2 + "\n" + PANIC, "panicked"),
    ],
)
def test_a_guest_that_is_gone_has_told_why(lab: tuple[Host, State], text: str, found: str) -> None:
    assert says(lab, text).state == found


def test_a_pid_file_that_qemu_has_made_large_is_not_read_whole(
    lab: tuple[Host, State],
) -> None:
    """A QEMU that a guest has broken out of still has it open."""
    file = lab[0].directory / "embed/run/qemu/vm1.pid"
    file.write_text("1")
    os.truncate(file, 1 << 40)
    assert guest_state.of_machine(*lab, "vm1").state == "ended"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "running"),
        (READY, "running"),
        (READY + "[ 8.0] reboot: Power down\r\n", "running"),  # it is just ending, or jests
        (READY + "[ 8.0] reboot: System halted\r\n", "halted"),
        (READY + PANIC + TRACE + END, "panicked"),
        (READY + PANIC + "it goes on\r\n" * shutdown.LAST_LINES, "running"),
    ],
)
@pytest.mark.usefixtures("qemu")
def test_a_guest_whose_qemu_runs_may_be_dead_all_the_same(
    lab: tuple[Host, State], text: str, found: str
) -> None:
    assert says(lab, text).state == found


def test_a_stopped_and_a_paused_guest_are_told_from_one_that_runs(
    lab: tuple[Host, State], qemu: subprocess.Popen[bytes]
) -> None:
    assert says(lab, READY).runs
    (lab[0].directory / "embed/run/qemu/vm1.xml").write_text("<domstatus state='paused' reason=''>")
    assert says(lab, READY).state == "paused"
    qemu.send_signal(signal.SIGSTOP)
    while not lab[0].is_stopped(qemu.pid):
        pass
    assert says(lab, READY).state == "stopped"


def test_another_process_of_the_same_number_is_no_guest(lab: tuple[Host, State]) -> None:
    with subprocess.Popen(["sleep", "1000"]) as other:
        (lab[0].directory / "embed/run/qemu/vm1.pid").write_text(str(other.pid))
        assert says(lab, READY).state == "ended"
        other.kill()


def test_what_a_console_says_cannot_reach_the_terminal(lab: tuple[Host, State]) -> None:
    found = says(lab, "Kernel panic - not syncing: \x1b]0;evil\x07\u200b" + "a" * 10_000)
    assert found.why.isprintable()
    assert found.why.isascii()
    assert len(found.why) < 300


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (Condition("ended"), "vm1 has ended"),
        (Condition("powered off"), "vm1 has ended: it powered itself off"),
        (Condition("panicked", "Kernel panic - x"), "vm1 has panicked: Kernel panic - x"),
        (Condition("stopped"), "vm1 is stopped: a signal stopped its QEMU"),
    ],
)
def test_each_end_is_named(found: Condition, told: str) -> None:
    error = guest_state.error("vm1", "vm1", found)
    assert error.message == told
    assert error.hint


def test_a_link_is_lost_at_the_tap_the_bridge_or_in_libvirt() -> None:
    ok = IFF_UP | IFF_RUNNING
    for flags, down, why in (
        ({"t": ok, "b": ok}, set(), ""),
        ({"t": ok, "b": IFF_UP}, set(), ""),
        ({"t": 0, "b": ok}, set(), "its TAP t is down"),
        ({"t": IFF_UP, "b": ok}, set(), "its TAP t has no carrier"),
        ({"t": ok, "b": 0}, set(), "its bridge b is down"),
        ({"b": ok}, set(), "its TAP t is gone"),
        ({"t": ok}, set(), "its bridge b is gone"),
        ({"t": ok, "b": ok}, {"t"}, "libvirt has taken its link down"),
    ):
        assert linkstate._trouble("t", "TAP", "b", flags, down) == why


def test_links_that_libvirt_took_down_are_read_from_its_file() -> None:
    xml = """<devices><interface type='ethernet'><target dev='a'/><link state='down'/></interface>
    <interface type='ethernet'><target dev='b'/><link state='up'/></interface>
    <interface type='ethernet'><target dev='c'/></interface></devices>"""
    assert guest_state.taken_down(xml) == {"a"}
    assert guest_state.taken_down("") == set()
