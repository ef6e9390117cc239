"""What two snapshots of a machine tell: machines made of folders, with one thing planted."""

from __future__ import annotations

import copy
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from runner.inside import compare as comparing
from runner.inside import snapshot
from runner.inside.machine import Machine, SkippedError, Snapshot, matcher, run
from runner.inside.snapshot import Difference, compare, report, take, until_same

FOLDER = Path(snapshot.__file__).parent
MOUNT = "30 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"
LINK = {"ifindex": 2, "ifname": "eth0", "flags": ["UP"], "mtu": 1500}
KERNEL_THREAD = 0x00200000

Change = Callable[[Path, dict[str, str]], object]


def write(root: Path, name: str, text: str = "") -> Path:
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def process(
    root: Path, pid: int, command: str, *, cgroup: str = "/", flags: int = 0, net: int = 1
) -> None:
    fields = ["S", "1", "0", "0", "0", "0", str(flags), *["0"] * 12, str(pid * 100), "0"]
    # A program may be called so; the threads of the kernel have nothing else.
    name = command if flags else "a ) 1 b"
    write(root, f"proc/{pid}/stat", f"{pid} ({name}) {' '.join(fields)}\n")
    write(root, f"proc/{pid}/cmdline", command.replace(" ", "\0") + "\0")
    write(root, f"proc/{pid}/cgroup", f"0::{cgroup}\n")
    (root / f"proc/{pid}/ns").mkdir()
    (root / f"proc/{pid}/ns/net").symlink_to(f"net:[{net}]")


def nft(*rules: object) -> str:
    table = {"table": {"family": "inet", "name": "t", "handle": 1}}
    return json.dumps({"nftables": [{"metainfo": {"version": "1"}}, table, *rules]})


def rule(packets: int) -> dict[str, object]:
    counter = {"counter": {"packets": packets, "bytes": 84 * packets}}
    place = {"family": "inet", "table": "t", "chain": "c", "handle": packets}
    return {"rule": {**place, "expr": [counter, {"accept": None}]}}


@pytest.fixture
def told() -> dict[str, str]:
    """What programs print, by the first words of their command."""
    return {
        "ip -j -d link": json.dumps([LINK]),
        "ip -j address": "[]",
        "ip": "[]",
        "tc": "[]",
        "nft": nft(),
        "bpftool": "[]",
        "ethtool -k eth0": "Features for eth0:\ntx-checksumming: on\n",
        "systemctl": "",
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small machine."""
    root = tmp_path / "root"
    write(root, "proc/1/mountinfo", MOUNT)
    process(root, 1, "/sbin/init", cgroup="/init.scope")
    process(root, 2, "kthreadd", flags=KERNEL_THREAD)
    write(root, "proc/modules", "nf_tables 1 0 - Live 0x0\n")
    (root / "sys/module/nf_tables").mkdir(parents=True)
    write(root, "proc/sys/net/ipv4/ip_forward", "0\n")
    write(root, "proc/sys/net/ipv4/conf/eth0/rp_filter", "0\n")
    write(root, "proc/sys/kernel/random/uuid", "one\n")
    write(root, "proc/sysvipc/shm", "       key      shmid perms       size  cpid uid\n")
    write(root, "sys/kernel/tracing/current_tracer", "nop\n")
    write(root, "sys/kernel/tracing/buffer_size_kb", "7 (expanded: 1408)\n")
    write(root, "sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "0\n")
    write(root, "sys/kernel/security/apparmor/profiles", "libvirtd (enforce)\n")
    (root / "sys/kernel/tracing/instances").mkdir()
    (root / "sys/fs/cgroup/system.slice").mkdir(parents=True)
    (root / "sys/fs/bpf").mkdir(parents=True)
    write(root, "sys/block/loop0/size", "0\n")
    write(root, "dev/kmsg", "6,1,0,-;Linux version 6.1\n SUBSYSTEM=x\n")
    write(root, "etc/passwd", "root:x:0:0::/root:/bin/sh\n")
    write(root, "etc/group", "root:x:0:\n")
    write(root, "var/log/journal/1/system.journal", "a")
    write(root, "usr/bin/tool", "a")
    return root


def look(root: Path, told: dict[str, str], ignore: Sequence[str] = ()) -> Snapshot:
    def program(command: Sequence[str]) -> str:
        line = " ".join(command)
        for start in sorted(told, key=len, reverse=True):
            if line.startswith(start):
                return told[start]
        raise SkippedError(f"no {command[0]} here")

    # As the file between both would have it.
    loaded: Snapshot = json.loads(json.dumps(take(ignore, Machine(str(root), program))))
    return loaded


def append(root: Path, name: str, text: str) -> None:
    with (root / name).open("a") as file:
        file.write(text)


def socket_file(root: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        here = Path.cwd()
        # A socket's path is short: the folder of a test may not be.
        os.chdir(root)
        try:
            made.bind("usr/left.sock")
        finally:
            os.chdir(here)


def more(told: dict[str, str], command: str, text: str) -> None:
    told[command] = text


PLANTED: dict[str, tuple[Change, str, str, str]] = {
    "process": (lambda r, _: process(r, 70, "sleep 9"), "process", "70@7000", "left"),
    "kernel thread": (
        lambda r, _: process(r, 71, "vhost-70", flags=KERNEL_THREAD),
        "kernel thread",
        "71@7100",
        "left",
    ),
    "namespace": (lambda r, _: process(r, 72, "sleep", net=5), "namespace", "net:[5]", "left"),
    "named namespace": (
        lambda r, _: write(r, "run/netns/lab"),
        "namespace",
        "/run/netns/lab",
        "left",
    ),
    "file": (lambda r, _: write(r, "dev/shm/left"), "file", "/dev/shm/left", "left"),
    "socket": (lambda r, _: socket_file(r), "file", "/usr/left.sock", "left"),
    "symlink": (lambda r, _: (r / "usr/l").symlink_to("x"), "file", "/usr/l", "left"),
    "mode": (lambda r, _: (r / "usr/bin/tool").chmod(0o4755), "file", "/usr/bin/tool", "changed"),
    "content": (lambda r, _: append(r, "usr/bin/tool", "b"), "file", "/usr/bin/tool", "changed"),
    "removed": (lambda r, _: (r / "usr/bin/tool").unlink(), "file", "/usr/bin/tool", "gone"),
    "own log": (lambda r, _: write(r, "var/log/labctl.log"), "file", "/var/log/labctl.log", "left"),
    "sysctl": (
        lambda r, _: write(r, "proc/sys/net/ipv4/ip_forward", "1"),
        "sysctl",
        "net/ipv4/ip_forward",
        "changed",
    ),
    "a link's sysctl": (
        lambda r, _: write(r, "proc/sys/net/ipv4/conf/eth0/rp_filter", "2"),
        "sysctl",
        "net/ipv4/conf/eth0",
        "changed",
    ),
    "mount": (
        lambda r, _: append(r, "proc/1/mountinfo", "31 30 0:9 / /mnt/a\\040b rw - nfs n rw\n"),
        "mount",
        "/mnt/a b",
        "left",
    ),
    "mount over": (
        lambda r, _: append(r, "proc/1/mountinfo", "31 30 0:9 / / rw - nfs n rw\n"),
        "mount",
        "/ #2",
        "left",
    ),
    "link": (
        lambda _, t: more(t, "ip -j -d link", json.dumps([LINK, {**LINK, "ifname": "br9"}])),
        "link",
        "br9",
        "left",
    ),
    "MTU": (
        lambda _, t: more(t, "ip -j -d link", json.dumps([{**LINK, "mtu": 9000}])),
        "link",
        "eth0",
        "changed",
    ),
    "offload": (
        lambda _, t: more(t, "ethtool -k eth0", "Features for eth0:\ntx-checksumming: off\n"),
        "offload",
        "tx-checksumming of eth0",
        "changed",
    ),
    "address": (
        lambda _, t: more(
            t,
            "ip -j address",
            '[{"ifname": "eth0", "addr_info": [{"local": "10.0.0.1", "prefixlen": 8}]}]',
        ),
        "address",
        "10.0.0.1/8 on eth0",
        "left",
    ),
    "route": (
        lambda _, t: more(t, "ip -j -4 route", '[{"dst": "10.0.0.0/8", "dev": "eth0"}]'),
        "route",
        "10.0.0.0/8 dev eth0",
        "left",
    ),
    "routing rule": (
        lambda _, t: more(t, "ip -j -6 rule", '[{"priority": 7}]'),
        "routing rule",
        "-6 7",
        "left",
    ),
    "neighbour": (
        lambda _, t: more(
            t, "ip -j neigh", '[{"dst": "10.0.0.2", "dev": "eth0", "state": ["PERMANENT"]}]'
        ),
        "neighbour",
        "10.0.0.2 on eth0",
        "left",
    ),
    "queue": (
        lambda _, t: more(t, "tc", '[{"kind": "clsact", "dev": "eth0", "parent": "ffff:fff1"}]'),
        "queue",
        "clsact on eth0 ffff:fff1",
        "left",
    ),
    "rule": (lambda _, t: more(t, "nft", nft(rule(1))), "firewall", "rule inet t c", "left"),
    "legacy table": (
        lambda r, _: write(r, "proc/net/ip_tables_names", "nat\n"),
        "firewall",
        "iptables-legacy ip nat",
        "left",
    ),
    "module": (
        lambda r, _: append(r, "proc/modules", "br_netfilter 1 0 - Live 0x0\n"),
        "module",
        "br_netfilter",
        "left",
    ),
    "tracer": (
        lambda r, _: write(r, "sys/kernel/tracing/current_tracer", "function\n"),
        "kernel setting",
        "tracing/current_tracer",
        "changed",
    ),
    "trace instance": (
        lambda r, _: (r / "sys/kernel/tracing/instances/lab").mkdir(),
        "kernel setting",
        "tracing/instances/lab",
        "left",
    ),
    "huge page": (
        lambda r, _: write(r, "sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "1"),
        "kernel setting",
        "mm/hugepages/hugepages-2048kB/free_hugepages",
        "changed",
    ),
    "profile": (
        lambda r, _: append(r, "sys/kernel/security/apparmor/profiles", "libvirt-1 (enforce)\n"),
        "kernel setting",
        "apparmor libvirt-1",
        "left",
    ),
    "pinned BPF": (lambda r, _: write(r, "sys/fs/bpf/p"), "BPF file", "/p", "left"),
    "BPF program": (
        lambda _, t: more(t, "bpftool -j prog", '[{"type": "xdp", "name": "x", "tag": "1"}]'),
        "BPF program",
        "prog xdp x 1",
        "left",
    ),
    "disk": (
        lambda r, _: write(r, "sys/block/loop0/loop/backing_file", "/img\n"),
        "disk",
        "loop0",
        "changed",
    ),
    "user": (
        lambda r, _: append(r, "etc/passwd", "eve:x:1001:1001::/:/bin/sh\n"),
        "user",
        "eve",
        "left",
    ),
    "group": (lambda r, _: append(r, "etc/group", "eve:x:1001:\n"), "group", "eve", "left"),
    "cgroup": (
        lambda r, _: (r / "sys/fs/cgroup/machine.slice").mkdir(),
        "cgroup",
        "/machine.slice",
        "left",
    ),
    "failed unit": (
        lambda _, t: more(t, "systemctl", "a.service loaded failed failed A\n"),
        "failed unit",
        "a.service",
        "left",
    ),
    "shared memory": (
        lambda r, _: append(
            r, "proc/sysvipc/shm", "        77          3  1600       4096  1   0\n"
        ),
        "IPC",
        "shm 3",
        "left",
    ),
    "oops": (lambda r, _: append(r, "dev/kmsg", "0,2,5,-;Oops: 0002\n"), "message", "2", "left"),
    "lost messages": (
        lambda r, _: write(r, "dev/kmsg", "6,9,5,-;later\n"),
        "message",
        "overwritten before they were read",
        "gone",
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_planted_is_noticed(root: Path, told: dict[str, str], name: str) -> None:
    change, kind, thing, verdict = PLANTED[name]
    before = look(root, told)
    assert compare(before, look(root, told)) == []
    change(root, told)
    found = compare(before, look(root, told))
    assert (kind, thing, verdict) in {(d.kind, d.name, d.verdict) for d in found}
    assert f"{verdict:8} {kind} {thing}: " in report(found)


def differences(before: Snapshot, after: Snapshot) -> list[Difference]:
    """Compare, without files that stand for another kind: /proc and /sys are folders here."""
    return [d for d in compare(before, after) if not d.name.startswith(("/proc", "/sys/", "/dev"))]


SESSION = "/user.slice/user-0.slice/session-3.scope"
ALLOWED: dict[str, tuple[Change, str, str]] = {
    "journal": (lambda r, _: append(r, "var/log/journal/1/system.journal", "b"), "file", "journal"),
    "uuid": (lambda r, _: write(r, "proc/sys/kernel/random/uuid", "two"), "sysctl", "every look"),
    "worker": (
        lambda r, _: process(r, 80, "kworker/0:1-events", flags=KERNEL_THREAD),
        "kernel thread",
        "workers",
    ),
    "login": (
        lambda r, _: process(r, 81, "sshd: root@notty", cgroup=SESSION),
        "process",
        "a login",
    ),
    "session": (
        lambda r, _: (r / f"sys/fs/cgroup{SESSION}").mkdir(parents=True),
        "cgroup",
        "a login",
    ),
    "timer": (
        lambda r, _: process(r, 82, "/bin/sh apt", cgroup="/system.slice/apt-daily.service", net=9),
        "process",
        "timers",
    ),
    "neighbour": (
        lambda _, t: more(t, "ip -j neigh", '[{"dst": "10.0.0.2", "state": ["STALE"]}]'),
        "neighbour",
        "by traffic",
    ),
    "filter": (
        lambda _, t: more(t, "bpftool -j prog", '[{"type": "cgroup_skb", "name": "sd_fw_egress"}]'),
        "BPF program",
        "systemd's filters",
    ),
}


@pytest.mark.parametrize("name", ALLOWED)
def test_what_a_live_system_does_is_shown_as_allowed(
    root: Path, told: dict[str, str], name: str
) -> None:
    change, kind, reason = ALLOWED[name]
    before = look(root, told)
    change(root, told)
    # A machine of folders has /proc and /sys among its files.
    found = differences(before, look(root, told))
    assert {d.verdict for d in found} == {"allowed"}
    assert any(d.kind == kind and reason in d.reason for d in found)
    assert f" {kind}: " in report(found).partition("\nallowed: ")[2]
    assert report(found).startswith("same as before (0 left, 0 changed, 0 gone")


@pytest.mark.parametrize(
    ("command", "cgroup"),
    [
        # One's own sshd, a second listener, a shell that stayed in a session, one's own unit.
        ("sshd: root@notty", "/labx"),
        ("sshd: /usr/sbin/sshd -p 2 [listener] 0 of 10-100 startups", "/system.slice/ssh.service"),
        ("qemu-system-x86_64", SESSION),
        ("sleep 9", "/system.slice/lab.service"),
        ("sleep 9", "/user.slice/user-0.slice/user@0.service/app.slice/lab.scope"),
    ],
)
def test_what_only_resembles_a_login_or_service_is_left(
    root: Path, told: dict[str, str], command: str, cgroup: str
) -> None:
    before = look(root, told)
    process(root, 90, command, cgroup=cgroup)
    found = differences(before, look(root, told))
    assert [(d.kind, d.verdict) for d in found] == [("process", "left")]


def test_who_asks_is_allowed(root: Path, told: dict[str, str]) -> None:
    before = look(root, told)
    process(root, os.getpid(), "python3 snapshot.py", cgroup=SESSION)
    found = differences(before, look(root, told))
    assert [(d.verdict, d.reason) for d in found] == [("allowed", "asks for the snapshot")]


def test_a_lab_s_module_is_noted_with_what_came_along(root: Path, told: dict[str, str]) -> None:
    before = look(root, told)
    append(root, "proc/modules", "nf_conntrack 1 0 - Live 0x0\n")
    write(root, "proc/sys/net/netfilter/nf_conntrack_max", "9")
    found = differences(before, look(root, told))
    assert {(d.kind, d.verdict) for d in found} == {("module", "noted"), ("sysctl", "noted")}
    write(root, "proc/sys/net/netfilter_other", "9")
    assert any(d.fails for d in compare(before, look(root, told)))


def test_a_disk_of_a_new_module_is_noted_unless_in_use(root: Path, told: dict[str, str]) -> None:
    before = look(root, told)
    append(root, "proc/modules", "loop 1 0 - Live 0x0\n")
    write(root, "sys/block/loop1/size", "0\n")
    assert {d.verdict for d in differences(before, look(root, told))} == {"noted"}
    write(root, "sys/block/loop1/size", "8\n")
    found = differences(before, look(root, told))
    assert [(d.name, d.verdict) for d in found if d.kind == "disk"] == [("loop1", "left")]


def test_a_new_link_s_settings_only_go_with_it(root: Path, told: dict[str, str]) -> None:
    before = look(root, told)
    told["ip -j -d link"] = json.dumps([LINK, {"ifname": "br9"}])
    write(root, "proc/sys/net/ipv4/conf/br9/rp_filter", "0")
    found = differences(before, look(root, told))
    seen = [(d.kind, d.verdict) for d in found]
    assert seen == [("link", "left"), ("offload", "noted"), ("sysctl", "noted")]


def test_what_counts_or_passes_is_no_difference(root: Path, told: dict[str, str]) -> None:
    told |= {"nft": nft(rule(1)), "ip -j -6 route": '[{"dst": "::/0", "expires": 9}]'}
    before = look(root, told)
    told |= {"nft": nft(rule(2)), "ip -j -6 route": '[{"dst": "::/0", "expires": 8}]'}
    # A file that comes and goes leaves its folder another time; tracing lets its buffer grow.
    write(root, "usr/bin/passing").unlink()
    write(root, "sys/kernel/tracing/buffer_size_kb", "1410\n")
    assert differences(before, look(root, told)) == []


@pytest.mark.parametrize(
    ("line", "verdict"),
    [
        ("4,2,5,-;WARNING: CPU: 0 PID: 1 at kernel/x.c:1", "left"),
        ("6,2,5,-;python3[7]: segfault at 0 ip 0", "left"),
        ("4,2,5,-;general protection fault, probably for", "left"),
        ("3,2,5,-;INFO: task qemu:7 blocked for more than 120 seconds.", "left"),
        ("0,2,5,-;watchdog: BUG: soft lockup - CPU#0 stuck for 22s!", "left"),
        ("3,2,5,-;rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:", "left"),
        ("3,2,5,-;I/O error, dev vda, sector 0", "left"),
        ("3,2,5,-;kvm: vcpu0 unexpected exit", "left"),
        ("3,2,5,-;Out of memory: Killed process 7", "left"),
        ('5,2,5,-;audit: type=1400 apparmor="DENIED" operation="open"', "left"),
        ("2,2,5,-;something critical", "left"),
        ("12,2,5,-;BUG: planted by a program", "left"),
        ("10,2,5,-;systemd says something critical", "noted"),
        ("6,2,5,-;br9: port 1(va) entered blocking state", "noted"),
        ("4,2,5,-;process uses deprecated things", "noted"),
    ],
)
def test_messages_of_trouble_fail_and_others_are_noted(
    root: Path, told: dict[str, str], line: str, verdict: str
) -> None:
    before = look(root, told)
    append(root, "dev/kmsg", f"{line}\n")
    assert [d.verdict for d in differences(before, look(root, told))] == [verdict]


def test_ignored_files_are_left_out(root: Path, told: dict[str, str]) -> None:
    before = look(root, told, ["/root/labctl/*"])
    write(root, "root/labctl/deep/file")
    write(root, "root/labctl-other")
    found = compare(before, look(root, told, ["/root/labctl/*"]))
    assert {d.name for d in found} == {"/root", "/root/labctl", "/root/labctl-other"}
    # Ignored by one of both is enough.
    assert {d.name for d in compare(before, look(root, told))} == {d.name for d in found}


def test_what_waits_to_be_mounted_is_not_looked_at(root: Path, told: dict[str, str]) -> None:
    before = look(root, told)
    append(root, "proc/1/mountinfo", "31 30 0:9 / /proc/sys/fs/auto rw - autofs n rw\n")
    write(root, "proc/sys/fs/auto/value", "1")
    found = [d.kind for d in compare(before, look(root, told)) if d.kind != "file"]
    assert found == ["mount"]


def test_what_cannot_be_taken_is_said(root: Path, told: dict[str, str]) -> None:
    del told["bpftool"]
    before = look(root, told)
    found = compare(before, look(root, told))
    assert [(d.kind, d.verdict) for d in found] == [("BPF program", "noted")]
    assert "no bpftool here" in report(found)
    # Seen only once, it may have changed unseen.
    told["bpftool"] = "[]"
    assert [(d.kind, d.verdict) for d in compare(before, look(root, told))] == [
        ("BPF program", "changed")
    ]


def test_without_nf_tables_nft_is_not_run(root: Path, told: dict[str, str]) -> None:
    (root / "sys/module/nf_tables").rmdir()
    told["nft"] = "would load the module"
    assert look(root, told)["kinds"]["firewall"] == {}


def test_names_that_are_no_text_are_shown_on_one_line(root: Path, told: dict[str, str]) -> None:
    before = look(root, told)
    (Path(os.fsdecode(bytes(root / "usr") + b"/\xff\n\x1b[2J"))).touch()
    (difference,) = differences(before, look(root, told))
    assert difference.verdict == "left"
    assert str(difference).isprintable()


def test_the_report_is_bounded() -> None:
    many = [Difference("file", f"/{n}", None, {}, "left") for n in range(50)]
    lines = report([*many, Difference("user", "eve", None, "x", "left")], lines=3).splitlines()
    assert (
        lines[0] == "NOT as before: 51 differences (51 left, 0 changed, 0 gone, 0 noted, 0 allowed)"
    )
    assert lines[4:] == ["left     file: and 47 more", "left     user eve: x"]


def test_only_what_differs_of_a_thing_is_told() -> None:
    difference = Difference(
        "link", "a", *comparing._parts({"x": 1, "y": 2}, {"x": 1, "y": 3}), "changed"
    )
    assert str(difference) == "changed  link a: y 2 -> y 3"


def test_until_same_waits_for_what_ends_by_itself(
    root: Path, told: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "PAUSE", 0.0)
    before = look(root, told, ["/x/*"])
    worse = copy.deepcopy(before)
    worse["kinds"]["process"]["9@9"] = {"command": "exiting", "uid": 0}
    takes = [before, worse, worse]
    asked: list[Sequence[str]] = []

    def taker(ignore: Sequence[str]) -> Snapshot:
        asked.append(ignore)
        return takes.pop()

    assert until_same(before, 60, taker) == []
    assert asked == [["/x/*"]] * 3
    assert [d.name for d in until_same(before, 0, lambda _: worse)] == ["9@9"]


def script(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", FOLDER / "snapshot.py", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_runs_by_its_path_alone_and_its_status_tells(
    root: Path, told: dict[str, str], tmp_path: Path
) -> None:
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    taken = look(root, told)
    before.write_text(json.dumps(taken))
    # A file here named as one of Python's modules is not what gets imported.
    write(tmp_path, "json.py", "raise SystemExit(9)")
    done = script("compare", before, before, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "same as before (0 left, 0 changed, 0 gone, 0 noted, 0 allowed)\n"
    taken["kinds"]["user"]["eve"] = "x"
    after.write_text(json.dumps(taken))
    done = script("compare", before, after, "--json", cwd=tmp_path)
    assert done.returncode == 1
    (difference,) = json.loads(done.stdout)
    assert (difference["kind"], difference["name"], difference["verdict"]) == (
        "user",
        "eve",
        "left",
    )


def test_a_kind_that_must_be_seen_and_is_not_ends_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    skipped = {"link": "ip: it failed", "BPF program": "no bpftool here"}
    monkeypatch.setattr(snapshot, "take", lambda _: {"ignore": [], "skipped": skipped, "kinds": {}})
    monkeypatch.setattr(snapshot, "_own_view", lambda: None)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert snapshot.main(["take"]) == 0
    assert snapshot.main(["take", "--may-lack", "BPF program", "link"]) == 0
    with pytest.raises(SystemExit) as ended:
        snapshot.main(["take", "--may-lack", "BPF program"])
    assert ended.value.code == 2
    assert "link cannot be seen: ip: it failed" in capsys.readouterr().err


def test_a_comparison_that_breaks_off_is_no_difference(tmp_path: Path) -> None:
    before = tmp_path / "before.json"
    before.write_text("half of a snap")
    done = script("compare", before, before, cwd=tmp_path)
    assert done.returncode == 2
    assert "JSONDecodeError" in done.stderr


@pytest.mark.parametrize(
    ("glob", "path", "matched"),
    [
        ("/a/*", "/a/b", True),
        ("/a/*", "/a/b/c", False),
        ("/a/**", "/a/b/c", True),
        ("/a.b", "/axb", False),
        ("/x[01]", "/x1", True),
        ("/x?", "/x/", False),
    ],
)
def test_globs(glob: str, path: str, matched: bool) -> None:
    assert bool(matcher([glob])(path)) is matched
    assert not matcher([])(path)


def test_a_program_that_is_missing_or_fails_is_skipped() -> None:
    with pytest.raises(SkippedError, match="no no-such-program here"):
        run(["no-such-program"])
    with pytest.raises(SkippedError, match="false"):
        run(["false"])
    assert run(["echo", "a"]) == "a\n"
