"""Ways into a running lab: commands everywhere, files both ways, programs from outside."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from live import Place, place, until

pytestmark = pytest.mark.integration

PAIR = """\
name: pair
networks:
  left: {subnets: [10.0.1.0/24]}
  right: {subnets: [10.0.2.0/24]}
nodes:
  vm1:
    labels: {role: client}
    interfaces: [{network: left, addresses: [10.0.1.1/24]}]
  vm2:
    labels: {role: server}
    interfaces: [{network: right, addresses: [10.0.2.1/24]}]
routers:
  r1:
    kind: namespace
    interfaces:
      - {network: left, addresses: [10.0.1.254/24]}
      - {network: right, addresses: [10.0.2.254/24]}
"""


@pytest.fixture(scope="module")
def pair(pytestconfig: pytest.Config) -> Iterator[Place]:
    """Two guests with a router between them."""
    with place(pytestconfig.getoption("--accel")) as where:
        where.write("pair.yaml", PAIR)
        where.ok("up", "pair.yaml")
        yield where


# --- exec ---------------------------------------------------------------------------------------


def test_a_command_runs_in_all_that_are_meant(pair: Place) -> None:
    assert pair.ok("exec", "--all", "--", "hostname").stdout == "vm1: vm1\nvm2: vm2\n"
    assert pair.ok("exec", "--label", "role=server", "hostname").stdout == "vm2: vm2\n"
    told = pair.ok("exec", "*1", "--", "sh", "-c", "ls -d /sys/class/net/eth*").stdout
    assert told == ("vm1: /sys/class/net/eth0\nr1: /sys/class/net/eth0\nr1: /sys/class/net/eth1\n")


def test_what_came_of_it_is_in_json_and_in_the_exit_status(pair: Place) -> None:
    words = ["sh", "-c", "test $(hostname) = vm1 && echo one || { echo other >&2; exit 7; }"]
    done = pair.run("exec", "--all", "--json", "--", *words)
    assert done.status == 1
    told = done.json()
    assert (told["lab"], told["command"]) == ("pair", words)
    assert [
        (one["name"], one["is"], one["status"], one["stdout"], one["stderr"], one["error"])
        for one in told["results"]
    ] == [("vm1", "node", 0, "one\n", "", ""), ("vm2", "node", 7, "", "other\n", "")]
    late = pair.run("exec", "--timeout", "1", "vm1,vm2", "--", "sleep", "100")
    assert late.status == 3
    assert [line.split(":")[0] for line in late.stderr.splitlines()] == ["vm1", "vm2"]


def test_nothing_that_a_guest_writes_acts_on_the_terminal(pair: Place) -> None:
    told = pair.run("exec", "--all", "--", "printf", "\\033[2J\\n\\033]0;x\\a\\n")
    assert "\x1b" not in told.stdout + told.stderr
    assert told.stdout.splitlines()[0] == r"vm1: \x1b[2J"


def test_a_command_runs_in_the_labs_own_namespaces(pair: Place) -> None:
    links = pair.ok("exec", "--lab", "--", "ls", "/sys/class/net").stdout.split()
    assert {"left", "right", "vm1-eth0", "r1-eth0"} <= set(links)
    assert "eth0" not in links
    assert pair.ok("exec", "-l", "pair", "--", "cat", "/sys/class/net/left/bridge/stp_state")
    # The files are this host's, /sys is not, and neither is to be written to.
    mine = pair.write("mine", "here")
    assert pair.ok("exec", "--", "cat", str(mine)).stdout == "here"
    for words in (["--"], ["r1", "--"]):
        told = pair.run("exec", *words, "sh", "-c", "echo 1 >/sys/class/net/lo/ifalias")
        assert told.status != 0
        assert "Read-only" in told.stderr
    pair.ok("exec", "--", "ip", "link", "set", "dev", "vm1-eth0", "alias", "seen")
    assert pair.ok("exec", "--", "cat", "/sys/class/net/vm1-eth0/ifalias").stdout == "seen\n"


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("exec", "--all"), "no command"),
        (("exec",), "neither a node nor a command"),
        (("exec", "--", "vm1", "true"), "vm1 behind -- is a command"),
        (("exec", "vm9*", "true"), "no node or router matches vm9"),
        (("exec", "--label", "role=none", "true"), "role=none"),
        (("exec", "--json", "--", "true"), "--json"),
        (("ssh", "r1"), "r1 is a router"),
        (("logs", "r1"), "r1 is a router"),
        (("console", "r1"), "r1 is a router"),
        (("ssh", "vm9"), "lab pair has no node vm9"),
        (("cp", "pair.yaml", "other"), "neither"),
        (("cp", "vm1:a", "vm2:b"), "both"),
        (("cp", "nosuch", "vm1:"), "no file nosuch"),
        (("cp", "pair.yaml", "vm9:"), "lab pair has no node vm9"),
        (("cp", "vm1:/", "."), "names no file"),
        (("cp", "vm1:/etc/hosts", "nosuch/x"), "no folder nosuch"),
        (("ssh-proxy", "r1"), "r1 is a router"),
        (("publish", "r1:80"), "r1 is a router"),
        (("publish", "vm1:0"), "is not NODE:PORT"),
        (("publish", "vm1:22", "--listen", "x"), "no port to listen on"),
        (("publish", "vm1:22", "--listen", "192.0.2.1:80"), "no address of this host"),
        (("publish", "--stop", "1"), "publishes nothing on 1"),
        (("publish", "--listen", "80"), "contradict"),
    ],
)
def test_wrong_words_are_told_in_one_line_with_what_to_do(
    words: tuple[str, ...], what: str, pair: Place
) -> None:
    done = pair.run(*words)
    text = done.stderr or done.stdout
    if "--json" in words:
        text = "labctl: {error}\n  {hint}".format(**json.loads(text))
    said, do = text.splitlines()
    assert done.status == 2
    assert said.startswith("labctl: ")
    assert what in said
    assert do.startswith("  ")
    if "vm9" in words[-1] and "no node vm9" in said:
        assert "routers: r1" in do


# --- cp -----------------------------------------------------------------------------------------


def test_a_folder_goes_into_a_guest_and_comes_back_the_same(pair: Place) -> None:
    folder = pair.root / "some"
    (folder / "sub").mkdir(parents=True)
    data = os.urandom(300_000)
    (folder / "sub" / "data").write_bytes(data)
    (folder / "sub" / ("long" * 50)).write_text("x")
    script = folder / "script"
    script.write_text("#!/bin/sh\necho ran\n")
    script.chmod(0o755)
    (folder / "link").symlink_to("script")
    told = pair.ok("cp", "some", "vm1:/tmp", "--json").json()
    assert (told["to"], told["files"], told["skipped"]) == ("vm1:/tmp/some", 3, 0)
    assert pair.ok("exec", "vm1", "/tmp/some/script").stdout == "ran\n"
    back = pair.ok("cp", "vm1:/tmp/some", "back", "--json").json()
    assert (back["files"], back["skipped"]) == (3, 1)
    assert (pair.root / "back/sub/data").read_bytes() == data
    assert os.access(pair.root / "back/script", os.X_OK)
    assert not (pair.root / "back/link").exists()
    # A folder does not take the place of one; nothing of a copy that failed stays.
    assert pair.run("cp", "vm1:/tmp/some", "back").status == 0  # into it: back/some
    assert pair.run("cp", "vm1:/tmp/some", "back").status == 2
    assert not list(pair.root.glob("**/.labctl-cp-*"))


def test_a_file_takes_another_name_and_the_place_of_another(pair: Place) -> None:
    pair.write("one", "1")
    pair.ok("cp", "one", "vm2:two")
    assert pair.ok("exec", "vm2", "cat", "/root/two").stdout == "1"
    pair.write("three", "old")
    pair.ok("cp", "vm2:two", "three")
    assert (pair.root / "three").read_text() == "1"
    assert stat.S_IMODE((pair.root / "three").stat().st_mode) & 0o111 == 0


def test_what_is_not_there_leaves_nothing(pair: Place) -> None:
    done = pair.run("cp", "vm1:/nosuch", "here")
    assert done.status == 3
    assert done.stderr.splitlines()[0].endswith("vm1 has no file /nosuch")
    assert pair.run("cp", "pair.yaml", "vm1:/no/such/").status == 3
    assert not (pair.root / "here").exists()
    assert not list(pair.root.glob(".labctl-cp-*"))


def test_what_a_killed_copy_leaves_goes_with_the_next(pair: Place) -> None:
    folder = pair.root / "taken"
    folder.mkdir()
    pair.ok("exec", "vm1", "--", "sh", "-c", "head -c 20000000 /dev/zero >/tmp/long; echo >/tmp/a")
    with pair.start("cp", "vm1:/tmp/long", "taken") as child:
        child.reach("it had begun", lambda: list(folder.glob(".labctl-cp-*/new")))
        child.child.kill()
    assert [path.name[:11] for path in folder.iterdir()] == [".labctl-cp-"]
    pair.ok("cp", "vm1:/tmp/a", "taken")
    assert [path.name for path in folder.iterdir()] == ["a"]
    pair.ok("exec", "vm1", "rm", "/tmp/long")


LIAR = r"""#!/usr/bin/perl
# tar that sends a file which was not asked for.
my $name = $ENV{NAME} // "../escaped";
my $head = pack("a100 a8 a8 a8 a12 a12 A8 a1 a100 a6 a2 a183", $name, "0000644", "0000000",
    "0000000", "00000000003", "00000000000", "        ", $ENV{KIND} // "0", "/etc", "ustar", "00",
    "");
$head = substr($head, 0, 512) . "\0" x (512 - length $head);
my $sum = unpack("%32C512", $head);
substr($head, 148, 8) = sprintf("%06o\0 ", $sum);
binmode STDOUT;
print $head, "bad", "\0" x 509, "\0" x 1024;
"""


def test_a_guest_that_lies_writes_nowhere(pair: Place) -> None:
    """It sends what it likes, whatever was asked for: only its name in the target is written."""
    pair.write("liar", LIAR)
    (pair.root / "target").mkdir()
    before = sorted(pair.root.rglob("*"))
    pair.ok("cp", "liar", "vm2:/usr/bin/liar")
    pair.ok("exec", "vm2", "chmod", "755", "/usr/bin/liar")

    def tar(name: str, kind: str = "0") -> None:
        script = f"#!/bin/sh\nNAME='{name}' KIND={kind} exec /usr/bin/liar\n"
        pair.ok("exec", "vm2", "sh", "-c", 'rm -f /usr/bin/tar; printf "%s" "$1" >/usr/bin/tar;'
                "chmod 755 /usr/bin/tar", "sh", script)  # fmt: skip

    # The control: what was asked for is taken from the same program.
    tar("./hosts")
    pair.ok("cp", "vm2:/etc/hosts", "target")
    assert (pair.root / "target/hosts").read_text() == "bad"
    (pair.root / "target/hosts").unlink()
    for name in ("../escaped", "/tmp/escaped", "hosts/../../escaped", "other"):
        tar(name)
        done = pair.run("cp", "vm2:/etc/hosts", "target")
        assert done.status == 3, name
        assert "not asked for" in done.stderr
    tar("./hosts", "2")  # a symbolic link to /etc
    done = pair.run("cp", "vm2:/etc/hosts", "target")
    assert done.status == 3
    assert "no file and no folder" in done.stderr
    assert sorted(pair.root.rglob("*")) == before
    pair.ok("exec", "vm2", "ln", "-sf", "busybox", "/usr/bin/tar")


# --- from outside -------------------------------------------------------------------------------


def test_ssh_of_the_hosts_logs_in_by_the_configuration(pair: Place, tmp_path: Path) -> None:
    config = tmp_path / "lab.conf"
    config.write_text(pair.ok("ssh-config").stdout)
    for name in ("vm1", "vm2.pair"):
        done = subprocess.run(
            ["ssh", "-F", str(config), name, "hostname"],
            capture_output=True, text=True, env=pair.env, timeout=120, check=True,
        )  # fmt: skip
        assert done.stdout.strip() == name.partition(".")[0]
    told = pair.ok("ssh-config", "--json").json()
    assert [one["name"] for one in told["nodes"]] == ["vm1", "vm2"]
    # The host key is pinned: another one is refused.
    hosts = Path(told["nodes"][0]["known_hosts"]).read_text()
    wrong = tmp_path / "known_hosts"
    key = hosts.split("\n")[1].partition(" ")[2]
    wrong.write_text(f"vm1 {key}\n")
    config.write_text(config.read_text().replace(told["nodes"][0]["known_hosts"], str(wrong)))
    refused = subprocess.run(
        ["ssh", "-F", str(config), "vm1", "hostname"],
        capture_output=True, text=True, env=pair.env, timeout=120, check=False,
    )  # fmt: skip
    assert refused.returncode == 255


def test_the_inventory_has_groups_of_labels(pair: Place) -> None:
    told = pair.ok("inventory").json()["all"]
    assert set(told["hosts"]) == {"vm1", "vm2"}
    assert set(told["children"]["role_client"]["hosts"]) == {"vm1"}
    assert set(told["children"]["pair"]["hosts"]) == {"vm1", "vm2"}


def ask(listens: str, send: bytes = b"") -> bytes:
    address, port = listens.rsplit(":", 1)
    with socket.create_connection((address, int(port)), 60) as line:
        line.sendall(send)
        line.shutdown(socket.SHUT_WR)
        return line.makefile("rb").read()


def test_a_port_of_the_host_leads_into_a_guest_while_the_lab_runs(pair: Place) -> None:
    pair.write("upper", "#!/bin/sh\ntr a-z A-Z\n").chmod(0o755)
    pair.ok("cp", "upper", "vm1:/usr/bin/upper")
    serve = "setsid nc -ll -p 7000 -e upper >/dev/null 2>&1 </dev/null &"
    pair.ok("exec", "vm1", "sh", "-c", serve)
    pair.ok("exec", "vm1", "sh", "-c", "until nc localhost 7000 </dev/null; do sleep 0.1; done")
    (made,) = pair.ok("publish", "vm1:7000", "--json").json()["published"]
    assert (made["node"], made["port"]) == ("vm1", 7000)
    assert made["listens"].startswith("127.0.0.1:")
    data = b"abc" * 100_000
    assert ask(made["listens"], data) == data.upper()
    (lab,) = [lab for lab in pair.ok("status", "--json").json() if lab["name"] == "pair"]
    assert lab["published"] == [made]
    assert f"{made['listens']} leads to port 7000 of vm1" in pair.ok("status").stdout
    port = made["listens"].rsplit(":", 1)[1]
    taken = pair.run("publish", "vm1:22", "--listen", port)
    assert (taken.status, "it is taken" in taken.stderr) == (2, True)
    pair.ok("publish", "--stop", port)
    assert pair.ok("publish", "--json").json()["published"] == []
    with pytest.raises(ConnectionRefusedError):
        ask(made["listens"])


@pytest.mark.parametrize("end", ["down", "kill"])
def test_what_is_published_ends_with_the_lab_however_that_ends(end: str, pair: Place) -> None:
    pair.write("solo.yaml", PAIR.replace("name: pair", "name: solo"))
    pair.ok("up", "solo.yaml", "--publish", "vm1:22")
    try:
        (made,) = pair.ok("publish", "-l", "solo", "--json").json()["published"]
        assert ask(made["listens"]).startswith(b"SSH-2.0-")
        if end == "kill":
            identity = json.loads((pair.runtime / "solo/world.json").read_text())
            os.kill(identity["pid"], signal.SIGKILL)
            until("the relay is gone", lambda: not answers(made["listens"]))
    finally:
        pair.ok("down", "solo")
    assert not answers(made["listens"])


def test_a_lab_whose_port_is_taken_does_not_come_up(pair: Place) -> None:
    pair.write("solo.yaml", PAIR.replace("name: pair", "name: solo"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = pair.run("up", "solo.yaml", "--publish", f"{port}:vm1:22")
    assert (done.status, "it is taken" in done.stderr) == (2, True)
    assert pair.lab_files() == ["pair"]


def answers(listens: str) -> bool:
    try:
        ask(listens)
    except OSError:
        return False
    return True


def test_what_changes_in_a_lab_is_told_as_it_does(pair: Place) -> None:
    with pair.start("events", "--lab", "pair", "--interval", "0.2", output=True) as watching:
        until("the router is told", lambda: watching.said('"name": "r1", "state": "running"'))
        pair.ok("exec", "--", "ip", "link", "set", "vm2-eth0", "down")
        until("the link is lost", lambda: watching.said('"name": "vm2:eth0", "state": "down"'))
        pair.ok("exec", "--", "ip", "link", "set", "vm2-eth0", "up")
        until("the link is whole", lambda: watching.said('"name": "vm2:eth0", "state": "up"'))
    lines = [json.loads(line) for line in watching.log.read_text().splitlines()]
    assert {one["type"] for one in lines} == {"lab", "node", "router", "link"}


def test_the_wide_status_has_every_interface(pair: Place) -> None:
    told = pair.ok("status", "--wide").stdout
    assert all(word in told for word in ("vm1:eth0", "vm1-eth0", "r1:eth1", "r1-eth1", "1500"))


def test_a_running_lab_is_drawn_with_its_states(pair: Place) -> None:
    told = pair.ok("graph", "--json").json()
    states = {one["name"]: one["state"] for one in told["owners"]}
    assert states == {"vm1": "running", "vm2": "running", "r1": "running"}
    assert "(namespace, running)" in pair.ok("graph").stdout
