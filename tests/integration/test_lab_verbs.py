"""The verbs of a running lab, by the `labctl` command as a user types it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from live import SOLO, Place, Watch, last_of, place, process_of, until

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def here(pytestconfig: pytest.Config) -> Iterator[Place]:
    with place(pytestconfig.getoption("--accel")) as where:
        yield where


@pytest.fixture(scope="module")
def pair(here: Place) -> Place:
    """Two guests with a router between them; no test changes it."""
    here.ok("up", "router-hop.yaml", "--name", "pair")
    return here


def test_status_tells_every_part(pair: Place) -> None:
    (lab,) = [lab for lab in pair.ok("status", "--json").json() if lab["name"] == "pair"]
    assert lab["state"] == "up"
    assert lab["accel"] in ("kvm", "tcg")
    parts = {part["name"]: (part["is"], part["state"]) for part in lab["parts"]}
    assert parts["vm1"] == parts["vm2"] == ("node", "running")
    assert parts["r1"] == ("router (namespace)", "running")
    assert set(parts) == {"vm1", "vm2", "r1", "left", "right"}
    table = pair.ok("status").stdout
    assert all(word in table for word in ("pair: up", "vm1", "10.0.1.1/24", "router (namespace)"))


def test_ssh_crosses_the_network_under_test(pair: Place) -> None:
    kernel = pair.ok("ssh", "-l", "pair", "vm2", "uname", "-r").stdout.strip()
    told = pair.ok("ssh", "-l", "pair", "vm1", "--", "ssh", "vm2", "uname", "-a").stdout
    assert told.startswith(f"Linux vm2 {kernel} ")
    before = pair.ok("exec", "-l", "pair", "r1", "cat", "/proc/net/snmp").stdout
    pair.ok("ssh", "-l", "pair", "vm1", "--", "ssh", "vm2", "true")
    after = pair.ok("exec", "-l", "pair", "r1", "cat", "/proc/net/snmp").stdout
    assert _forwarded(after) > _forwarded(before), "the router has not seen it"


def _forwarded(snmp: str) -> int:
    names, values = [line.split() for line in snmp.splitlines() if line.startswith("Ip:")]
    return int(dict(zip(names, values, strict=True))["ForwDatagrams"])


@pytest.mark.parametrize("verb", ["ssh", "exec"])
@pytest.mark.parametrize("status", [0, 1, 7, 127])
def test_exit_statuses_pass_through(verb: str, status: int, pair: Place) -> None:
    words = [f"exit {status}"] if verb == "ssh" else ["sh", "-c", f"exit {status}"]
    assert pair.run(verb, "-l", "pair", "vm1", *words).status == status


def test_exec_keeps_words_as_they_are(pair: Place) -> None:
    words = ["two words", "it's", '"', "$HOME", "*", "", "a\\b", "-n", "--", "ü", ";true"]
    for dashes in ([], ["--"]):
        told = pair.ok("exec", "-l", "pair", "vm1", *dashes, "printf", "%s|", *words).stdout
        assert told == "".join(f"{word}|" for word in words)


def test_ssh_lets_the_shell_in_the_guest_read_the_words(pair: Place) -> None:
    assert pair.ok("ssh", "-l", "pair", "vm1", "echo", "$((6*7))", "&&", "hostname").stdout == (
        "42\nvm1\n"
    )


def test_input_and_output_pass_through(pair: Place) -> None:
    data = bytes(range(256)).hex().encode() * 400
    assert pair.ok("exec", "-l", "pair", "vm2", "cat", stdin=data).stdout.encode() == data


def test_exec_in_a_router_runs_in_its_namespace(pair: Place) -> None:
    told = pair.ok("exec", "-l", "pair", "r1", "--", "ls", "/sys/class/net").stdout
    assert set(told.split()) == {"lo", "eth0", "eth1"}
    script = "import socket; print(sorted(name for _, name in socket.if_nameindex()))"
    told = pair.ok("exec", "-l", "pair", "r1", "--", "python3", "-c", script).stdout
    assert "eth0" in told
    assert "eth1" in told
    assert "vm1-eth0" not in told
    assert pair.run("exec", "-l", "pair", "r1", "--", "sh", "-c", "exit 9").status == 9


def test_logs_and_console_show_the_same_guest(pair: Place) -> None:
    assert "labctl: ready" in pair.ok("logs", "-l", "pair", "vm1").stdout
    pair.ok("exec", "-l", "pair", "vm1", "sh", "-c", "echo said-by-a-test >/dev/console")
    until(
        "the log has it",
        lambda: "said-by-a-test" in pair.ok("logs", "-l", "pair", "vm1").stdout,
    )
    assert "said-by-a-test" not in pair.ok("logs", "-l", "pair", "vm2").stdout
    pair.ok("console", "-l", "pair", "vm1", stdin=b"\n")  # ends with its input


def test_up_of_another_file_under_a_name_that_is_up_is_refused_in_one_line(pair: Place) -> None:
    told = pair.run("up", "bridged.yaml", "--name", "pair")
    assert told.status == 2
    assert told.stderr.startswith("labctl: lab pair is up already\n")
    assert pair.ok("exec", "-l", "pair", "vm1", "hostname").stdout == "vm1\n"


@pytest.mark.parametrize(
    "words",
    [
        ("exec", "-l", "pair", "vm9", "true"),
        ("ssh", "-l", "pair", "r1", "true"),
        ("console", "-l", "pair", "vm9"),
        ("logs", "-l", "pair", "vm9"),
        ("exec", "-l", "nolab", "vm1", "true"),
        ("exec", "-l", "pair", "vm1", "--"),
        ("down", "nolab"),
        ("down", "pair", "--all"),
        ("up", "no-such.yaml"),
        ("up", "router-hop.yaml", "--name", "Not A Name"),
    ],
)
def test_wrong_words_are_usage_errors_with_a_hint(words: tuple[str, ...], pair: Place) -> None:
    told = pair.run(*words)
    assert told.status == 2
    message, hint, *more = told.stderr.splitlines()
    assert message.startswith("labctl: ")
    assert hint.startswith("  ")
    assert not more
    assert pair.ok("exec", "-l", "pair", "vm1", "hostname").stdout == "vm1\n"


def test_two_labs_of_one_topology_run_side_by_side(pair: Place) -> None:
    """Same names, same addresses, same MACs: and nothing passes from one to the other."""
    pair.write("solo.yaml", SOLO)
    with_router = SOLO.replace("name: solo", "name: other").replace("kind: raw", "kind: namespace")
    pair.write("other.yaml", with_router)
    for name in ("solo", "other"):
        pair.ok("up", f"{name}.yaml")
    try:
        for name in ("solo", "other"):
            pair.ok("exec", "-l", name, "vm1", "sh", "-c", f"echo {name} >/tmp/name")
        for name in ("solo", "other"):
            assert pair.ok("exec", "-l", name, "vm1", "cat", "/tmp/name").stdout == f"{name}\n"
        told = pair.run("exec", "vm1", "hostname")
        assert (told.status, told.stderr.splitlines()[0]) == (
            2,
            "labctl: several labs are up: other, pair, solo",
        )
        assert pair.run("down").status == 2
        assert pair.ok("down", "solo", "--json").json() == {"down": ["solo"]}
        assert pair.ok("exec", "-l", "other", "vm1", "cat", "/tmp/name").stdout == "other\n"
    finally:
        pair.run("down", "solo")
        pair.run("down", "other")
    assert [lab["name"] for lab in pair.ok("status", "--json").json()] == ["pair"]


def test_a_killed_guest_is_told_and_the_others_go_on(here: Place) -> None:
    with Watch(here) as watch:
        up = here.ok("up", "bridged.yaml", "--name", "hurt", "--json").json()
        assert up["state"] == "up"
        assert up["seconds"] > 0
        watch.note()
        os.kill(process_of(here.runtime / "hurt", "qemu-system", "guest=vm2"), signal.SIGKILL)

        def states() -> dict[str, str]:
            (lab,) = [one for one in here.ok("status", "--json").json() if one["name"] == "hurt"]
            return {"lab": lab["state"]} | {part["name"]: part["state"] for part in lab["parts"]}

        until("vm2 has ended", lambda: states()["vm2"] == "ended")
        assert states()["lab"] == "damaged"
        assert states()["vm1"] == "running"
        assert here.ok("exec", "-l", "hurt", "vm1", "hostname").stdout == "vm1\n"
        told = here.run("ssh", "-l", "hurt", "vm2", "hostname")
        assert (told.status, told.stderr.splitlines()[0]) == (3, "labctl: vm2 has ended")
        assert "labctl: ready" in here.ok("logs", "-l", "hurt", "vm2").stdout
        assert here.run("console", "-l", "hurt", "vm2").status == 3
        here.ok("down", "hurt")
        watch.nothing_left()


BROKEN = {
    "a tiny kernel": ("kernel", b"not a kernel\n"),
    "a kernel of zeros": ("kernel", bytes(300_000)),
    "an empty initramfs": ("initramfs", b""),
    "an initramfs of noise": ("initramfs", bytes(range(7, 256)) * 2000),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_guest_that_cannot_boot_ends_up_with_its_console(what: str, here: Place) -> None:
    key, content = BROKEN[what]
    (here.root / "broken").write_bytes(content)
    here.write("broken.yaml", SOLO.replace("interfaces: [", f"{key}: broken\n    interfaces: [", 1))
    with Watch(here) as watch:
        told = here.run("up", "broken.yaml", "--name", "broken")
        assert told.status == 3, told
        assert last_of(told.stderr, "labctl: ").startswith("labctl: vm1 ")
        assert "Traceback" not in told.stderr
        if key == "initramfs":
            assert "labctl: vm1 died while booting: kernel panic: VFS: Unable to" in told.stderr
            assert "\n    [" in told.stderr, "no console"
        watch.nothing_left()


def test_down_says_what_it_did(here: Place) -> None:
    with Watch(here) as watch:
        here.write("solo.yaml", SOLO)
        here.ok("up", "solo.yaml", "--name", "brief")
        watch.note()
        assert watch.left()
        assert here.ok("down", "brief").stdout == "lab brief is down\n"
        watch.nothing_left()
    assert here.run("down", "brief").status == 2
