"""Guests that labctl does not configure: steps on a console, logins by SSH, or a console alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from live import Place, Watch, place, until

from guest_images import CONSOLE_PASSWORD, PASSWORD, USER, appliance, write_appliance
from labctl.guests.keys import Key

pytestmark = pytest.mark.integration

LOGIN: list[dict[str, Any]] = [
    {"expect": "appliance login:", "send": "admin"},
    {"expect": "Password:", "send": {"env": "CONSOLE_WORD"}},
]
FORWARDING = "/proc/sys/net/ipv4/ip_forward"


def typed(*lines: str) -> list[dict[str, Any]]:
    """Return steps that log in, type lines, and wait until the last one is done."""
    steps = [{"expect": "appli*#", "send": line} for line in lines]
    done = [{"expect": "#", "send": "echo al''l"}, {"expect": "all"}]
    return [*LOGIN, *steps, *done]


def interface(network: str, address: str) -> dict[str, Any]:
    return {"network": network, "addresses": [f"{address}/24"]}


def topology(where: Path) -> dict[str, Any]:
    """Return a router that has nothing but a console, and guests around it."""
    key = Key.make()
    (where / "key").write_text(key.openssh)
    (where / "key").chmod(0o600)
    (where / "word").write_text(PASSWORD + "\n")
    of_its_own = {"initramfs": str(appliance(where / "appliance.initramfs"))}
    addresses = [f"ip addr add 10.0.{n}.254/24 dev eth{n - 1}" for n in (1, 2)]
    default = "ip route add default via 10.0.2.254"
    return {
        "name": "byhand",
        "networks": {"west": {}, "east": {}},
        "nodes": {
            "vm1": {
                "interfaces": [interface("west", "10.0.1.1")],
                "routes": [{"to": "default", "via": "10.0.1.254"}],
            },
            "r1": {
                **of_its_own,
                "role": "router",
                "console": typed(*addresses, f"echo 1 >{FORWARDING}"),
                "interfaces": [interface("west", "10.0.1.254"), interface("east", "10.0.2.254")],
            },
            "pw": {
                **of_its_own,
                "login": {"user": USER, "password": {"file": str(where / "word")}},
                "console": typed("ip addr add 10.0.2.2/24 dev eth0", default, "hostname pw"),
                "interfaces": [interface("east", "10.0.2.2")],
            },
            "key": {
                **of_its_own,
                "login": {"user": USER, "key": str(where / "key")},
                "console": typed(
                    f"echo {key.public} >/root/.ssh/authorized_keys",
                    "ip addr add 10.0.2.3/24 dev eth0",
                ),
                "interfaces": [interface("east", "10.0.2.3")],
            },
        },
    }


@pytest.fixture(scope="module")
def here(pytestconfig: pytest.Config) -> Iterator[Place]:
    with place(pytestconfig.getoption("--accel")) as where:
        where.env["CONSOLE_WORD"] = CONSOLE_PASSWORD
        where.write("byhand.yaml", yaml.safe_dump(topology(where.root), sort_keys=False))
        where.ok("up", str(where.root / "byhand.yaml"))
        yield where


def test_who_has_a_password_or_a_key_is_logged_in(here: Place) -> None:
    for name, address in (("pw", "10.0.2.2/24"), ("key", "10.0.2.3/24")):
        assert address in here.ok("exec", name, "--", "ip", "-o", "addr").stdout
    here.write("some", "words\n")
    here.ok("cp", str(here.root / "some"), "pw:/tmp/some")
    assert here.ok("ssh", "pw", "cat", "/tmp/some").stdout == "words\n"


def test_no_password_is_where_others_read(here: Place) -> None:
    told = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")]
    folder = here.runtime / "byhand"
    secrets = [PASSWORD.encode(), CONSOLE_PASSWORD.encode()]
    assert not any(secret in words for words in told for secret in secrets)
    found = [
        file
        for file in folder.rglob("*")
        if file.is_file()
        and file.stat().st_size < 1 << 22
        and any(secret in file.read_bytes() for secret in secrets)
    ]
    assert {file.parent for file in found} == {folder / "login"}
    for file in (folder, folder / "login", *found):
        assert file.stat().st_mode & 0o077 == 0


def test_what_has_a_console_only_says_so_at_once(here: Place) -> None:
    for words in (
        ("exec", "r1", "--", "id"),
        ("ssh", "r1"),
        ("cp", "r1:/etc/passwd", "x"),
        ("trace", "r1", "vm1", "--icmp"),
        ("ssh-proxy", "r1"),
    ):
        said = here.run(*words)
        assert said.status == 2, (words, said)
        assert "r1 has a console only" in said.stderr
    several = here.run("exec", "--all", "--", "true")
    assert several.status == 3
    assert "r1: r1 has a console only" in several.stderr
    (lab,) = here.ok("status", "--json").json()
    assert lab["state"] == "up"
    kinds = {part["name"]: part["is"] for part in lab["parts"]}
    assert kinds["r1"] == "router (micro), console only"
    assert "appliance login:" in here.ok("logs", "r1").stdout


def test_a_packet_is_followed_past_it(here: Place) -> None:
    record = here.ok("trace", "vm1", "pw", "--tcp", "22", "--json").json()
    assert record["well"], record
    assert record["path"] == [
        "vm1:eth0", "vm1-eth0", "r1-eth0", "r1-eth1", "pw-eth0", "pw:eth0",
    ]  # fmt: skip
    assert record["notes"] == ["r1 is seen from outside only: it has a console only"]
    found = here.ok("diagnose", "vm1", "pw", "--tcp", "22", "--json").json()
    assert found["finding"] == "healthy"


def test_one_that_does_not_forward_is_named(here: Place) -> None:
    here.ok("console", "r1", stdin=f"\recho 0 >{FORWARDING}; echo sto''pped\r".encode())
    until("the router has stopped", lambda: "stopped" in here.ok("logs", "r1").stdout)
    found = here.run("diagnose", "vm1", "pw", "--tcp", "22", "--json").json()
    assert found["finding"] == "dropped"
    assert found["where"] == "router r1 (r1-eth0 to r1-eth1)"
    assert found["reason"] == ""  # nobody can ask it


def test_while_a_lab_comes_up_its_consoles_are_there_and_what_they_lack_is_told_in_the_end(
    pytestconfig: pytest.Config,
) -> None:
    with place(pytestconfig.getoption("--accel")) as where, Watch(where) as watch:
        own = {"initramfs": str(appliance(where.root / "appliance.initramfs"))}
        # It is not said before somebody types it.
        node = {**own, "console": [{"expect": "never said*before", "within": 900}]}
        file = where.write("silent.yaml", yaml.safe_dump({"nodes": {"r1": node}}))
        with where.start("up", str(file)) as up:
            up.reach("a login", lambda: "appliance login:" in where.run("logs", "r1").stdout)
            told = where.run("logs", "r2")
            assert told.status == 3
            assert "r2 has not been started" in told.stderr
            assert "these have been started: r1" in told.stderr
            where.ok("console", "r1", stdin=b"never said before\r")
            assert up.wait() == 0
        where.ok("down", "silent")
        node["console"] = [{"expect": "another login:", "send": "admin", "within": 40}]
        file = where.write("silent.yaml", yaml.safe_dump({"nodes": {"r1": node}}))
        said = where.run("up", str(file))
        assert said.status == 3
        assert "the console of r1 did not say 'another login:' in 40 s (step 1 of 1)" in said.stderr
        watch.nothing_left()


def test_an_experiment_judges_what_passes_it(pytestconfig: pytest.Config) -> None:
    with place(pytestconfig.getoption("--accel")) as here:
        here.env["CONSOLE_WORD"] = CONSOLE_PASSWORD
        written = topology(here.root)
        del written["nodes"]["key"]
        file = here.write("byhand.yaml", yaml.safe_dump(written, sort_keys=False))
        told = here.run(
            "experiment", "effects", "--topology", str(file), "--only", "*/ipv4", "--json"
        )
        (made,) = told.json()
        folder = Path(made["path"])
        run = json.loads((folder / "result.json").read_text())
        arms = {arm["name"]: arm for arm in run["arms"] if arm["verdict"] != "skip"}
        assert {name: arm["verdict"] for name, arm in arms.items()} == {
            "vm1 to pw/ipv4": "pass",
            "pw to vm1/ipv4": "pass",
        }, run
        assert "r1 is seen from outside only: it has a console only" in run["notes"]
        kept = [file.read_bytes() for file in folder.rglob("*") if file.is_file()]
        assert not any(
            word.encode() in data for word in (PASSWORD, CONSOLE_PASSWORD) for data in kept
        )
        here.ok("report", "last")


@pytest.mark.slow
def test_a_disk_image_without_cloud_init_is_logged_in_to(pytestconfig: pytest.Config) -> None:
    with place(pytestconfig.getoption("--accel")) as where:
        where.env |= {
            "XDG_CONFIG_HOME": str(where.root / "config"),
            "CONSOLE_WORD": CONSOLE_PASSWORD,
            "WORD": PASSWORD,
        }
        write_appliance(where.root / "config" / "labctl", "appliance")
        node = {
            "image": "appliance",
            "kind": "disk",
            "memory": 160,
            "login": {"user": USER, "password": {"env": "WORD"}},
            "console": typed("ip addr add 10.0.1.9/24 dev eth0"),
            "interfaces": [interface("lan", "10.0.1.9")],
        }
        written = {"name": "disk", "networks": {"lan": {}}, "nodes": {"vm1": node}}
        where.ok("up", str(where.write("disk.yaml", yaml.safe_dump(written))))
        assert "10.0.1.9/24" in where.ok("exec", "vm1", "--", "ip", "-o", "addr").stdout
        boot = where.runtime / "disk" / "boot"
        assert {file.name for file in boot.iterdir()} == {"vm1.qcow2"}  # and no seed
