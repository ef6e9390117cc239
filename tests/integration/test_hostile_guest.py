"""Guests that misbehave: every verb ends, within bounds, names the guest, and leaves the others be.

One lab for all. A program in a guest is replaced by a script for the length of a test; what labctl
itself runs there goes on by the connection that it has.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import subprocess
from collections.abc import Iterator

import pytest
from live import LABCTL, until

from labctl import probes
from labctl.capture.limits import FRAMES_PER_SECOND
from labctl.capture.spawn import CaptureError
from labctl.diagnosis.diagnose import diagnose
from labctl.errors import GuestError, LabctlError
from labctl.kinds.observers.observe import MAGIC, RECORD, RECORD_HEAD
from labctl.lab.lab import Lab
from labctl.lab.node import Node
from labctl.lab.watch import counters
from labctl.packet.frame import parse
from labctl.pytest_plugin import LabFactory
from labctl.sandbox import init
from labctl.sandbox.deadline import Deadline
from labctl.sandbox.process import CommandError
from labctl.tracing.plan import plan
from labctl.tracing.trace import trace

pytestmark = pytest.mark.integration

LONGEST_MESSAGE = 1500
MOST_MEMORY = 500 << 10
"""KiB that a command may need."""
EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m"
FLOOD = (
    "use Socket; socket(S, PF_INET, SOCK_DGRAM, 0);"
    " my $to = sockaddr_in(4444, inet_aton($ARGV[0]));"
    ' while (1) { send(S, "x" x 64, 0, $to) }'
)


@pytest.fixture(scope="module")
def lab(lab_factory: LabFactory) -> Iterator[Lab]:
    with lab_factory("bridged.yaml") as running:
        yield running


@pytest.fixture(autouse=True)
def _unharmed(lab: Lab) -> Iterator[None]:
    """Whatever a guest did, both still do what they are told afterwards."""
    yield
    for node in lab.nodes:
        assert node.run("echo fine").stdout == "fine\n"


def is_clean(text: str) -> bool:
    return all(one in "\n\t" or one.isprintable() for one in text)


def check_told(error: LabctlError, name: str) -> None:
    """An error names the guest in few and clean words, and is no fault of labctl's."""
    assert name in error.message
    assert len(error.message) < LONGEST_MESSAGE
    assert is_clean(error.message + error.hint + error.detail)


@contextlib.contextmanager
def replaced(node: Node, program: str, script: str, data: bytes = b"") -> Iterator[None]:
    """Let a program in a guest be a shell script, which finds `data` in /tmp/data."""
    path = node.run(f"command -v {program}").stdout.strip()
    node.run("cat >/tmp/data", stdin=data)
    node.run("cat >/tmp/script && chmod +x /tmp/script", stdin=script.encode())
    node.run(f"mv {path} {path}.real && mv /tmp/script {path}")
    try:
        yield
    finally:
        node.run(f"mv {path}.real {path}; rm -f /tmp/data")


def header(**lie: object) -> bytes:
    about = {
        "version": 1, "hop": "vm1:eth0", "interface": "eth0", "ifindex": 2, "mtu": 1500,
        "snap": 262144, "clock_ns": 1, "kernel": "6.1", "observer": "perl",
    } | lie  # fmt: skip
    text = json.dumps(about).encode()
    return MAGIC + struct.pack("<I", len(text)) + text


def record(frame: bytes) -> bytes:
    head = RECORD_HEAD.pack(1, 4, 0, 2, 0, len(frame), len(frame), 0, 0, bytes(10))
    return struct.pack("<BI", RECORD, len(head) + len(frame)) + head + frame


def labctl(lab: Lab, verb: str, *words: str) -> tuple[int, str, int]:
    """Run a verb on the lab; return its status, all that it printed, and KiB that it needed."""
    with subprocess.Popen(
        [LABCTL, verb, "--lab", lab.name, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
    ) as process:
        assert process.stdout is not None
        said = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, said.decode(), used.ru_maxrss


# --- what it says --------------------------------------------------------------------------------


def test_an_ethtool_without_end_is_an_error_that_names_its_guest(lab: Lab) -> None:
    vm1, vm2 = lab.node("vm1"), lab.node("vm2")
    with replaced(vm1, "ethtool", f"#!/bin/sh\nexec yes '{EVIL}'\n"):
        with pytest.raises(LabctlError) as told:
            vm1.features()
        check_told(told.value, "vm1")
        assert vm2.features()
    assert vm1.features().keys() == vm2.features().keys()


@pytest.mark.parametrize("script", ["true", f"printf '%s' '{EVIL}'", "head -c 100000 /dev/urandom"])
def test_an_ethtool_that_says_something_else_is_an_error_that_names_its_guest(
    lab: Lab, script: str
) -> None:
    vm1 = lab.node("vm1")
    with replaced(vm1, "ethtool", f"#!/bin/sh\n{script}\n"), pytest.raises(GuestError) as told:
        vm1.features()
    check_told(told.value, "vm1")


def test_counters_that_no_kernel_has_are_an_error_that_names_its_guest(lab: Lab) -> None:
    vm1 = lab.node("vm1")
    with (
        replaced(vm1, "cat", f"#!/bin/sh\nprintf 'Tcp: %s\\n' '{EVIL}'\n"),
        pytest.raises(GuestError) as told,
    ):
        counters(vm1)
    check_told(told.value, "vm1")


def test_a_command_that_fails_with_many_words_is_told_in_few(lab: Lab) -> None:
    with pytest.raises(CommandError) as told:
        lab.node("vm1").run(f"for i in $(seq 2000); do echo '{EVIL}' {'x' * 200} >&2; done; exit 7")
    check_told(told.value, "vm1")


def test_a_job_without_end_fills_no_more_than_its_share(lab: Lab) -> None:
    job = lab.node("vm1").start("yes")
    until("the end of a job that says too much", lambda: job.poll() is not None)
    job.stop()
    assert len(job.output) <= 1 << 20


def test_what_a_console_says_is_printed_clean(lab: Lab) -> None:
    octal = "".join(f"\\{byte:03o}" for byte in EVIL.encode())
    lab.node("vm1").run(f"printf '{octal} end-of-evil\\n' >/dev/console")
    status, said, _ = labctl(lab, "logs", "vm1")
    assert status == 0
    until("the console", lambda: "end-of-evil" in labctl(lab, "logs", "vm1")[1])
    said = labctl(lab, "logs", "vm1")[1]
    assert is_clean(said)
    assert r"\x1b]0;owned\x07\x1b[2J" in said
    assert is_clean(labctl(lab, "console", "vm1")[1])


def test_a_console_that_says_too_much_is_trimmed_and_read_in_little_memory(
    lab: Lab,
) -> None:
    """Written to the log as QEMU does; a serial line would take an hour for it."""
    log = lab.directory / "console" / "vm2.log"
    with log.open("ab", buffering=0) as writer:
        for _ in range(200):
            writer.write(b"all work and no play\n" * 50_000)
        writer.write(b"\nthe last word\n")
    bound = init.KEPT_HEAD + 2 * init.KEPT_TAIL
    until("the trim", lambda: log.stat().st_blocks * 512 <= bound)
    status, said, memory = labctl(lab, "logs", "vm2")
    assert status == 0
    assert "labctl: ready" in said
    assert "bytes of the console were not kept" in said
    assert said.endswith("\nthe last word\n")
    assert is_clean(said)
    assert len(said) < bound
    assert memory < MOST_MEMORY
    assert "the last word" in lab.node("vm2").console()


# --- what it claims to have seen -----------------------------------------------------------------


@pytest.mark.parametrize("lie", [{"mtu": "x"}, {"clock_ns": None}, {"kernel": EVIL}], ids=str)
def test_an_observer_that_lies_by_shape_is_an_error_that_names_its_guest(
    lab: Lab, lie: dict[str, object]
) -> None:
    flow, path = plan(lab, "vm1", "vm2", "icmp", None)
    script = "#!/bin/sh\ncat /tmp/data; sleep 600\n"
    with replaced(lab.node("vm1"), "perl", script, header(**lie)):
        for verb in (trace, diagnose):
            with pytest.raises(CaptureError) as told:
                verb(lab, flow, path)
            check_told(told.value, "vm1:eth0")
        status, said, _ = labctl(lab, "trace", "vm1", "vm2")
        assert status == 3
        assert "fault of labctl" not in said
        assert "Traceback" not in said
        assert is_clean(said)


def test_an_observer_without_end_makes_evidence_that_proves_nothing(lab: Lab) -> None:
    flow, path = plan(lab, "vm1", "vm2", "icmp", None)
    frame = bytes(12) + b"\x08\x00" + b"x" * 40
    assert parse(frame).kind
    script = "#!/bin/sh\ncat /tmp/head; while cat /tmp/data; do :; done\n"
    vm1 = lab.node("vm1")
    vm1.run("cat >/tmp/head", stdin=header())
    with replaced(vm1, "perl", script, record(frame) * 1000):
        found = trace(lab, flow, path, within=Deadline(60, "the trace"))
    assert found.ok is None
    assert found.partial
    assert any("vm1:eth0" in note for note in found.notes)
    assert all(is_clean(note) and len(note) < LONGEST_MESSAGE for note in found.notes)
    assert found.evidence["vm2:eth0"].complete


def test_a_trace_of_a_sender_without_end_is_over_in_its_time(lab: Lab) -> None:
    """Packets are bounded, so what is proved here is that it ends, and what it then claims."""
    vm1 = lab.node("vm1")
    sender = vm1.start(f"perl -e '{FLOOD}' {lab.node('vm2').address(4)}")
    try:
        words = ("vm1", "vm2", "--udp", "4444", "--wait", "--timeout", "45", "--count", "1000")
        status, said, memory = labctl(lab, "trace", *words, "--json")
    finally:
        sender.stop()
    assert memory < MOST_MEMORY
    told = json.loads(said[said.index("{") :])
    if "journeys" not in told:
        pytest.fail(said[:LONGEST_MESSAGE])
    assert told["journeys"]
    assert status in {0, 1, 3}
    kept = [sum(kinds.values()) for kinds in told["seen"].values()]
    assert max(kept) <= 45 * FRAMES_PER_SECOND
    if any("not" in note and "kept" in note for note in told["notes"]):
        assert told["well"] is None or told["well"] is False


def test_an_observer_that_falls_behind_leaves_its_guest_its_memory(lab: Lab) -> None:
    """What the kernel keeps for it is bounded: a guest of 128 MiB has no 128 MiB to give."""
    vm1, vm2 = lab.node("vm1"), lab.node("vm2")
    flow, path = plan(lab, "vm1", "vm2", "icmp", None)
    flood = FLOOD.replace('"x" x 64', '"x" x 1400')
    stopped = (
        '#!/bin/sh\nexec 3<&0\nperl.real "$@" <&3 &\npid=$!\nsleep 2; kill -STOP $pid\n'
        "for i in $(seq 20); do sleep 1; cat /proc/net/packet /proc/meminfo >>/tmp/seen; done\n"
        "kill -CONT $pid; wait $pid\n"
    )
    with replaced(vm2, "perl", stopped):
        sender = vm1.start(f"perl -e '{flood}' {vm2.address(4)}")
        try:
            found = trace(lab, flow, path, within=Deadline(90, "the trace"))
        finally:
            sender.stop()
    seen = vm2.run("cat /tmp/seen; rm /tmp/seen").stdout
    assert found.ok is not True, found
    assert "killed" not in (vm1.console() + vm2.console()).lower()
    rows = [row.split() for row in seen.splitlines()]
    taken = [int(row[6]) for row in rows if len(row) == 9 and row[3] == "0003"]
    memory = [int(row[1]) for row in rows if row[0] == "MemTotal:"]
    assert 1 << 20 < max(taken) < memory[0] * 1024 // 4, taken


def test_a_server_that_closes_every_connection_accuses_no_network(lab: Lab) -> None:
    vm1, vm2 = lab.node("vm1"), lab.node("vm2")
    assert probes.ssh(lab, "vm1", "vm2").works
    pid = vm2.run("pidof dropbear").stdout.split()[-1]
    words = vm2.run(f"tr '\\0' ' ' </proc/{pid}/cmdline").stdout.strip()
    vm2.run(f"kill {pid}")
    closer = vm2.start("sh -c 'while :; do nc -l -p 22 -e true; done'")
    try:
        until("the closer", lambda: ":0016 " in vm2.run("cat /proc/net/tcp /proc/net/tcp6").stdout)
        answer = probes.ssh(lab, "vm1", "vm2")
    finally:
        closer.stop()
        vm2.run("pkill -x nc", check=False)
        vm2.run(f"{words} >/dev/null 2>&1", check=False)
    assert answer.works is not False or "refused" in answer.text, answer
    assert is_clean(answer.text)
    assert vm1.run("true").ok
