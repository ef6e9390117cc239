"""One process that fuzzes one target in one form: `python -m tests.fuzz.worker`.

Bounded: an address space of 1 GiB more than at its begin. What it is about to try lies in a file,
so that an input that ends the process is known all the same.
"""

from __future__ import annotations

import argparse
import importlib.util
import mmap
import re
import resource
import sys
import time
from pathlib import Path
from random import Random
from typing import NoReturn

from .findings import keep
from .state import FORMS, Place
from .target import Target, classify

ROOM = 1 << 30
"""Octets of memory."""
EACH_SECONDS = 2.0
"""How often the state is kept."""
MADE = 0.1
"""How many of the inputs of a run by coverage are made anew instead of changed."""
HANG_SECONDS = 300
"""After which libFuzzer ends a process that is stuck in one input."""


class Journal:
    """The input that is being tried, where it outlives the process."""

    def __init__(self, path: Path, longest: int) -> None:
        path.write_bytes(bytes(longest + 4))
        with path.open("r+b") as file:
            self._room = mmap.mmap(file.fileno(), longest + 4)
        self._longest = longest

    def note(self, data: bytes) -> None:
        """Remember an input."""
        data = data[: self._longest]
        self._room[4 : 4 + len(data)] = data
        self._room[:4] = len(data).to_bytes(4, "little")

    @staticmethod
    def last(path: Path) -> bytes:
        """Return the last input noted."""
        data = path.read_bytes()
        return data[4 : 4 + int.from_bytes(data[:4], "little")]


class Counter:
    """Tries inputs, counts them, keeps what is wrong."""

    def __init__(self, target: Target, form: str, place: Place, runs: int) -> None:
        self._target, self._form, self._place = target, form, place
        self._state = place.load(form)
        self._before = self._state.inputs, self._state.seconds
        self._left = runs
        self._begun = self._kept = time.monotonic()
        self._journal = Journal(place.folder / "trying", 1 << 20)

    def __call__(self, data: bytes) -> None:
        self._journal.note(data)
        found = classify(self._target, data)
        if found is not None and keep(self._place.findings, self._target, data, found):
            print(f"FOUND {self._target.name}: {found.key}", flush=True)
        self._state.inputs += 1
        if time.monotonic() - self._kept > EACH_SECONDS or self.done:
            self.save()

    @property
    def done(self) -> bool:
        """Whether there were as many inputs as asked for."""
        return self._state.inputs - self._before[0] >= self._left

    def save(self) -> None:
        """Keep the counts."""
        self._kept = time.monotonic()
        self._state.seconds = round(self._before[1] + self._kept - self._begun, 1)
        self._place.save(self._form, self._state)


def has_atheris() -> bool:
    """Tell whether inputs can be chosen by coverage."""
    return importlib.util.find_spec("atheris") is not None


def bounded() -> None:
    """Take no more than `ROOM` from here on."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, resource.RLIM_INFINITY))


def by_structure(count: Counter, target: Target, seed: int) -> None:
    """Try one made input after the other; `seed/N` names the Nth."""
    number = 0
    while not count.done:
        count(target.make(Random(f"{seed}/{number}")))
        number += 1


def main(words: list[str]) -> None:
    """Fuzz until as many inputs were tried as asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("target")
    parser.add_argument("form", choices=FORMS)
    parser.add_argument("top", type=Path)
    parser.add_argument("--runs", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    asked = parser.parse_args(words)
    place = Place(asked.top, asked.target)
    if asked.form == "coverage":
        _by_coverage(asked, place)
    target = _plain(asked.target)
    count = Counter(target, asked.form, place, asked.runs)
    bounded()
    by_structure(count, target, asked.seed)


def _plain(name: str) -> Target:
    from .targets import TARGETS

    return TARGETS[name]


def _by_coverage(asked: argparse.Namespace, place: Place) -> NoReturn:
    """Hand over to libFuzzer, which ends the process."""
    import atheris

    # What guides must be known before it is imported, and importing is what tells.
    source = Path(__file__).with_name("targets").joinpath(f"{asked.target}.py")
    include = re.findall(r'"(labctl\.[a-z_.]+)"', source.read_text()) if source.exists() else []
    with atheris.instrument_imports(include=include or ["labctl"], enable_loader_override=False):
        target = _plain(asked.target)
    count = Counter(target, asked.form, place, asked.runs)
    corpus = place.corpus(asked.form)
    for number, seed in enumerate(target.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    options = {
        "runs": asked.runs,
        "seed": asked.seed,
        "max_len": target.longest,
        "timeout": HANG_SECONDS,
        "rss_limit_mb": 0,  # the address space is bounded already
        "artifact_prefix": f"{place.folder}/",
        "reload": 0,
    }
    if target.words:
        book = place.folder / "words"
        book.write_text("".join(_quoted(word) for word in target.words))
        options["dict"] = book
    words = [f"-{name}={value}" for name, value in options.items()]

    def mutate(data: bytes, longest: int, seed: int) -> bytes:
        rng = Random(seed)
        if rng.random() < MADE:
            return target.make(rng)[:longest]
        new: bytes = atheris.Mutate(data, longest)
        return new

    atheris.Setup([sys.argv[0], *words, str(corpus)], count, custom_mutator=mutate)
    bounded()
    atheris.Fuzz()
    raise AssertionError("libFuzzer has returned")


def _quoted(word: str) -> str:
    octets = word.encode("utf-8", "surrogatepass")
    return '"' + "".join(f"\\x{octet:02x}" for octet in octets) + '"\n'


if __name__ == "__main__":
    main(sys.argv[1:])
