"""A lab with a Xen host by the `labctl` command: every verb, and every way its parts fail."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from live import LABCTL, Place, Running, Watch, last_of, place, process_of, until

from labctl import images
from labctl.errors import ExitCode
from labctl.images.tree import Entry, Tree

pytestmark = pytest.mark.integration

NAME = "xen"
TOPOLOGY = """\
name: mixed
networks:
  left: {mtu: 1600, subnets: [10.0.1.0/24]}
  right: {subnets: [10.0.2.0/24]}
defaults: {offload: {guest: {tx-nocache-copy: on}}}
nodes:
  xen1:
    hypervisor: xen
    interfaces:
      - network: left
        model: virtio
        mtu: 1500
        addresses: [10.0.1.1/24]
        offload: {guest: {gro: off}}
    routes: [{to: 10.0.2.0/24, via: 10.0.1.254}]
  vm1:
    host: xen1
    interfaces: [{network: right, addresses: [10.0.2.1/24]}]
    routes: [{to: default, via: 10.0.2.254}]
  vm2:
    interfaces: [{network: left, mtu: 1500, addresses: [10.0.1.2/24]}]
    routes: [{to: default, via: 10.0.1.254}]
routers:
  r1:
    host: xen1
    kind: raw-vnet
    interfaces:
      - {network: left, mtu: 1500, addresses: [10.0.1.254/24]}
      - {network: right, addresses: [10.0.2.254/24]}
"""
"""A guest of each kind, a router program in dom0 between them, and an uplink on the way."""
HOPS = [
    "vm1:eth0", "vm1-eth0", "r1-eth1", "r1:eth1", "r1:eth0", "r1-eth0", "xen1:eth0", "xen1-eth0",
    "vm2-eth0", "vm2:eth0",
]  # fmt: skip


@pytest.fixture(scope="module")
def here(pytestconfig: pytest.Config) -> Iterator[Place]:
    with place(pytestconfig.getoption("--accel")) as where:
        where.write("mixed.yaml", TOPOLOGY)
        yield where


@pytest.fixture(scope="module")
def mixed(here: Place) -> Place:
    """The lab, up; no test changes it."""
    told = here.ok("up", "mixed.yaml")
    assert re.search(r"try: labctl ssh (--lab \S+ )?vm1", told.stdout)
    return here


@pytest.fixture
def watch(here: Place) -> Iterator[Watch]:
    with Watch(here) as watching:
        yield watching


# --- verbs --------------------------------------------------------------------------------------


def test_status_tells_what_lives_where(mixed: Place) -> None:
    (lab,) = [one for one in mixed.ok("status", "--json").json() if one["name"] == "mixed"]
    assert lab["state"] == "up"
    parts = {part["name"]: (part["is"], part["state"]) for part in lab["parts"]}
    assert parts["xen1"] == ("Xen host", "running")
    assert parts["vm1"] == ("node on xen1", "running")
    assert parts["vm2"] == ("node", "running")
    assert parts["r1"] == ("router (raw-vnet) on xen1", "running")
    table = mixed.ok("status").stdout
    assert all(word in table for word in ("mixed: up", "node on xen1", "xen-host"))


@pytest.mark.parametrize("node", ["xen1", "vm1", "vm2"])
def test_ssh_and_exec_reach_every_kind_of_node(node: str, mixed: Place) -> None:
    words = ["two words", "it's", '"', "$HOME", "*", ""]
    told = mixed.ok("exec", "-l", "mixed", node, "printf", "%s|", *words).stdout
    assert told == "".join(f"{word}|" for word in words)
    assert mixed.ok("ssh", "-l", "mixed", node, "uname", "-n").stdout == f"{node}\n"
    assert mixed.run("exec", "-l", "mixed", node, "sh", "-c", "exit 7").status == 7
    data = bytes(range(256)).hex().encode() * 40
    assert mixed.ok("exec", "-l", "mixed", node, "cat", stdin=data).stdout.encode() == data


def test_dom0_has_what_its_node_asks_of_uplinks_and_routes(mixed: Place) -> None:
    features = mixed.ok("exec", "xen1", "ethtool", "-k", "eth0").stdout
    assert "\ngeneric-receive-offload: off\n" in features
    assert "\ntx-nocache-copy: on\n" in features
    links = "cat /sys/class/net/eth0/mtu /sys/class/net/left/mtu"
    assert mixed.ok("ssh", "xen1", links).stdout.split() == ["1500", "1600"]
    assert "10.0.2.0/24 via 10.0.1.254 " in mixed.ok("exec", "xen1", "ip", "route").stdout
    mixed.ok("exec", "xen1", "ping", "-c1", "-w9", "10.0.2.1")


def test_dom0_learns_nothing_of_guests_on_the_management_network(mixed: Place) -> None:
    """Else one of its guests could pass for another one there."""
    line = (
        "cd /sys/class/net; cat vm1-mgmt/brport/isolated vm1-mgmt/brport/learning; "
        "bridge fdb show dev vm1-mgmt | grep -q 'master mgmt static' && echo told"
    )
    assert mixed.ok("exec", "-l", "mixed", "xen1", "--", "sh", "-c", line).stdout == "1\n0\ntold\n"


def test_exec_in_a_router_of_dom0_runs_in_its_namespace(mixed: Place) -> None:
    told = mixed.ok("exec", "-l", "mixed", "r1", "--", "ip", "address").stdout
    assert "10.0.1.254/24" in told
    assert "vm1-eth0" not in told
    assert mixed.run("exec", "-l", "mixed", "r1", "sh", "-c", "exit 9").status == 9


def test_the_guests_reach_each_other_through_dom0_and_its_uplink(mixed: Place) -> None:
    assert mixed.ok("ssh", "-l", "mixed", "vm1", "--", "ssh", "vm2", "uname", "-n").stdout == (
        "vm2\n"
    )


def test_trace_follows_a_packet_out_of_the_xen_host(mixed: Place) -> None:
    told = mixed.ok("trace", "-l", "mixed", "vm1", "vm2", "--json").json()
    first = told["journeys"][0]
    assert [step["hop"] for step in first["steps"]] == HOPS


STRANGER = """\
set -e
real=$(command -v python3)
mv $real $real.real
printf '#!/bin/sh\\ndd bs=1 count=1 of=/dev/null 2>/dev/null; cat /run/answer; sleep 100\\n' >$real
chmod 755 $real
"""
"""Lets a host's Python answer as whoever is root there likes."""
RESTORE = "real=$(command -v python3); mv $real.real $real"


@pytest.mark.parametrize("framed", ["as multiprocessing sends it", "as it is"])
def test_a_dom0_that_answers_with_a_pickle_runs_nothing_on_this_machine(
    mixed: Place, tmp_path: Path, framed: str
) -> None:
    made = tmp_path / "made by a guest"
    pickle = b"cos\nsystem\n(S'touch \"" + bytes(made) + b"\"'\ntR."
    head = struct.pack("!i", len(pickle)) if framed.startswith("as multi") else b""
    mixed.ok("exec", "xen1", "sh", "-c", "cat >/run/answer", stdin=head + pickle)
    mixed.ok("exec", "xen1", "sh", "-c", STRANGER)
    try:
        told = mixed.run("trace", "-l", "mixed", "vm1", "vm2", "--tcp", "22")
    finally:
        mixed.ok("exec", "xen1", "sh", "-c", RESTORE)
    assert not made.exists()
    assert told.status == ExitCode.ERROR
    assert "dom0 of xen1 does not answer as an agent of labctl does" in told.stdout + told.stderr
    assert "Traceback" not in told.stderr
    mixed.ok("trace", "-l", "mixed", "vm1", "vm2", "--tcp", "22")


@pytest.mark.parametrize("node", ["xen1", "vm1", "vm2"])
def test_console_on_a_terminal_is_the_nodes_own_shell(node: str, mixed: Place) -> None:
    for _ in range(2):  # left, it can be joined again at once
        with terminal(mixed, "console", "-l", "mixed", node) as (handle, child):
            read_until(handle, "leave with Ctrl-]")
            # What it said before it was joined may come now; a shell must be asked for.
            os.write(handle, b"\r")
            read_until(handle, f"{node}:/#")
            os.write(handle, b"echo $((6*7))-$(uname -n)\r")
            read_until(handle, f"42-{node}")
            os.write(handle, b"\x1d")
            assert child.wait(60) == 0


@pytest.mark.parametrize("node", ["vm1", "vm2"])
def test_console_takes_words_from_a_pipe(node: str, mixed: Place) -> None:
    told = mixed.ok("console", "-l", "mixed", node, stdin=b"\necho $((6*7))-$(uname -n)\n")
    assert f"42-{node}" in told.stdout


def test_logs_go_on_as_the_console_does(mixed: Place) -> None:
    assert "labctl: ready" in mixed.ok("logs", "-l", "mixed", "vm1").stdout
    words = [LABCTL, "logs", "-l", "mixed", "-f", "vm1"]
    log = mixed.root / "followed"
    with log.open("wb") as out:
        child = subprocess.Popen(words, stdout=out, env=mixed.env)
    try:
        until("the beginning", lambda: b"labctl: ready" in log.read_bytes())
        mixed.ok("exec", "-l", "mixed", "vm1", "sh", "-c", "echo said-by-a-test >/dev/console")
        until("the line", lambda: b"said-by-a-test" in log.read_bytes())
        assert child.poll() is None
    finally:
        child.kill()
        child.wait()


@contextmanager
def terminal(here: Place, *words: str) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """Run `labctl` on a terminal of its own; give our end of it."""
    ours, theirs = pty.openpty()
    try:
        child = subprocess.Popen(
            [LABCTL, *words], stdin=theirs, stdout=theirs, stderr=theirs, env=here.env
        )
        os.close(theirs)
        try:
            yield ours, child
        finally:
            child.kill()
            child.wait()
    finally:
        os.close(ours)


def read_until(handle: int, words: str) -> None:
    """Read what a terminal shows until it has these words."""
    shown = ""

    def seen() -> bool:
        nonlocal shown
        if select.select([handle], [], [], 0.1)[0]:
            shown += os.read(handle, 65536).decode(errors="replace")
        return words in shown

    until(words, seen)


# --- refused before anything is started ---------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        (("  vm2:\n", "  vm2:\n    model: xen\n"), 2, "vm2's eth0 cannot be xen"),
        (
            ("hypervisor: xen\n", "hypervisor: xen\n    memory: 700\n"),
            2,
            "memory 700 is too little",
        ),
        (("  vm1:\n", "  vm1:\n    memory: 100\n"), 2, "vm1 has 100 MiB; its image micro needs"),
        (("  vm2:\n", "  vm2:\n    memory: 1000G\n"), 3, "mixed takes about "),
        (("hypervisor: xen\n", "hypervisor: xen\n    kernel: MICRO\n"), 2, "the kernel of xen1"),
        (("  vm1:\n", "  vm1:\n    kernel: NONE\n"), 2, "the kernel of vm1"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(
    change: tuple[str, str], status: int, message: str, here: Place, watch: Watch
) -> None:
    none = here.write("none", "no kernel")
    text = TOPOLOGY.replace(*change, 1)
    text = text.replace("MICRO", str(images.get("micro").kernel)).replace("NONE", str(none))
    assert text != TOPOLOGY
    here.write("odd.yaml", text)
    told = here.run("up", "odd.yaml", "--name", NAME)
    assert told.status == status, told
    assert message in told.stderr
    assert "network" not in told.stderr  # nothing was started
    watch.nothing_left()


# --- Xen hosts that do not come up --------------------------------------------------------------

HOST = """\
name: host
networks: {lan: {subnets: [10.0.1.0/24]}}
nodes:
  xen1: {hypervisor: xen, memory: 1024, initramfs: INITRAMFS}
  vm1:
    host: xen1
    interfaces: [{network: lan, addresses: [10.0.1.1/24]}]
  vm2:
    host: xen1
    interfaces: [{network: lan, addresses: [10.0.1.2/24]}]
"""


def initramfs(folder: Path, name: str, content: bytes) -> Path:
    """Make the image's initramfs with one file of it replaced: a later archive's entry counts."""
    tree = Tree()
    tree.add(name, Entry(0o755, content))
    tree.write_cpio(folder / "changed")
    whole = folder / "whole"
    whole.write_bytes(images.get("xen-host").initramfs.read_bytes())
    with whole.open("ab") as more:
        more.write((folder / "changed").read_bytes())
    return whole


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "usr/lib/xen-4.17/bin/xenstored",
            b"#!/bin/sh\nexit 1\n",
            "labctl: xen1 could not take its configuration: xenstored does not start",
        ),
        # PID 1 ends: dom0 panics, and Xen starts the machine again, which is the end of it.
        (
            "init",
            b"#!/bin/sh\nexit 1\n",
            "labctl: xen1 died while booting: kernel panic: Attempted",
        ),
    ],
)
def test_a_dom0_that_fails_is_named_with_its_cause(
    name: str, content: bytes, message: str, here: Place, watch: Watch, tmp_path: Path
) -> None:
    file = initramfs(tmp_path, name, content)
    here.write("host.yaml", HOST.replace("INITRAMFS", str(file)))
    told = here.run("up", "host.yaml", "--name", NAME)
    assert told.status == 3
    assert last_of(told.stderr, "labctl: ").startswith(message)
    watch.nothing_left()


def test_a_host_that_dies_while_its_guests_boot_is_named_and_all_goes(
    here: Place, watch: Watch
) -> None:
    here.write("host.yaml", HOST.replace(", initramfs: INITRAMFS", ""))
    with here.start("up", "host.yaml", "--name", NAME) as labctl:
        labctl.reach("a guest", lambda: booting(here, "vm1"))
        watch.note()
        os.kill(process_of(here.runtime / NAME, "qemu-system"), signal.SIGKILL)
        assert labctl.wait() == 3
        assert labctl.said("labctl: the Xen host xen1 has ended")
    watch.nothing_left()


def booting(here: Place, node: str) -> bool:
    log = here.runtime / NAME / f"console/{node}.log"
    return log.exists() and b"\n" in log.read_bytes()


MOMENTS: dict[str, Callable[[Place, Running], object]] = {
    "Xen boots": lambda here, _labctl: booting(here, "xen1"),
    "a guest is made": lambda _here, labctl: labctl.said("boot vm1 …"),
    "a guest boots": lambda here, _labctl: booting(here, "vm1"),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_up_killed_leaves_nothing(moment: str, here: Place, watch: Watch) -> None:
    with here.start("up", "mixed.yaml", "--name", NAME) as labctl:
        labctl.reach(moment, lambda: MOMENTS[moment](here, labctl))
        watch.note()
        labctl.child.kill()
        labctl.wait()
        watch.nothing_left()


# --- what dies later ----------------------------------------------------------------------------

STORY = """
import os, signal
from pathlib import Path
from labctl.errors import GuestError
from labctl.experiments import Trial, experiment
from labctl.sandbox import agent
from labctl.sandbox.deadline import Deadline


@experiment("story", topology="host.yaml", hypothesis="what has died is named")
def story(trial: Trial) -> None:
    lab = trial.lab
    vm1, vm2, xen1 = (lab.node(name) for name in ("vm1", "vm2", "xen1"))
    with trial.arm("whole", "all is well") as arm:
        arm.check("vm1", "vm1", vm1.run("uname -n").stdout.strip(), True)
    with trial.arm("guest", "a guest dies on a host that lives"):
        job = vm2.start("sleep 1000")
        xen1.run("xl destroy vm2")
        vm2.run("true", timeout=1000)
    with trial.arm("others", "the others go on") as arm:
        arm.check("vm1", "vm1", vm1.run("uname -n").stdout.strip(), True)
    with trial.arm("host", "the host dies while a command runs"):
        lab.place("xen1").call(agent.read, Path("/proc/uptime"))
        job = vm1.start("sleep 1000")
        os.kill(victim(lab), signal.SIGKILL)
        job.wait(Deadline(1000, "the job"))
    with trial.arm("dom0", "nothing of it answers any more"):
        lab.place("xen1").call(agent.read, Path("/proc/uptime"))
    vm1.run("true", timeout=1000)


def victim(lab):
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            words = (entry / "cmdline").read_bytes()
            if words.startswith(b"/usr/bin/qemu-system") and str(lab.directory).encode() in words:
                return int(entry.name)
    raise AssertionError("no QEMU")
"""


def test_an_experiment_whose_guest_and_host_die_says_so_and_leaves_nothing(
    here: Place, watch: Watch
) -> None:
    here.write("host.yaml", HOST.replace(", initramfs: INITRAMFS", ""))
    here.write("story.py", STORY)
    told = here.run("experiment", "story.py")
    assert told.status == 3, told
    run = here.ok("results", "show", "last", "--json").json()
    assert run["verdict"] == "error"
    found = {arm["name"]: (arm["verdict"], arm["checks"][-1]["observed"]) for arm in run["arms"]}
    gone = ("error", "the Xen host xen1 has ended")
    assert found == {
        "whole": ("pass", "vm1"),
        "guest": ("error", "vm2 has ended, but not its Xen host xen1"),
        "others": ("pass", "vm1"),
        "host": gone,
        "dom0": gone,
        "lab/body": gone,
    }
    watch.nothing_left()


def test_a_lab_with_an_ended_guest_is_damaged_then_without_its_host_and_goes_down(
    here: Place, watch: Watch
) -> None:
    here.write("host.yaml", HOST.replace(", initramfs: INITRAMFS", ""))
    here.ok("up", "host.yaml", "--name", NAME)
    watch.note()
    here.ok("exec", "-l", NAME, "xen1", "xl", "destroy", "vm2")
    until("its end", lambda: states(here) == ["running", "running", "ended"])
    for verb in ("exec", "ssh", "console"):
        told = here.run(verb, "-l", NAME, "vm2", *["true"][: verb != "console"])
        assert (told.status, told.stderr.splitlines()[0]) == (
            3,
            "labctl: vm2 has ended, but not its Xen host xen1",
        )
    assert here.ok("exec", "-l", NAME, "vm1", "uname", "-n").stdout == "vm1\n"
    os.kill(process_of(here.runtime / NAME, "qemu-system"), signal.SIGKILL)
    until("its end", lambda: states(here) == ["ended", "ended", "ended"])
    told = here.run("exec", "-l", NAME, "vm1", "true")
    assert (told.status, told.stderr.splitlines()[0]) == (
        3,
        "labctl: the Xen host xen1 has ended",
    )
    assert "labctl: ready" in here.ok("logs", "-l", NAME, "xen1").stdout
    here.ok("down", NAME)
    watch.nothing_left()


def states(here: Place) -> list[str]:
    (lab,) = [one for one in here.ok("status", "--json").json() if one["name"] == NAME]
    found = {part["name"]: part["state"] for part in lab["parts"]}
    assert lab["state"] == ("up" if set(found.values()) <= {"running", ""} else "damaged")
    return [found[name] for name in ("xen1", "vm1", "vm2")]
