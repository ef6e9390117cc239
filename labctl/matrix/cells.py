"""The cells of a matrix: every experiment under every combination that is not left out.

An axis is either an option of `labctl experiment` (`OPTIONS`), or one of an experiment's own cases;
experiments that have no such axis are run without it.
"""

from __future__ import annotations

import fnmatch
import glob
import hashlib
import inspect
import itertools
import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from labctl.errors import UsageError, nearest, shown
from labctl.experiments import load
from labctl.experiments.model import Experiment
from labctl.experiments.variants import check_patterns
from labctl.jobs.model import Job, Need
from labctl.lab import memory
from labctl.matrix.file import Written
from labctl.results.matrix import MOST_CELLS, Cell
from labctl.topology import Topology, kernels, shipped
from labctl.version import __version__

OWN = "own"
"""The value of an axis that leaves all as the experiment has it."""
OPTIONS = ("topology", "kernel", "nic", "offload", "start", "accel")
STARTS = ("clone", "cold")
POLICIES = ("auto", "require", "off")
_CARRIED = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,200}")
OVERHEAD = 100
"""MiB that labctl and its agent take beside the guests."""


@dataclass(frozen=True)
class Planned:
    """A cell, and what has to be known to run it."""

    cell: Cell
    words: tuple[str, ...]
    """What follows `labctl`."""
    need: Need
    timeout: float
    files: tuple[Path, ...] = ()
    """The user's own files that it reads, which are carried to another machine."""
    own: str = ""
    """A file of this machine that is not carried."""

    def job(self, expected: float) -> Job:
        """Return it as a job for this machine."""
        return Job(self.cell.key, self.words, self.need, self.timeout, expected)

    def portable(self) -> tuple[tuple[str, ...], dict[str, str]]:
        """Return its words for another machine, and the texts that it finds beside it there.

        Raises `UsageError` where it needs a file that is not carried: a kernel, or what a topology
        names.
        """
        texts: dict[str, str] = {}
        words = list(self.words)
        for path in self.files:
            try:
                text = path.read_text()
            except (OSError, ValueError) as error:
                raise UsageError(f"{path} cannot be read: {error}") from None
            if texts.setdefault(path.name, text) != text or not _CARRIED.fullmatch(path.name):
                raise UsageError(f"{path} cannot be carried by its name", "rename it")
            old = (str(path), str(path.absolute()))
            words = [
                f"{path.name}{rest}" if name in old else word
                for word in words
                for name, mark, more in [word.partition(load.IN_FILE)]
                for rest in [mark + more]
            ]
        if self.own:
            raise UsageError(
                f"{self.cell.name} needs {self.own}, which other machines have not got",
                "leave --ssh and --scheduler out, or name a release's kernel and a shipped image",
            )
        return tuple(words), texts


def plan(written: Written) -> list[Planned]:
    """Return the cells; the last axis changes fastest, and repeats after all of them.

    Raises `TopologyError` with every problem of a matrix file, else `UsageError` with the first.
    """
    found: list[Planned] = []
    used: set[str] = set()
    for at, word in enumerate(written.experiments):
        try:
            experiments = load.find([_path(word, written.base)])
        except UsageError as error:
            written.refuse(("experiments", at), error)
            continue
        for experiment in experiments:
            one = _Expansion(written, experiment, _word(word, experiment, written.base))
            found += one.cells(used)
    for axis in written.axes:
        if axis not in used and axis not in OPTIONS and found:
            known = sorted({*OPTIONS, *used})
            what = f"no experiment here has an axis {shown(axis)}"
            written.refuse(("axes", axis), UsageError(what, nearest(axis, known)), key=True)
    written.check()
    kept = [one for one in found if not _is_excluded(one.cell, written.exclude)]
    if not kept:
        raise UsageError(f"no cell of {written.name} is left", "leave something out of exclude")
    if len(kept) * written.repeat > MOST_CELLS:
        raise UsageError(f"{written.name} has more than {MOST_CELLS} cells", "take values away")
    repeated = [_repeated(one, number) for number in range(1, written.repeat + 1) for one in kept]
    _check_names(repeated)
    return repeated


def _check_names(cells: Sequence[Planned]) -> None:
    seen: set[str] = set()
    for one in cells:
        if one.cell.key in seen:
            raise UsageError(f"two cells are {one.cell.name}", "name each experiment once")
        seen.add(one.cell.key)


def shard(cells: Sequence[Planned], part: int, count: int) -> list[Planned]:
    """Return part K of N: the same on every machine, each of a size that differs by one at most."""
    return sorted(cells, key=lambda one: one.cell.key)[part - 1 :: count]


def _repeated(one: Planned, number: int) -> Planned:
    cell = replace(one.cell, repeat=number, key=_key(one.cell.experiment, one.cell.labels, number))
    return replace(one, cell=cell)


def _path(word: str, base: Path) -> str:
    """Return a word as it is found from here: files of a matrix lie beside it."""
    name, mark, rest = word.partition(load.IN_FILE)
    return f"{base / name}{mark}{rest}" if (base / name).is_file() else word


def _word(word: str, experiment: Experiment, base: Path) -> str:
    """Return the word that means this experiment, and no other of the same file."""
    if not (load.IN_FILE in word or word.endswith(".py") or "/" in word):
        return word
    file = _path(word, base).partition(load.IN_FILE)[0]
    return f"{Path(file).absolute()}{load.IN_FILE}{experiment.name}"


class _Expansion:
    """One experiment under all combinations."""

    def __init__(self, written: Written, experiment: Experiment, word: str) -> None:
        self._written, self._experiment, self._word = written, experiment, word
        self._axes = dict(written.axes)
        if experiment.kernels and "kernel" not in self._axes:
            self._axes["kernel"] = {one: one for one in experiment.kernels}
        self._code = _digest_of_code(experiment)

    def cells(self, used: set[str]) -> list[Planned]:
        """Return the cells; adds the axes of the experiment's own that were used to `used`."""
        options = {axis: self._axes[axis] for axis in OPTIONS if axis in self._axes}
        found: list[Planned] = []
        for labels in _combinations(options):
            if _excludes(self._written.exclude, {"experiment": self._experiment.name, **labels}):
                continue
            settings = {axis: options[axis][label] for axis, label in labels.items()}
            try:
                found += self._under(labels, settings, used)
            except UsageError as error:
                self._refuse(labels, error)
        return found

    def _refuse(self, labels: Mapping[str, str], error: UsageError) -> None:
        """Tell what is wrong at the axis whose value causes it, as far as that can be told."""
        for axis in OPTIONS:
            if axis in labels and self._alone(axis, labels[axis]):
                self._written.refuse(("axes", axis), error)
                return
        name = self._experiment.name
        at = next((at for at, word in enumerate(self._written.experiments) if name in word), 0)
        self._written.refuse(("experiments", at), error)

    def _alone(self, axis: str, label: str) -> bool:
        try:
            self._configured({axis: self._axes[axis][label]})
        except UsageError:
            return True
        return False

    def _configured(self, settings: Mapping[str, str]) -> Experiment:
        """Return the experiment under settings; raises `UsageError` for one that cannot be."""
        found = self._experiment
        told = {axis: value for axis, value in settings.items() if value != OWN}
        for axis, known in (("start", STARTS), ("accel", POLICIES)):
            if axis in told and told[axis] not in known:
                raise UsageError(
                    f"there is no {axis} {shown(told[axis])}", nearest(told[axis], known)
                )
        if topology := told.get("topology"):
            found = found.on(_path(topology, self._written.base))
        if kernel := told.get("kernel"):
            (found,) = found.by_kernel([_path(kernel, self._written.base)])
        return found.with_guests(told.get("nic", ""), told.get("offload", ""))

    def _under(
        self, labels: Mapping[str, str], settings: Mapping[str, str], used: set[str]
    ) -> list[Planned]:
        experiment = self._configured(settings)
        model = experiment.load()
        declared = experiment.axes()
        own = {axis: values for axis, values in self._axes.items() if axis in declared}
        for axis, values in own.items():
            for value in values.values():
                if value != OWN and value not in declared[axis]:
                    name = self._experiment.name
                    error = UsageError(
                        f"{name} has no {axis} {shown(value)}", nearest(value, declared[axis])
                    )
                    self._written.refuse(("axes", axis), error)
                    return []
        used.update(own)
        found = []
        for chosen in _combinations(own):
            pattern = ""
            if own:
                picked = {axis: own[axis][label] for axis, label in chosen.items()}
                pattern = "/".join(
                    glob.escape(picked[axis]) if picked.get(axis, OWN) != OWN else "*"
                    for axis in declared
                )
                try:
                    check_patterns(experiment.name, experiment.all_cases(), [pattern])
                except UsageError:  # the experiment leaves this combination out itself
                    continue
            both = {**labels, **chosen}
            together = {axis: both[axis] for axis in self._axes if axis in both}
            found.append(self._planned(experiment, model, together, settings, pattern))
        if not found:
            raise UsageError(f"{experiment.name} has no case of these axes", "take one away")
        return found

    def _planned(
        self,
        experiment: Experiment,
        model: Topology,
        labels: dict[str, str],
        settings: Mapping[str, str],
        pattern: str,
    ) -> Planned:
        words = ["experiment", self._word]
        files = [Path(self._word.partition(load.IN_FILE)[0])] if load.IN_FILE in self._word else []
        if experiment.is_elsewhere:
            words += ["--topology", experiment.topology_name]
        if isinstance(experiment.topology, str):
            files += _own_topology(experiment)
        if experiment.kernel:
            words += ["--kernel", experiment.kernel]
        if experiment.nic:
            words += ["--nic", experiment.nic]
        if experiment.offload:
            words += ["--offload", experiment.offload]
        if pattern and set(pattern) - set("*/"):
            words += ["--only", pattern]
        if (accel := settings.get("accel", OWN)) != OWN:
            words += ["--accel", accel]
        if settings.get("start") == STARTS[1]:
            words += ["--cold"]
        facts = [
            __version__, self._code, model.digest(), _digest_of_kernel(experiment),
            *words[2:], experiment.name,
        ]  # fmt: skip
        digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
        key = _key(experiment.name, labels, 1)
        cell = Cell(key, experiment.name, labels, digest, shlex.join(["labctl", *words]))
        own = next(iter(_own_files(model)), "")
        return Planned(cell, tuple(words), need(model), self._written.timeout, tuple(files), own)


def need(model: Topology) -> Need:
    """Return what a lab takes of a machine: a core for each virtual CPU, and its guests' memory."""
    cores = sum(node.vcpus for node in model.outer_machines())
    return Need(max(1, cores), memory.needed(model) + OVERHEAD)


def _key(experiment: str, labels: Mapping[str, str], repeat: int) -> str:
    told = json.dumps([experiment, sorted(labels.items()), repeat])
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _combinations(axes: Mapping[str, Mapping[str, str]]) -> list[dict[str, str]]:
    """Return all combinations of labels; one without any where there are no axes."""
    return [dict(zip(axes, chosen, strict=True)) for chosen in itertools.product(*axes.values())]


def _is_excluded(cell: Cell, rules: Sequence[Mapping[str, str | Sequence[str]]]) -> bool:
    return _excludes(rules, {"experiment": cell.experiment, **cell.labels})


def _excludes(
    rules: Sequence[Mapping[str, str | Sequence[str]]], labels: Mapping[str, str]
) -> bool:
    """Whether a rule fits all that is known; one that asks for an unknown axis does not."""
    return any(
        rule and all(axis in labels and _fits(labels[axis], told) for axis, told in rule.items())
        for rule in rules
    )


def _fits(label: str, told: str | Sequence[str]) -> bool:
    patterns = [told] if isinstance(told, str) else told
    return any(fnmatch.fnmatchcase(label, pattern) for pattern in patterns)


def _own_topology(experiment: Experiment) -> list[Path]:
    """Return the topology file, where it is not one that comes with labctl."""
    path = experiment.topology_file()
    return [] if path is None or path in shipped() else [path]


def _own_files(model: Topology) -> Iterator[str]:
    """Yield the files of this machine that a lab needs besides its topology."""
    for node in model.nodes.values():
        named = [node.kernel, node.initramfs, node.user_data_file, node.disk and node.disk.file]
        yield from (str(one) for one in (*named, *(one.source for one in node.files)) if one)


def _digest_of_code(experiment: Experiment) -> str:
    """Return the digest of the file that an experiment is written in."""
    source = inspect.getsourcefile(experiment.body)
    try:
        return hashlib.sha256(Path(source or "").read_bytes()).hexdigest()
    except OSError:
        return ""


def _digest_of_kernel(experiment: Experiment) -> str:
    """Return the digest of a kernel that is a file."""
    if not experiment.kernel or kernels.release(experiment.kernel):
        return ""
    with Path(kernels.path(experiment.kernel)).expanduser().open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
