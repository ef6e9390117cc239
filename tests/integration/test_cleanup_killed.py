"""Whatever is killed, and whenever: nothing stays, and the next lab comes up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from live import SOLO, STORY, Place, Running, Watch, place, process_of, until, words_of

from labctl import topology
from labctl.errors import LabctlError
from labctl.lab.lab import Lab

pytestmark = pytest.mark.integration

NAME = "kill"
Moment = Callable[[Place, Running], object]


@pytest.fixture(scope="module")
def here(pytestconfig: pytest.Config) -> Iterator[Place]:
    """One place for all tests, and one name: each `up` is the next one after a killed one."""
    with place(pytestconfig.getoption("--accel")) as where:
        where.write("solo.yaml", SOLO)
        where.write("story.py", STORY)
        yield where


@pytest.fixture
def watch(here: Place) -> Iterator[Watch]:
    with Watch(here) as watching:
        yield watching


def _there(name: str) -> Moment:
    return lambda here, _labctl: (here.runtime / NAME / name).exists()


def _said(words: str) -> Moment:
    return lambda _here, labctl: labctl.said(words)


def _console(text: bytes) -> Moment:
    def seen(here: Place, _labctl: Running) -> bool:
        log = here.runtime / NAME / "console" / "vm1.log"
        return log.exists() and text in log.read_bytes()

    return seen


UP: dict[str, Moment] = {
    "at once": lambda _here, _labctl: True,
    "its directory is there": _there(""),
    "PID 1 has started": _there("init.log"),
    "the sandbox is made": _there("world.json"),
    "the networks begin": _said("network kill …"),
    "the router runs": _there("routers/r1.kind"),
    "the guest is being started": _said("boot vm1 …"),
    "QEMU runs": _there("embed/run/qemu/vm1.pid"),
    "the guest has said something": _console(b"\n"),
    "the guest is ready": _console(b"labctl: ready"),
}
"""Ten moments of `up`, in their order."""

WITHOUT_DIRECTORY = ("its directory is there", "PID 1 has started", "it begins")
"""PID 1 removes the directory when its maker dies, but here it may not have come to life yet."""


@pytest.mark.parametrize("moment", UP)
def test_up_killed_leaves_nothing_and_the_next_up_works(
    moment: str, here: Place, watch: Watch
) -> None:
    with here.start("up", "solo.yaml", "--name", NAME) as labctl:
        labctl.reach(moment, lambda: UP[moment](here, labctl))
        watch.note()
        labctl.child.kill()
        assert labctl.wait() == -signal.SIGKILL
        watch.nothing_left(files=moment not in WITHOUT_DIRECTORY)


def test_up_killed_at_any_moment_does_not_hinder_the_next(here: Place, watch: Watch) -> None:
    with here.start("up", "solo.yaml", "--name", NAME) as labctl:
        labctl.reach("QEMU", lambda: UP["QEMU runs"](here, labctl))
        labctl.child.kill()
        labctl.wait()
    here.ok("up", "solo.yaml", "--name", NAME)  # at once, while the killed one may still be ending
    watch.note()
    assert here.ok("exec", "vm1", "hostname").stdout == "vm1\n"
    here.ok("down", NAME)
    watch.nothing_left()
    assert len(watch.seen) >= 3, f"the watch has not seen a sandbox's namespaces: {watch.seen}"


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        (signal.SIGTERM, "the sandbox is made"),
        (signal.SIGTERM, "QEMU runs"),
        (signal.SIGTERM, "the guest is ready"),
        (signal.SIGINT, "the sandbox is made"),
        (signal.SIGINT, "QEMU runs"),
        (signal.SIGINT, "the guest is ready"),
        (signal.SIGHUP, "the router runs"),
    ],
)
def test_up_interrupted_takes_everything_down_and_says_so(
    number: signal.Signals, moment: str, here: Place, watch: Watch
) -> None:
    with here.start("up", "solo.yaml", "--name", NAME, group=True) as labctl:
        labctl.reach(moment, lambda: UP[moment](here, labctl))
        watch.note()
        if number == signal.SIGINT:  # a terminal sends it to all processes in the foreground
            os.killpg(labctl.child.pid, number)
        else:
            labctl.child.send_signal(number)
        assert labctl.wait() == 130
        assert labctl.said("labctl: interrupted")
        watch.nothing_left()


# --- an experiment ------------------------------------------------------------------------------

STEPS: dict[str, str] = {
    "it begins": "experiment story …",
    "the networks begin": "network story-",
    "the guest is being started": "boot vm1 …",
    "the guest is up": "boot vm1 ok",
    "offloads are changed": "pass: offload",
    "drops are watched": "pass: drops",
    "a capture runs": "pass: capture",
    "a command runs": "pass: job",
    "the router is another": "pass: router",
    "an arm is over": "arm one ok",
}
"""Ten moments of an experiment, by what it says on standard error."""


@pytest.mark.parametrize("moment", STEPS)
def test_experiment_killed_leaves_nothing_and_no_verdict(
    moment: str, here: Place, watch: Watch
) -> None:
    before = {run["id"] for run in here.ok("results", "--json").json()}
    with here.start("experiment", "story.py") as labctl:
        labctl.reach(moment, lambda: labctl.said(STEPS[moment]))
        watch.note()
        labctl.child.kill()
        assert labctl.wait() == -signal.SIGKILL
        watch.nothing_left(files=moment not in WITHOUT_DIRECTORY)
        if moment in WITHOUT_DIRECTORY:  # what may stay goes with the next sandbox at the latest
            here.ok("up", "solo.yaml", "--name", NAME)
            here.ok("down", NAME)
            watch.nothing_left()
    runs = [run for run in here.ok("results", "--json").json() if run["id"] not in before]
    assert [(run["state"], run["verdict"]) for run in runs] == [("interrupted", None)]


def test_experiment_interrupted_is_recorded_as_an_error(here: Place, watch: Watch) -> None:
    with here.start("experiment", "story.py", group=True) as labctl:
        labctl.reach("a capture", lambda: labctl.said(STEPS["a capture runs"]))
        watch.note()
        os.killpg(labctl.child.pid, signal.SIGINT)
        assert labctl.wait() == 130
        watch.nothing_left()
    run = here.ok("results", "show", "last", "--json").json()
    assert run["partial"] is True
    assert run["verdict"] == "error"


# --- a lab that is up ---------------------------------------------------------------------------


VICTIMS: dict[str, tuple[str, ...]] = {
    "PID 1": ("-I -S", "init.py"),
    "unshare": ("unshare --",),
    "QEMU": ("qemu-system",),
}


@pytest.mark.parametrize("victim", VICTIMS)
def test_a_lab_whose_process_was_killed_is_told_and_goes_down(
    victim: str, here: Place, watch: Watch
) -> None:
    here.ok("up", "solo.yaml", "--name", NAME)
    watch.note()
    os.kill(_pid(here.runtime / NAME, victim), signal.SIGKILL)
    wanted = "damaged" if victim == "QEMU" else "dead"
    until(f"status {wanted}", lambda: here.ok("status", "--json").json()[0]["state"] == wanted)
    told = here.run("exec", "vm1", "hostname")
    assert told.status == (3 if victim == "QEMU" else 2)
    assert told.stderr.startswith("labctl: vm1 has ended" if victim == "QEMU" else "labctl: no lab")
    if victim != "QEMU":
        watch.nothing_left(files=False)  # even before `down`
    here.ok("down", NAME)
    watch.nothing_left()


def test_pid_1_asked_to_end_leaves_nothing(here: Place, watch: Watch) -> None:
    """So `down` may be killed as soon as it has asked."""
    here.ok("up", "solo.yaml", "--name", NAME)
    watch.note()
    os.kill(_pid(here.runtime / NAME, "PID 1"), signal.SIGTERM)
    watch.nothing_left()
    assert here.ok("status", "--json").json() == []


def _pid(lab: Path, victim: str) -> int:
    if victim != "PID 1":
        return process_of(lab, *VICTIMS[victim])
    return int(json.loads((lab / "world.json").read_text())["pid"])


def test_a_lab_whose_agent_was_killed_says_so_and_goes_down(
    here: Place, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABCTL_RUNTIME_DIR", str(here.root))
    lab = Lab.up(topology.load(here.root / "solo.yaml"), name=NAME, policy=here.accel)
    try:
        assert lab.node("vm1").run("hostname").stdout == "vm1\n"
        watch.note()
        agents = {
            pid
            for pid in watch.processes()
            if "labctl.sandbox.agent" in (words := words_of(pid)) and "nsenter" not in words
        }
        (agent,) = agents
        os.kill(agent, signal.SIGKILL)
        until("the agent's end", lambda: not agents & watch.processes())
        with pytest.raises(LabctlError):
            lab.node("vm1").run("hostname")
    finally:
        lab.down()
    watch.nothing_left()


def test_the_end_of_the_process_that_made_a_lab_ends_the_lab(here: Place, watch: Watch) -> None:
    here.write("holder.py", HOLDER)
    with here.python("holder.py") as holder:
        holder.reach("its lab", lambda: holder.said("up and held"))
        watch.note()
        assert watch.left()
        holder.child.kill()
        holder.wait()
        watch.nothing_left()


HOLDER = """
import signal, sys
from labctl import topology
from labctl.lab.lab import Lab
lab = Lab.up(topology.load(topology.find("solo.yaml")), name="kill", policy=sys.argv[1])
print("up and held", file=sys.stderr, flush=True)
signal.pause()
"""


# --- the watch itself ---------------------------------------------------------------------------

UNSHARE = "--net" if os.geteuid() == 0 else "--user --net"


@pytest.mark.parametrize(
    ("leave", "sign"),
    [
        ("setsid sleep 60 &", "process"),
        (f"unshare {UNSHARE} setsid sleep 60 &", "process"),
        ("mkdir -p $ROOT/labctl/forgotten", "directory forgotten"),
    ],
)
def test_the_watch_sees_what_is_left(leave: str, sign: str, here: Place, watch: Watch) -> None:
    subprocess.run(["sh", "-c", leave], env={**here.env, "ROOT": str(here.root)}, check=True)
    try:
        assert any(found.startswith(sign) for found in watch.left())
    finally:
        with suppress(FileNotFoundError):
            (here.runtime / "forgotten").rmdir()
