"""A guest that breaks out of QEMU, or a packet that breaks a router's program, gets nowhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from live import LABCTL, SOLO, Place, Watch, as_user, needs_users, place
from netlab import isolated

from labctl import images
from labctl.guests.launch import FIRST_USER
from labctl.sandbox import confine
from labctl.sandbox.namespaces import Namespaces

pytestmark = pytest.mark.integration

NET_ADMIN = 1 << 12
ATTACK = """\
import ctypes, json, os, sys
pid, paths = int(sys.argv[1]), sys.argv[2:]
user = os.stat(f"/proc/{pid}").st_uid
libc = ctypes.CDLL(None, use_errno=True)
theirs = [os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY) for kind in ("mnt", "ipc", "net")]
for namespace in theirs:
    assert libc.setns(namespace, 0) == 0
os.setgroups([])
os.setgid(user)
os.setuid(user)
reached = os.listdir("/")
for path in paths:
    for flags in (os.O_RDONLY, os.O_RDWR, os.O_WRONLY | os.O_CREAT):
        try:
            os.open(path, flags)
            reached.append(path)
        except OSError:
            pass
for name in ("/here", "/proc", "/dev"):
    try:
        os.mkdir(name)
        reached.append(name)
    except OSError:
        pass
print(json.dumps(reached))
"""
"""Does what QEMU could do: its user, its namespaces. Prints what it got at."""


@pytest.fixture
def here(pytestconfig: pytest.Config) -> Iterator[Place]:
    with place(pytestconfig.getoption("--accel")) as where:
        yield where


@pytest.fixture
def root_lab(here: Place) -> Place:
    """A lab of root's, whose kernel nobody else may read."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    image = images.get("micro")
    private = here.root / "private"
    private.mkdir(mode=0o700)
    kernel = private / "kernel"
    kernel.write_bytes(image.kernel.read_bytes())
    kernel.chmod(0o600)
    here.write("solo.yaml", SOLO.replace("  vm1:\n", f"  vm1:\n    kernel: {kernel}\n"))
    before = os.umask(0o077)  # a careful root's
    try:
        here.ok("up", "solo.yaml")
    finally:
        os.umask(before)
    return here


def status_of(task: Path) -> dict[str, list[str]]:
    lines = (line.partition(":") for line in (task / "status").read_text().splitlines())
    return {name: value.split() for name, _, value in lines}


def capabilities(task: Path, *kinds: str) -> set[int]:
    return {int(status_of(task)[f"Cap{kind}"][0], 16) for kind in kinds}


def outer_pid(lab: Path, pid: int) -> Path:
    """Return the folder of proc(5), here, of a process that has this pid in a lab's sandbox."""
    init = Namespaces.attach(lab).identity.pid
    sandbox = Path(f"/proc/{init}/ns/pid").stat().st_ino
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                theirs = (entry / "ns/pid").stat().st_ino
                if theirs == sandbox and status_of(entry)["NSpid"][-1] == str(pid):
                    return entry
            except OSError:
                continue
    raise AssertionError(f"no process {pid} in {lab}")


def test_roots_qemu_has_no_rights_and_no_files_and_its_router_hardly_more(root_lab: Place) -> None:
    lab = root_lab.runtime / "solo"
    qemu = outer_pid(lab, int((lab / "embed/run/qemu/vm1.pid").read_text()))
    status = status_of(qemu)
    for ids in ("Uid", "Gid"):
        assert all(int(one) >= FIRST_USER for one in status[ids])
    for task in (qemu / "task").iterdir():
        assert capabilities(task, "Inh", "Prm", "Eff", "Bnd", "Amb") == {0}
        assert status_of(task)["NoNewPrivs"] == ["1"]
        assert status_of(task)["Seccomp"] == ["2"]
    assert b"spawn=deny" in (qemu / "cmdline").read_bytes()
    (mounted,) = (qemu / "mountinfo").read_text().splitlines()
    assert mounted.split()[4] == "/"
    assert mounted.split()[5].startswith("ro,")

    targets = ["/etc/shadow", "/etc/passwd", "/root", "/proc/1/environ", "/dev/kvm", "/sys/kernel"]
    targets += [str(root_lab.root), str(lab / "lab.state"), str(lab / "id_ed25519"), "/usr/bin/sh"]
    attack = [sys.executable, "-I", "-S", "-c", ATTACK, qemu.name, *targets]
    done = subprocess.run(attack, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []

    program = outer_pid(lab, int((lab / "routers/r1.pid").read_text().split()[0]))
    for task in (program / "task").iterdir():
        assert capabilities(task, "Prm", "Eff") == {NET_ADMIN}
        assert capabilities(task, "Inh", "Bnd", "Amb") == {0}
    assert list((program / "root").iterdir()) == []

    # What the router shows of /sys is its own, and nobody's to change.
    told = root_lab.ok("exec", "r1", "--", "ls", "/sys/class/net").stdout
    assert set(told.split()) == {"lo", "eth0", "eth1"}
    done_ = root_lab.run("exec", "r1", "--", "sh", "-c", "echo 1 >/sys/class/net/lo/tx_queue_len")
    assert done_.status != 0
    assert "Read-only" in done_.stderr
    assert list(lab.glob("embed/view-*")) == []


def test_the_sandboxes_sys_shows_its_own_links_and_is_read_only(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    sandbox = Namespaces.create(tmp_path / "w")
    try:
        look = "ls /sys/class/net; echo 1 >/sys/class/net/lo/tx_queue_len"
        done = subprocess.run(
            [*sandbox.enter(), "sh", "-c", look], capture_output=True, text=True, check=False
        )
    finally:
        sandbox.end()
    assert done.stdout.split() == ["lo"]
    assert "Read-only" in done.stderr


USERS = f"""\
set -eu
cat >solo.yaml <<'EOF'
{SOLO}EOF
{LABCTL} up solo.yaml >&2
for entry in /proc/[0-9]*; do
    case $(tr '\\0' ' ' <$entry/cmdline 2>/dev/null || :) in
    *qemu-system*guest=vm1*)
        echo "root: $(ls -A $entry/root)"
        echo "mounts: $(cut -d ' ' -f 5,6 $entry/mountinfo)"
        cat $entry/status;;
    esac
done
{LABCTL} exec r1 -- ls /sys/class/net >&2
{LABCTL} down >&2
"""


def test_an_ordinary_users_qemu_has_no_rights_and_no_files(here: Place) -> None:
    needs_users()
    images.get("micro")
    with Watch(here) as watch:
        done = as_user(here, USERS)
        assert done.status == 0, done.stderr
        watch.nothing_left()
    found = {name: value.split() for name, _, value in
             (line.partition(":") for line in done.stdout.splitlines())}  # fmt: skip
    assert found["root"] == []
    assert found["mounts"][0] == "/"
    assert found["mounts"][1].startswith("ro,")
    assert len(found["mounts"]) == 2
    for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb"):
        assert int(found[f"Cap{kind}"][0], 16) == 0
    assert found["NoNewPrivs"] == ["1"]
    assert found["Seccomp"] == ["2"]
    assert {"lo", "eth0", "eth1"} == set(done.stderr.split()) & {"lo", "eth0", "eth1", "left"}


# --- what a thread sees while QEMU starts -------------------------------------------------------

NOBODY = FIRST_USER + 1


def seen_by(user: int | None, base: Path, **parts: list[Path]) -> dict[str, object]:
    """Confine a thread and tell what it sees; all threads beside it see what they saw."""

    def look() -> dict[str, object]:
        confine.own_mounts()
        confine.view(base, owner=user, **parts)
        found: dict[str, object] = {"root": sorted(one.name for one in Path("/").iterdir())}
        for path in [*parts.get("read", []), Path("/etc/shadow"), Path("/usr/bin/env")]:
            found[str(path)] = path.exists() and bool(path.stat().st_mode & 0o004)
            for name, flags in (("read", os.O_RDONLY), ("write", os.O_WRONLY)):
                found[f"{name} {path}"] = _opens(path, flags)
        for folder in parts.get("write", []):
            (folder / "new").write_text("x")
        for device in filter(Path.exists, parts.get("devices", [])):
            status = device.stat()
            found[f"who {device}"] = (status.st_uid, status.st_mode & 0o777, _opens(device, 2))
        confine.empty_view()
        found["then"] = list(Path("/").iterdir())
        return found

    return confine.in_thread(look)


def _opens(path: Path, flags: int) -> bool:
    try:
        os.close(os.open(path, flags))
    except OSError:
        return False
    return True


@isolated
def test_while_qemu_starts_only_what_it_needs_is_seen() -> None:
    top = Path("/run/test")
    base, mine, lab, far = (top / name for name in ("base", "mine", "lab", "far"))
    for folder in (base, mine, lab, far):
        folder.mkdir(parents=True)
    for name in ("kernel", "secret", "private"):
        (mine / name).write_text(name)
    (mine / "private").chmod(0o600)
    (far / "image").write_text("image")
    (lab / "conf").write_text("conf")
    (lab / "conf").chmod(0o600)
    (mine / "link").symlink_to(far)
    read = [mine / "kernel", mine / "private", mine / "link" / "image", lab / "conf"]
    read.append(Path("/usr/bin/mount"))  # where everything is seen anyway
    found = seen_by(NOBODY, base, read=read, write=[lab])
    top_level = {"copies", "dev", "etc", "proc", "run", "sys", "tmp", "usr"}
    assert top_level <= set(found["root"]) <= top_level | set(confine.USR)  # type: ignore[call-overload]
    assert all(found[str(path)] and found[f"read {path}"] for path in read)
    assert not any(found[f"write {path}"] for path in (*read, Path("/usr/bin/env")))
    assert not found["/etc/shadow"]
    assert found["then"] == []
    assert (lab / "new").read_text() == "x"
    assert (mine / "secret").exists()  # here, in another thread
    for path in (mine / "private", lab / "conf"):  # a copy was given away, not the file
        assert (path.read_text(), path.stat().st_mode & 0o777) == (path.name, 0o600)
    assert not list(base.iterdir())


@isolated
@pytest.mark.parametrize("group", [0, NOBODY])
def test_what_has_no_rights_sees_no_process_of_others(group: int) -> None:
    base = Path("/run/base")
    base.mkdir()

    def listed() -> str:
        confine.own_mounts()
        confine.view(base, owner=NOBODY)
        confine.no_more_rights()
        words = ["sh", "-c", "echo /proc/[0-9]*; echo $$"]
        return subprocess.run(
            words,
            user=NOBODY,
            group=group,
            extra_groups=[],
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    seen, own = confine.in_thread(listed).split("\n")[:2]
    assert seen == f"/proc/{own}"


@isolated
def test_a_device_in_the_view_is_its_owners_alone() -> None:
    base, tun = Path("/run/base"), Path("/dev/net/tun")
    base.mkdir()
    before = tun.stat()
    found = seen_by(NOBODY, base, devices=[tun, Path("/dev/no-such-device")])
    assert found[f"who {tun}"] == (NOBODY, 0o600, True)
    assert (tun.stat().st_uid, tun.stat().st_mode) == (before.st_uid, before.st_mode)


@isolated
def test_what_a_thread_starts_after_it_gave_up_its_rights_has_none() -> None:
    def start() -> str:
        confine.no_more_rights()
        return subprocess.run(
            ["cat", "/proc/self/status"], capture_output=True, text=True, check=True
        ).stdout

    told = confine.in_thread(start)
    lines = dict(line.split(":\t", 1) for line in told.splitlines() if ":\t" in line)
    assert {int(lines[f"Cap{kind}"], 16) for kind in ("Prm", "Eff", "Bnd")} == {0}
    assert lines["NoNewPrivs"] == "1"
    assert "\nNoNewPrivs:\t0" in Path("/proc/self/status").read_text()  # this thread is as it was


@isolated
def test_a_root_that_cannot_be_taken_off_is_left_all_the_same() -> None:
    # As one that is no mount, the kernel's first root is refused by pivot_root(2).
    plain, base = Path("/run/plain"), Path("/run/base")
    for entry in [one for one in Path("/").iterdir() if one.is_dir()]:
        (plain / entry.name).mkdir(parents=True)
        if entry.name != "run":
            confine.mount(str(entry), plain / entry.name, "", confine.MS_BIND | confine.MS_REC)
    (plain / "run" / "base").mkdir()

    held: list[subprocess.Popen[bytes]] = []

    def viewed() -> int:
        confine.own_mounts()
        os.chroot(plain)
        os.chdir("/")
        confine.view(base, owner=NOBODY)
        child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(b"\n")
        child.stdin.flush()
        assert child.stdout.read(1) == b"\n"  # it has loaded its libraries, which are gone next
        held.append(child)
        confine.empty_view()
        assert list(Path("/").iterdir()) == []
        return child.pid

    def forgone() -> list[Path]:
        confine.own_mounts()
        os.chroot(plain)
        os.chdir("/")
        confine.empty_view(others=False)
        return list(Path("/").iterdir())

    started = confine.in_thread(viewed)
    assert list(Path(f"/proc/{started}/root").iterdir()) == []
    assert confine.in_thread(forgone) == []
    assert Path("/usr").exists()
