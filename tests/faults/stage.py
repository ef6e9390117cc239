"""Where rounds are played: labs come up, verbs are struck, and all must be well afterwards."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from live import SOLO, STORY, Place, Watch

from labctl.sandbox.init import MARK
from runner.inside.machine import Snapshot, Things

from . import settings, strike, victims
from .journal import Outcome
from .plan import Round
from .strike import Done, Scarce

NAME = "kill"
SOLO_UP = ("up", "solo.yaml", "--name", NAME)
VERBS: dict[str, tuple[str, ...]] = {
    "up": SOLO_UP,
    "down": ("down", NAME),
    "experiment": ("experiment", "story.py"),
    "trace": ("trace", "vm1", "vm2", "--tcp", "22"),
    "diagnose": ("diagnose", "vm1", "vm2", "--tcp", "22", "--prove"),
    "image": ("image", "build", "--force"),
}
PAIR = (
    SOLO.replace("name: solo", "name: pair")
    .replace("routers:", """\
  vm2:
    interfaces: [{network: right, addresses: [10.0.2.1/24]}]
    routes: [{to: default, via: 10.0.2.254}]
routers:""")
)  # fmt: skip
STEPS = 6
"""What `STORY` checks."""
DEADLY = ("init", "unshare", "qemu", "router")
"""Without them a lab is not what it was."""
GONE_SECONDS = 30.0
ORDERLY = {0, 1, 2, 3}
INTERRUPTED = 130


class Pair:
    """The lab in which packets are followed, and what it was like when it had come up."""

    def __init__(self, where: Place, watch: Watch) -> None:
        self._where = where
        self._watch = watch
        self.folder = where.runtime / "pair"
        where.ok("up", "pair.yaml")
        self._init = int(json.loads((self.folder / "world.json").read_text())["pid"])
        self._before = self._look()
        self._roles = self._counted()

    def _look(self) -> dict[str, Snapshot]:
        guests = {}
        for name in ("vm1", "vm2"):
            told = self._where.ok("exec", "-l", "pair", name, "--", "ethtool", "-k", "eth0").stdout
            features: Things = {}
            for line in told.splitlines():
                setting, _, value = line.strip().partition(": ")
                features[setting] = value
            guests[name] = Snapshot(ignore=[], skipped={}, kinds={"offload": features})
        sandbox, router = settings.inside(self._init), settings.inside(self._init, "r1")
        return {"sandbox": sandbox, "r1": router, **guests}

    def _counted(self) -> Counter[str]:
        return Counter(victims.role(pid, 0) for pid in self._watch.processes())

    def fault(self) -> list[str]:
        """Say what is not as it was."""
        if (self.folder / "knobs.json").exists():  # the next one puts back what a killed one left
            self._where.run("diagnose", "vm1", "vm2", "--tcp", "22")
        # A proof changes a router's kind and back, which is another process then.
        _until(lambda: self._counted() == self._roles)
        counted = self._counted()
        names = sorted({*counted, *self._roles})
        found = [
            f"{name}: {counted[name]} processes instead of {self._roles[name]}"
            for name in names
            if counted[name] != self._roles[name]
        ]
        after = self._look()
        for place, before in self._before.items():
            found += [f"{place}: {line}" for line in settings.differing(before, after[place])]
        return found


def _until(same: Callable[[], bool]) -> None:
    """Wait a while for what ends by itself."""
    end = time.monotonic() + GONE_SECONDS
    while not same() and time.monotonic() < end:
        time.sleep(0.02)


class Stage:
    """Plays rounds one after the other. The parent of this process is to be a subreaper."""

    def __init__(self, where: Place, scarce: Scarce, usual: dict[str, float]) -> None:
        self.usual = usual
        """Seconds that each verb takes; learned from those that come to their end."""
        self._where = where
        self._scarce = scarce
        self._stack = ExitStack()
        self._pair: Pair | None = None
        self._statuses: dict[str, int | None] = {}
        where.write("solo.yaml", SOLO)
        where.write("pair.yaml", PAIR)
        where.write("story.py", STORY)
        (where.root / "tmp").mkdir(exist_ok=True)
        where.env["TMPDIR"] = str(where.root / "tmp")
        self._watch = self._stack.enter_context(Watch(where, os.getppid()))
        self._host = settings.host()
        where.ok(*SOLO_UP)
        where.ok("down", NAME)
        self._files = self._listed()

    def close(self) -> None:
        """Take everything down."""
        self._where.run("down", "--all")
        self._stack.close()
        self._scarce.mend()

    def rehearse(self, verb: str) -> list[str]:
        """Run a verb undisturbed, to know how long it takes; say what is wrong even so."""
        self._prepare(verb)
        done = strike.undisturbed(self._at(verb), VERBS[verb])
        self._statuses[verb] = done.status
        self.usual[verb] = done.seconds
        found = [f"undisturbed: exit {done.status}: {done.stderr}"] if done.status else []
        if verb in ("trace", "diagnose"):  # the router loses the metadata
            found = [] if done.status == 1 else [f"undisturbed: exit {done.status}: {done.stderr}"]
        return found + self._afterwards(verb, faulty=False)

    def play(self, seed: int, one: Round) -> Outcome:
        """Play a round."""
        if one.verb not in self._statuses and (wrong := self.rehearse(one.verb)):
            raise AssertionError("\n".join(wrong))
        found: list[str] = []
        done = Done(None, "", 0.0)
        try:
            self._prepare(one.verb)
            runs = self._runs()
            done = self._strike(one)
            found += said(one, done, self._statuses[one.verb])
            faulty = done.struck and one.victim in DEADLY and one.signal != "STOP"
            found += self._afterwards(one.verb, faulty)
            if one.verb == "experiment":
                found += self._records(runs, done, one)
            found += self._settings()
        except (AssertionError, OSError, ValueError) as wrong:
            found.append(f"around it: {wrong}")
            self._anew()
        return Outcome(
            seed, one.number, one.verb, one.victim, one.signal, round(one.moment, 3), done.struck,
            round(done.after, 2), done.status, found, done.stderr[-2000:] if found else "",
        )  # fmt: skip

    def _strike(self, one: Round) -> Done:
        where, usual = self._at(one.verb), self.usual[one.verb]
        done = strike.strike(where, self._watch, self._scarce, VERBS[one.verb], one, usual)
        if not done.struck:
            self.usual[one.verb] = done.seconds
        return done

    def _at(self, verb: str) -> Place:
        """Return the place of a verb: images are built in a cache of their own."""
        if verb != "image":
            return self._where
        there = Place(self._where.root, self._where.accel, logs=self._where.logs)
        there.env = {**self._where.env, "XDG_CACHE_HOME": str(self._cache)}
        return there

    @property
    def _cache(self) -> Path:
        return self._where.root / "cache"

    def _prepare(self, verb: str) -> None:
        if verb in ("trace", "diagnose"):
            if not self._pair:
                self._pair = Pair(self._where, self._watch)
            return
        self._no_pair()
        if verb == "down":
            self._where.ok(*SOLO_UP)
        elif verb == "image" and not self._cache.exists():
            self._cache.mkdir()
            self._at(verb).ok("image", "build")
            self._images = self._cached()

    def _no_pair(self) -> None:
        if self._pair:
            self._pair = None
            self._where.ok("down", "pair")
            self._watch.nothing_left(files=False)
            self._watch.forget()

    def _afterwards(self, verb: str, faulty: bool) -> list[str]:
        """Say what is not as it must be after a verb."""
        if verb in ("trace", "diagnose"):
            assert self._pair
            if not faulty:
                return self._pair.fault()
            self._pair = None
            self._where.ok("down", "--all")
        elif verb == "image":
            return self._image_whole()
        else:
            # A lab that was whole before the signal came stays: its `up` was done.
            state = {lab["name"]: lab["state"] for lab in self._status()}
            if verb == "down" or state.get(NAME) in ("up", "damaged"):
                self._where.ok("down", "--all")
        self._watch.nothing_left(files=False)
        self._where.ok(*SOLO_UP)
        self._where.ok("exec", "-l", NAME, "vm1", "hostname")
        self._where.ok("down", NAME)
        self._watch.nothing_left()
        self._watch.forget()
        return [f"file: {name}" for name in sorted(self._listed() - self._files)]

    def _image_whole(self) -> list[str]:
        self._watch.nothing_left()
        self._watch.forget()
        listed = self._at("image").ok("image", "list", "--json").json()
        (micro,) = [one for one in listed if one["name"] == "micro"]
        found = []
        if micro["image"] and any(self._cached().get(n) != d for n, d in self._parts().items()):
            found.append("the image is listed and is not what it was")
        self._at("image").ok("image", "build")
        now = self._cached()
        names = sorted({*now, *self._images})
        return found + [
            f"cache: {name}" for name in names if now.get(name) != self._images.get(name)
        ]

    def _parts(self) -> dict[str, str]:
        return {name: one for name, one in self._images.items() if "/images/micro-" in name}

    def _cached(self) -> dict[str, str]:
        """Return the digest of every file of the cache, empty folders too."""
        found = {}
        for path in self._cache.rglob("*"):
            if path.is_file():
                same = path.name not in (MARK, "image.json")  # each build has its own, with a time
                data = path.read_bytes() if same else b""
                found[f"/{path.relative_to(self._cache)}"] = hashlib.sha256(data).hexdigest()
            elif not any(path.iterdir()):
                found[f"/{path.relative_to(self._cache)}/"] = ""
        return found

    def _status(self) -> list[dict[str, str]]:
        told: list[dict[str, str]] = self._where.ok("status", "--json").json()
        return told

    def _runs(self) -> set[str]:
        return {run["id"] for run in self._where.ok("results", "--json").json()}

    def _records(self, before: set[str], done: Done, one: Round) -> list[str]:
        """Say which record claims what did not happen.

        Where something runs short before the record begins, there is none.
        """
        found = []
        runs = [
            run for run in self._where.ok("results", "--json").json() if run["id"] not in before
        ]
        if len(runs) > 1 or (done.status in (0, 3) and not runs and one.is_kill):
            found.append(f"{len(runs)} records")
        for run in runs:
            told = (run["state"], run["verdict"])
            if run["verdict"] == "pass":
                shown = self._where.ok("results", "show", run["id"], "--json").stdout
                if shown.count('"reached"') < STEPS or done.status in ORDERLY - {0}:
                    found.append(f"a pass after exit {done.status}: {shown}")
            elif run["verdict"] not in (None, "error") or done.status == 0:
                found.append(f"recorded as {told} after exit {done.status}")
        return found

    def _settings(self) -> list[str]:
        """Say which settings of the host are not as before."""
        now = settings.host()
        found = [f"host: {line}" for line in settings.differing(self._host, now)]
        self._host = now
        return found

    def _listed(self) -> set[str]:
        """Return the files of the runtime folder and of the one for temporary files."""
        root = self._where.root
        return {
            str(path.relative_to(root))
            for folder in (self._where.runtime, root / "tmp")
            for path in folder.rglob("*")
        }

    def _anew(self) -> None:
        """Begin again after a finding, so that the next round is judged by itself."""
        self._pair = None
        self._where.run("down", "--all")
        self._stack.close()
        self._watch = self._stack.enter_context(Watch(self._where, os.getppid()))
        self._host = settings.host()


def said(one: Round, done: Done, usual: int | None) -> list[str]:
    """Say what is wrong with how a verb ended, or with what it said."""
    if done.status is None:
        return [f"it did not end within {strike.END_SECONDS:g} s"]
    found = []
    if "Traceback" in done.stderr or "fault of labctl" in done.stderr:
        found.append("a traceback, or a fault of labctl's own")
    status = done.status
    number = signal.Signals[f"SIG{one.signal}"] if one.is_kill else signal.SIGKILL
    allowed = {usual}
    if done.struck and not one.is_kill:
        allowed.add(3)
    elif done.struck and one.victim == "labctl" and one.signal == "KILL":
        allowed.add(-number)
    elif done.struck and one.victim == "labctl" and one.signal != "STOP":
        allowed |= {INTERRUPTED}
        if not done.stderr:  # Python itself was still beginning
            allowed.add(-number)
    elif done.struck and one.signal == "STOP":
        # Another verdict would be timing's. Only of labctl itself nothing else may be stopped.
        allowed |= {3} if one.victim != "labctl" else set()
    elif done.struck:
        allowed |= ORDERLY
    if status not in allowed:
        found.append(f"exit {status}, not one of {sorted(map(str, allowed))}")
    if status not in (0, usual, -number) and not done.stderr.strip():
        found.append(f"exit {status} without a word")
    return found
