"""Programs of links in a sandbox: confined, ready, seen when they end, and gone with the lab."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from labctl import wait_until
from labctl.errors import HostError
from labctl.kinds.base import LinkPlan, LinkProgram, NewLink, NoOptions
from labctl.kinds.registry import registered
from labctl.network import confined, links, programs
from labctl.sandbox import agent
from labctl.sandbox.base import Sandbox
from labctl.sandbox.deadline import Deadline
from labctl.sandbox.host import Host
from labctl.sandbox.namespaces import Namespaces
from labctl.topology import Topology, from_mapping
from own_kinds import UserWire

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]
NAME = "lan-w-sw"
PASSING = """\
import sys
sys.path.insert(0, sys.argv[1])
from labctl.kinds.observers import observe
end = observe.open_socket("lan-w-a")
other = observe.open_socket("lan-w-b")
frame = bytes(10) + bytes.fromhex("ffffffffffff 020000000001 88b5") + b"over" * 16
end.send(frame)
other.settimeout(20)
while True:
    data = other.recv(2048)
    if b"overover" in data:
        print("passed")
        break
"""


def topology(kind: type[UserWire] = UserWire) -> Topology:
    segments = {"near": {}, "w": {"kind": "user-wire"}, "far": {}}
    plugged = [{"network": "lan", "segment": "near"}]
    with registered(kind):
        return from_mapping(
            {
                "networks": {"lan": {"mtu": 1400, "segments": segments}},
                "nodes": {"vm1": {"interfaces": plugged}},
            }
        )


def instead(one: LinkProgram) -> type[UserWire]:
    """Return the wire with another program."""

    class Other(UserWire):
        def plan(self, base: str, options: NoOptions) -> LinkPlan:
            return replace(super().plan(base, options), programs=(one,))

    return Other


def shell(
    script: str, ready: str = "ready", environment: Mapping[str, str] | None = None
) -> type[UserWire]:
    """Return the wire with a shell as its program."""
    told = LinkProgram(NAME, "sh", ("-c", script), ready, environment or {})
    return instead(told)


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Namespaces]:
    made = Namespaces.create(tmp_path / "w")
    yield made
    made.end()


def start(sandbox: Sandbox, made: Topology) -> programs.OfNetwork:
    sandbox.call(links.build, made)
    programs.start_all(sandbox, made)
    (one,) = programs.of(made)
    return one


def noted(sandbox: Sandbox) -> confined.Noted:
    found = confined.noted(sandbox.directory / "links" / f"{NAME}.pid")
    assert found
    return found


def test_frames_pass_once_it_is_ready(sandbox: Namespaces) -> None:
    made = topology()
    one = start(sandbox, made)
    assert programs.state(sandbox, one) == "running"
    words = [sys.executable, "-c", PASSING, str(Path(programs.__file__).parents[2])]

    assert sandbox.agent().run(words, Deadline(60, "passing")).stdout == "passed\n"


def test_it_can_do_and_see_no_more_than_it_must(sandbox: Namespaces) -> None:
    script = """ls /; echo .; touch here; touch /etc/x
    cat /proc/1/environ && echo peeked; ls /proc/1/root/ && echo peeked
    echo ready; exec sleep 999"""
    start(sandbox, topology(shell(script)))
    said = (sandbox.directory / "links" / f"{NAME}.log").read_text().split()
    assert not {"root", "home", "var", "work", "boot"} & set(said[: said.index(".")])
    assert "peeked" not in said, "it sees what others have"
    folder = sandbox.process(noted(sandbox).pid)
    status = dict(
        line.split(":\t", 1)
        for line in (folder / "status").read_text().splitlines()
        if "\t" in line
    )
    rights = 1 << 12 | 1 << 13
    assert int(status["CapBnd"], 16) == rights
    assert int(status["CapEff"], 16) & ~rights == 0
    assert status["NoNewPrivs"].strip() == "1"
    assert (sandbox.directory / "links" / "lan.w" / "here").exists()
    assert not Path("/etc/x").exists()
    assert "SSH_AUTH_SOCK" not in (folder / "environ").read_text()


TAP = """\
import fcntl, struct, time
tap = open("/dev/net/tun", "r+b", buffering=0)
fcntl.ioctl(tap, 0x400454CA, struct.pack("16sH22x", b"lan-w-t", 0x1002))
print("ready", flush=True)
time.sleep(999)
"""
"""Opens a TAP (TUNSETIFF of linux/if_tun.h; IFF_TAP, IFF_NO_PI)."""


def test_it_may_open_a_tap_of_its_plan(sandbox: Namespaces) -> None:
    class Tap(UserWire):
        def plan(self, base: str, options: NoOptions) -> LinkPlan:
            made = super().plan(base, options)
            tap = NewLink(f"{base}-t", "tuntap", settings={"mode": "tap"})
            program = LinkProgram(f"{base}-sw", "python3", ("-c", TAP))
            return replace(made, links=(*made.links, tap), programs=(program,))

    one = start(sandbox, topology(Tap))
    assert programs.state(sandbox, one) == "running"
    found = {link.name: link for link in sandbox.call(links.links)}
    assert (found["lan-w-t"].kind, found["lan-w-t"].mtu, found["lan-w-t"].up) == ("tun", 1400, True)


def test_programs_of_a_segment_begin_in_turn_and_share_their_folder(sandbox: Namespaces) -> None:
    class Two(UserWire):
        def plan(self, base: str, options: NoOptions) -> LinkPlan:
            scripts = ("sleep 1; touch open; echo ready; exec sleep 999", "ls; exec sleep 999")
            two = (
                LinkProgram(f"{base}-{at}", "sh", ("-c", script), ready=("ready", "open")[at])
                for at, script in enumerate(scripts)
            )
            return replace(super().plan(base, options), programs=tuple(two))

    made = topology(Two)
    sandbox.call(links.build, made)
    programs.start_all(sandbox, made)
    assert [state for _, state in programs.states(sandbox, made)] == ["running"] * 2


def test_it_gets_the_environment_that_its_kind_says(sandbox: Namespaces) -> None:
    script = "echo $COLOUR; exec sleep 999"
    start(sandbox, topology(shell(script, environment={"COLOUR": "green"}, ready="green")))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (shell("echo no such port >&2; exit 3"), "no such port"),
        (shell("true"), "it said nothing"),
        (instead(LinkProgram(NAME, "no-such-switch")), "no-such-switch is not installed"),
        (instead(LinkProgram(NAME, "no_such", is_python=True)), "Python has no module no_such"),
    ],
)  # fmt: skip
def test_one_that_does_not_start_is_told_with_its_words(
    sandbox: Namespaces, kind: type[UserWire], words: str
) -> None:
    with pytest.raises(HostError, match=words):
        start(sandbox, topology(kind))


def test_one_that_ends_is_noticed_with_what_it_said_last(sandbox: Namespaces) -> None:
    made = topology(shell("echo ready; echo a port is gone >&2; exec sleep 999"))
    one = start(sandbox, made)
    programs.check(sandbox, made, "mine")
    sandbox.call(agent.kill, noted(sandbox).pid, signal.SIGSTOP)
    wait_until("its stop", lambda: programs.state(sandbox, one) == "stopped", within=20)
    with pytest.raises(HostError, match="stopped by a signal"):
        programs.check(sandbox, made, "mine")
    sandbox.call(agent.kill, noted(sandbox).pid, signal.SIGKILL)

    wait_until("its end", lambda: programs.state(sandbox, one) == "ended", within=20)
    with pytest.raises(HostError, match=f"{NAME} of the network lan has ended.*a port is gone"):
        programs.check(sandbox, made, "mine")


def test_one_that_goes_into_the_background_is_dead(sandbox: Namespaces) -> None:
    made = topology(shell("echo ready; sleep 1; sleep 999 & exit"))
    one = start(sandbox, made)
    wait_until("its end", lambda: programs.state(sandbox, one) == "ended", within=20)


def test_one_without_a_sandbox_of_its_own_is_ended_by_its_note(tmp_path: Path) -> None:
    tmp_path.chmod(0o711)
    sandbox = Host.create(tmp_path / "h")
    try:
        made = topology(shell("echo ready; exec sleep 999"))
        programs.start_all(sandbox, made)
        (one,) = programs.of(made)
        assert programs.state(sandbox, one) == "running"
        pid = noted(sandbox).pid
        programs.end_all(sandbox.directory)

        wait_until("its end", lambda: programs.state(sandbox, one) == "ended", within=20)
        note = sandbox.directory / "links" / f"{NAME}.pid"
        note.write_text(f"{os.getpid()} 1")  # another process of that number
        programs.end_all(sandbox.directory)
        assert pid != os.getpid()
    finally:
        sandbox.end()
