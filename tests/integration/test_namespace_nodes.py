"""Nodes that are network namespaces: paths that begin or end in the host's own kernel."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from live import LABCTL, Place, Watch, as_user, needs_users, pids, place, until, words_of

from labctl import probes
from labctl.diagnosis.diagnose import diagnose
from labctl.errors import GuestError
from labctl.lab.lab import Lab
from labctl.lab.watch import watch_drops
from labctl.pytest_plugin import LabFactory
from labctl.tracing.plan import plan

pytestmark = pytest.mark.integration

BRIDGED = """\
name: namespaces
networks: {lan: {}}
nodes:
  ns1:
    kind: namespace
    interfaces: [{network: lan, addresses: [10.0.0.1/24, 'fd00::1/64']}]
  ns2:
    kind: namespace
    interfaces:
      - {network: lan, addresses: [10.0.0.2/24, 'fd00::2/64'], offload: {guest: {tso: off}}}
"""
HOP = """\
name: hop
networks: {left: {}, right: {}}
nodes:
  ns1:
    kind: namespace
    interfaces: [{network: left, addresses: [10.0.1.1/24, 'fd00:1::1/64']}]
    routes: [{to: default, via: 10.0.1.254}, {to: default, via: 'fd00:1::fe'}]
  ns2:
    kind: namespace
    interfaces: [{network: right, addresses: [10.0.2.2/24, 'fd00:2::2/64']}]
    routes: [{to: default, via: 10.0.2.254}, {to: default, via: 'fd00:2::fe'}]
routers:
  r1:
    kind: KIND
    interfaces:
      - {network: left, addresses: [10.0.1.254/24, 'fd00:1::fe/64']}
      - {network: right, addresses: [10.0.2.254/24, 'fd00:2::fe/64']}
"""
HOPS = ["ns1:eth0", "ns1-eth0", "r1-eth0", "r1:eth0", "r1:eth1", "r1-eth1", "ns2-eth0", "ns2:eth0"]
MIXED = ["vm1:eth0", "vm1-eth0", *HOPS[2:6], "ns1-eth0", "ns1:eth0"]

# An experiment that says of a router that loses the metadata that it keeps it: it must fail.
WRONG = """\
from labctl import Effect, check_path, experiment
from labctl.kinds import registry
from labctl.kinds.forwarders.raw import Raw


@registry.FORWARDERS.register
class Wrong(Raw):
    name = "says-it-keeps"
    summary = "loses it and says that it does not"
    effect = Effect.KEEPS


@experiment("wrong", topology=TOPOLOGY, hypothesis="raw keeps the metadata")
def wrong(trial):
    with trial.arm("wrong", "raw, with a wrong effect") as arm:
        trial.lab.router("r1").set_kind("says-it-keeps")
        check_path(trial, arm, "ns1", "ns2", 4)
"""


@pytest.fixture
def here(pytestconfig: pytest.Config) -> Iterator[Place]:
    with place(pytestconfig.getoption("--accel")) as where:
        yield where


@pytest.fixture(scope="module")
def mixed(lab_factory: LabFactory) -> Iterator[Lab]:
    with lab_factory("namespace-peer.yaml") as lab:
        yield lab


@pytest.fixture
def router(mixed: Lab) -> Iterator[Lab]:
    """The lab of a guest and a namespace, its router put back afterwards."""
    yield mixed
    mixed.router("r1").set_kind("namespace")


def first_process(directory: Path, node: str) -> int:
    """Return the first process of a namespace node, not the unshare(1) that waits for it."""
    file = str(directory / f"namespaces/{node}.launch")
    found = [pid for pid in pids() if (text := words_of(pid)).endswith(file) and "-P -m" in text]
    (one,) = (pid for pid in found if "unshare" not in words_of(pid))
    return one


def record(here: Place, *words: str, status: int) -> Any:
    told = here.run("experiment", *words, "--json")
    assert told.status == status, told
    (made,) = told.json()
    return json.loads((Path(made["path"]) / "result.json").read_text())


def verdicts(run: Any) -> dict[str, str]:
    return {arm["name"]: arm["verdict"] for arm in run["arms"]}


# --- two ends without a machine -------------------------------------------------------------------


def test_over_a_bridge_what_they_send_is_unfinished_and_is_taken(here: Place) -> None:
    file = here.write("bridged.yaml", BRIDGED)
    run = record(here, "effects", "--topology", str(file), status=0)
    assert set(verdicts(run).values()) == {"pass"}, run
    assert len(run["arms"]) == 4
    assert run["environment"]["accelerator"] == "none"


def test_behind_a_router_that_loses_the_metadata_they_hang_as_guests_do(here: Place) -> None:
    for kind, ssh in (("namespace", "works"), ("raw", "hangs")):
        file = here.write(f"{kind}.yaml", HOP.replace("KIND", kind))
        run = record(here, "effects", "--topology", str(file), status=0)
        assert set(verdicts(run).values()) == {"pass"}, run
        for arm in run["arms"]:
            (found,) = (one for one in arm["checks"] if one["name"] in ("ssh", "tcp"))
            assert found["observed"].startswith(ssh), found


def test_a_router_whose_effect_is_told_wrongly_fails(here: Place) -> None:
    topology = yaml.safe_load(HOP.replace("KIND", "raw"))
    file = here.write("wrong.py", WRONG.replace("TOPOLOGY", repr(topology)))
    run = record(here, str(file), status=1)
    failed = [one["name"] for one in run["arms"][0]["checks"] if one["verdict"] == "fail"]
    assert "SYN ns1 to ns2" in failed, run


def test_a_lab_of_them_alone_asks_for_no_qemu_no_image_and_no_kvm(here: Place) -> None:
    here.env["XDG_CACHE_HOME"] = str(here.root / "cache")
    file = here.write("bridged.yaml", BRIDGED)
    told = here.ok("up", str(file), "--accel", "off")
    assert "(no machines)" in told.stdout
    (lab,) = here.ok("status", "--json").json()
    assert {one["is"] for one in lab["parts"]} == {"node (namespace)", "network"}
    assert lab["state"] == "up"
    assert not (here.root / "cache/labctl/images").exists()
    here.ok("down")


def test_a_command_sees_a_host_of_its_own_and_can_change_nothing_of_ours(here: Place) -> None:
    here.ok("up", str(here.write("bridged.yaml", BRIDGED)))

    def sh(line: str) -> str:
        done = here.run("ssh", "ns1", line)
        return (done.stdout + done.stderr).strip()

    assert here.ok("exec", "ns1", "hostname").stdout == "ns1\n"
    assert here.ok("ssh", "ns1", "--", "hostname", "-s").stdout == "ns1\n"
    assert sh("ls /sys/class/net").split() == ["eth0", "lo"]
    assert int(sh("ls -d /proc/[0-9]* | wc -l")) < 8, "it sees its own processes alone"
    for path in ("/etc/labctl-test", "/usr/labctl-test", "/sys/labctl-test"):
        assert "Read-only file system" in sh(f"touch {path}")
        assert not Path(path).exists()
    assert "Read-only file system" in sh("echo 1 >/proc/sys/kernel/panic")
    assert sh("echo 1 >/proc/sys/net/ipv4/ip_forward; cat /proc/sys/net/ipv4/ip_forward") == "1"
    assert "denied" in sh("mount -t tmpfs x /mnt") or "permitted" in sh("mount -t tmpfs x /mnt")
    assert sh("touch /tmp/mine /run/mine /root/mine && ls /tmp") == "mine"
    assert not Path("/tmp/mine").exists()
    assert "Read-only file system" in sh("echo >/proc/pressure/cpu || echo >/proc/bus/x")
    assert sh("echo x >/dev/null && head -c 1 /dev/zero | wc -c") == "1"
    add = 'import ctypes; print(ctypes.CDLL(None).syscall(248, b"user", b"k", b"v", 1, -4))'
    if os.uname().machine == "x86_64":
        assert sh(f"python3 -c '{add}'") == "-1", "it adds no key to its user's"
    assert sh("exit 7") == ""
    assert here.run("ssh", "ns1", "exit 7").status == 7
    assert here.run("exec", "ns1", "no-such-program").status == 127
    assert "it has no console" in here.run("console", "ns1").stderr
    here.ok("down")


CONNECT = """\
import socket, sys
with socket.socket(socket.AF_UNIX) as one:
    print(one.connect_ex(sys.argv[1]))
"""


def test_sockets_and_devices_of_the_hosts_files_lead_nowhere(
    here: Place, lab_factory: LabFactory
) -> None:
    """Neither to connect to a socket nor to open a device is a write to its file system."""
    with (
        tempfile.TemporaryDirectory(prefix="labctl-test-", dir="/var/lib") as folder,
        socket.socket(socket.AF_UNIX) as server,
    ):
        there, null = f"{folder}/socket", f"{folder}/null"
        server.bind(there)
        server.listen()
        os.mknod(null, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        with lab_factory(here.write("bridged.yaml", BRIDGED)) as lab:
            connect = ["python3", "-c", CONNECT, there]
            write = ["sh", "-c", f"echo x >{null} && echo written || true"]
            for words, is_open in (
                ([], True),
                ([*lab.sandbox.enter(), *lab.node("ns1").words('exec "$0" "$@"')], False),
            ):
                told = [
                    subprocess.run([*words, *line], capture_output=True, text=True, timeout=60)
                    for line in (connect, write)
                ]
                assert (told[0].stdout.strip() == "0") is is_open, told
                assert ("written" in told[1].stdout) is is_open, told


def test_offloads_are_set_as_the_topology_says_and_are_put_back(lab_factory: LabFactory) -> None:
    with lab_factory(yaml.safe_load(BRIDGED)) as lab:
        first, second = lab.node("ns1"), lab.node("ns2")
        assert first.features()["tcp-segmentation-offload"].active
        assert not second.features()["tcp-segmentation-offload"].active
        before = first.features()
        with first.offload({"tx-checksumming": False}) as now:
            assert not now["tx-checksum-ip-generic"].active
        assert first.features() == before
        assert probes.tcp(lab, "ns1", "ns2", port=8080).works
        assert probes.ping(lab, "ns1", "ns2", version=6).works
        assert probes.udp(lab, "ns2", "ns1").works
        assert probes.udp(lab, "ns2", "ns1", summed=False, times=200).works
        with watch_drops(first) as watch:
            assert "drops of the whole host" in watch.why_not
            assert watch.read() == ()


def test_one_whose_first_process_was_killed_is_told_so(here: Place) -> None:
    here.ok("up", str(here.write("bridged.yaml", BRIDGED)), "--name", "gone")
    os.kill(first_process(here.runtime / "gone", "ns1"), signal.SIGKILL)
    (lab,) = here.ok("status", "--json").json()
    states = {one["name"]: one["state"] for one in lab["parts"]}
    assert (lab["state"], states["ns1"], states["ns2"]) == ("damaged", "ended", "running")
    told = here.run("exec", "ns1", "true")
    assert told.status != 0
    assert "ns1 has ended" in told.stderr
    here.ok("down")


@pytest.mark.parametrize("moment", ["making", "up"])
def test_nothing_of_them_is_left_after_kill_9(here: Place, moment: str) -> None:
    file = here.write("hop.yaml", HOP.replace("KIND", "raw"))
    with Watch(here) as watch:
        if moment == "making":
            with here.start("up", str(file), "--name", "cut", group=True) as running:
                running.reach("a namespace", (here.runtime / "cut/namespaces/ns1.pid").exists)
                watch.note()
                running.child.kill()
                running.wait()
        else:
            here.ok("up", str(file), "--name", "cut")
            watch.note()
            identity = json.loads((here.runtime / "cut/world.json").read_bytes())
            os.kill(identity["pid"], signal.SIGKILL)
        watch.nothing_left(files=False)


AS_USER = """\
set -eux
cat >"$LABCTL_RUNTIME_DIR/namespaces.yaml" <<'END'
{topology}END
{labctl} up "$LABCTL_RUNTIME_DIR/namespaces.yaml" >&2
test "$({labctl} exec ns1 hostname)" = ns1
{labctl} exec ns1 -- ping -c 1 10.0.0.2 >&2
{labctl} ssh ns1 'touch /tmp/mine && ! touch /usr/mine && ls /sys/class/net' >&2
{labctl} trace ns1 ns2 --udp 4000 >&2
{labctl} status --json
{labctl} down >&2
"""


@pytest.mark.parametrize("options", [[], ["--no-ranges"]], ids=["ranges", "one id"])
def test_an_ordinary_user_has_them_too(here: Place, options: list[str]) -> None:
    needs_users()
    done = as_user(here, AS_USER.format(labctl=LABCTL, topology=BRIDGED), *options)
    assert done.status == 0, done.stderr
    (lab,) = json.loads(done.stdout[done.stdout.index("[") :])
    assert lab["state"] == "up"


# --- a guest at the other end ---------------------------------------------------------------------


def test_a_trace_from_a_guest_ends_inside_the_namespace(mixed: Lab) -> None:
    flow, path = plan(mixed, "vm1", "ns1", "tcp", 22)
    assert [hop.name for hop in path] == MIXED
    flow, path = plan(mixed, "ns1", "vm1", "tcp", 22)
    found = diagnose(mixed, flow, path)
    assert found.healthy, found.verdict
    syn = next(one for one in found.trace.forward if one.kind == "SYN")
    assert [step.hop for step in syn.steps] == MIXED[::-1]


def test_a_diagnosis_names_the_router_and_proves_what_helps(router: Lab) -> None:
    router.router("r1").set_kind("raw")
    flow, path = plan(router, "vm1", "ns1", "tcp", 22)
    assert diagnose(router, flow, path).verdict.where.startswith("router r1 (eth0")
    flow, path = plan(router, "ns1", "vm1", "tcp", 22)
    found = diagnose(router, flow, path, proving=True)
    assert found.verdict.where.startswith("router r1"), found.verdict
    assert found.proof is not None
    works = {one.fix.name for one in found.proof.trials if one.works}
    assert "tx off in ns1 and vm1" in works, found.proof
    assert "r1 as namespace" in works


@pytest.mark.skipif(not shutil.which("dropbear"), reason="dropbear-bin is not installed")
def test_guest_and_namespace_log_in_to_each_other_by_the_labs_keys(mixed: Lab) -> None:
    for source, destination in (("vm1", "ns1"), ("ns1", "vm1")):
        for version in (4, 6):
            answer = probes.ssh(mixed, source, destination, version=version)
            assert answer.works, answer


def test_a_server_in_a_namespace_answers_a_guest(mixed: Lab) -> None:
    assert probes.tcp(mixed, "vm1", "ns1", port=8080).works
    assert probes.udp(mixed, "vm1", "ns1").works
    assert probes.ping(mixed, "ns1", "vm1").works
    mixed.router("r1").set_kind("raw")
    try:
        answer = probes.tcp(mixed, "vm1", "ns1", port=8080)
        assert answer.hangs, answer
    finally:
        mixed.router("r1").set_kind("namespace")


def test_without_a_first_process_a_command_is_an_error(lab_factory: LabFactory) -> None:
    with lab_factory(yaml.safe_load(BRIDGED)) as lab:
        node = lab.node("ns1")
        pid = first_process(lab.directory, "ns1")
        os.kill(pid, signal.SIGKILL)
        until("the end of its first process", lambda: words_of(pid) in ("", "(gone)"))
        with pytest.raises(GuestError, match="ns1"):
            node.run("true", check=False)
