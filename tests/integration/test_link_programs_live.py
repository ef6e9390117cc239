"""A link whose frames a program carries, between real guests; its end is an error and no fail."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from live import LABCTL, Done, Place, Watch, as_user, needs_users, pids, place, until

from labctl import images
from outside import install_own_kinds

pytestmark = pytest.mark.integration
TOPOLOGY = """\
networks:
  lan:
    segments:
      near: {}
      wire: {kind: user-wire}
      far: {}
nodes:
  vm1:
    interfaces: [{network: lan, segment: near, addresses: [10.0.1.1/24]}]
  vm2:
    interfaces: [{network: lan, segment: far, addresses: [10.0.1.2/24]}]
"""
PROGRAM = "lan-wire-sw"
HOPS = [
    "vm1:eth0", "vm1-eth0",
    "lan-wire-a", "lan-wire-p", "lan-wire-q", "lan-wire-b",
    "vm2-eth0", "vm2:eth0",
]  # fmt: skip
EXPERIMENT = """\
import signal
from labctl import check_path, experiment, probes
from labctl.network import confined
from labctl.sandbox import agent


@experiment("own", topology=TOPOLOGY, hypothesis="A program that ends shows nothing of checksums.")
def own(trial):
    lab = trial.lab
    with trial.arm("runs", "the program carries frames") as arm:
        check_path(trial, arm, "vm1", "vm2", 4)
    with trial.arm("ends", "the program is killed") as arm:
        noted = confined.noted(lab.directory / "links" / "PROGRAM.pid")
        lab.sandbox.call(agent.kill, noted.pid, signal.SIGKILL)
        answer = probes.ping(lab, "vm1", "10.0.1.2")
        arm.check("ping", "answered", answer.text, answer.works)
"""


@pytest.fixture(scope="module")
def here(pytestconfig: pytest.Config) -> Iterator[Place]:
    with place(pytestconfig.getoption("--accel")) as where:
        packages = where.root / "packages"
        packages.mkdir()
        install_own_kinds(packages)
        paths = [str(packages), *filter(None, [os.environ.get("PYTHONPATH")])]
        where.env["PYTHONPATH"] = os.pathsep.join(paths)
        where.write("wire.yaml", TOPOLOGY)
        yield where


@pytest.fixture(scope="module")
def lab(here: Place) -> Iterator[Place]:
    here.ok("up", "wire.yaml", "--name", "wire")
    yield here
    here.ok("down", "wire")
    assert here.ok("status", "--json").json() == []


def told(done: Done) -> dict[str, str]:
    (one,) = done.json()
    return {"lab": one["state"], **{part["name"]: part["state"] for part in one["parts"]}}


def pid_of_program(folder: Path) -> int:
    """Return the pid of a lab's program on this host, by its home, which nobody else has."""
    home = f"HOME={folder / 'links' / 'lan.wire'}\0"
    found = []
    for pid in pids():
        with suppress(OSError):
            if home.encode() in Path(f"/proc/{pid}/environ").read_bytes():
                found.append(pid)
    (pid,) = found
    return pid


@pytest.mark.parametrize("moment", [f"{PROGRAM}.pid", f"{PROGRAM}.log"])
def test_nothing_is_left_of_it_where_labctl_is_killed(here: Place, moment: str) -> None:
    with Watch(here) as watch, here.start("up", "wire.yaml", "--name", "kill") as labctl:
        file = here.runtime / "kill" / "links" / moment
        labctl.reach(moment, lambda: file.exists() and file.stat().st_size)
        watch.note()
        labctl.child.kill()
        assert labctl.wait() == -signal.SIGKILL
        watch.nothing_left()


def test_frames_pass_it_with_their_metadata_and_every_point_is_seen(lab: Place) -> None:
    assert told(lab.ok("status", "--json"))[PROGRAM] == "running"
    traced = lab.run("trace", "-l", "wire", "vm1", "vm2", "--tcp", "22", "--json")
    assert traced.status == 0, traced.stdout + traced.stderr
    syn = next(one for one in traced.json()["journeys"] if one["kind"] == "SYN")
    assert [step["hop"] for step in syn["steps"]] == HOPS
    assert {(step["state"], step["metadata"]) for step in syn["steps"]} == {
        ("partial", "needs_csum")
    }


def test_killed_it_is_an_error_wherever_one_looks(lab: Place) -> None:
    os.kill(pid_of_program(lab.runtime / "wire"), signal.SIGKILL)
    until("its end", lambda: told(lab.run("status", "--json"))[PROGRAM] == "ended")
    assert told(lab.run("status", "--json"))["lab"] == "damaged"
    assert PROGRAM in lab.run("status").stdout
    for words in (("trace", "--icmp"), ("diagnose", "--tcp", "22")):
        done = lab.run(words[0], "-l", "wire", "vm1", "vm2", *words[1:])
        assert done.status == 3, done
        assert f"{PROGRAM} of the network lan has ended" in done.stderr


def test_killed_in_an_experiment_its_arm_is_an_error_and_not_a_fail(here: Place) -> None:
    text = EXPERIMENT.replace("TOPOLOGY", repr(yaml.safe_load(TOPOLOGY)))
    file = here.write("own.py", text.replace("PROGRAM", PROGRAM))
    done = here.run("experiment", str(file), "--json")
    assert done.status == 3, done.stdout + done.stderr
    (made,) = done.json()
    shown = here.ok("results", "show", Path(made["path"]).name, "--json").json()
    runs, ends = shown["arms"]
    assert runs["verdict"] == "pass", runs
    assert ends["verdict"] == "error", ends
    assert f"{PROGRAM} of the network lan has ended" in str(ends["checks"])


AS_USER = """\
set -eux
export PYTHONPATH={packages}
{labctl} up {file} --name mine >&2
{labctl} trace -l mine vm1 vm2 --tcp 22 >&2
{labctl} status --json
{labctl} down mine >&2
"""


def test_an_ordinary_user_has_it_too(here: Place) -> None:
    needs_users()
    images.get("micro")  # as root, with root's cache
    file, packages = here.root / "wire.yaml", here.root / "packages"
    device = ["--kvm-group", "4242", "--in-session"] if here.accel == "require" else []
    with Watch(here) as watch:
        done = as_user(here, AS_USER.format(labctl=LABCTL, file=file, packages=packages), *device)
        assert done.status == 0, done.stderr
        watch.nothing_left()
    assert told(Done(0, done.stdout, ""))[PROGRAM] == "running"
