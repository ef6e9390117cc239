"""What an experiment is: a hypothesis, a topology, and a function that puts it to the test.

from labctl import Trial, experiment, probes

@experiment("mine", topology="bridged.yaml", hypothesis="SSH works over one bridge")
def mine(trial: Trial) -> None:
    with trial.arm("ipv4", "as it comes") as arm:
        answer = probes.ssh(trial.lab, "vm1", "vm2")
        arm.check("ssh", "works", answer.text, answer.works)

Where the same is done under several conditions, `variants` names them, and the body is called once
for each combination, in an arm of that name:

@experiment("mine", topology="router-hop.yaml", hypothesis="every router keeps the metadata",
            variants={"router": ["namespace", "raw-vnet"], "ip": {"ipv4": 4, "ipv6": 6}})
def mine(trial: Trial, arm: Arm, case: Case) -> None:
    trial.lab.router("r1").set_kind(case["router"])
    check_path(trial, arm, "vm1", "vm2", case["ip"])
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from labctl import topology as topologies
from labctl.errors import UsageError
from labctl.experiments.variants import Axis, Case, check_patterns, fits, product
from labctl.images import recipe_paths
from labctl.topology import kernels as kernel_names
from labctl.topology import overrides

if TYPE_CHECKING:
    from labctl.experiments.run_context import Arm, Trial
    from labctl.topology import Topology

Body = Callable[["Trial"], None]
CaseBody = Callable[["Trial", "Arm", Case], Any]
"""What is done in the arm of a case; what it returns is for the story."""
Story = Callable[[Mapping[str, Any]], Sequence[str]]
"""Makes the lines of the page, of what the body returned by the names of all cases."""
Variants = Mapping[str, Axis] | Callable[["Topology"], Mapping[str, Axis]]
"""The values of each axis by their labels, or a function that finds them in a topology."""
UNTOLD = "an arm did not come to its end, so there is no story to tell"


@dataclass(frozen=True)
class Experiment:
    """An experiment that can be run."""

    name: str
    topology: str | Mapping[str, Any]
    """A topology file, found as `labctl up` finds it, or a mapping of the same shape as a file."""
    hypothesis: str
    """What is to be shown, one sentence."""
    body: Callable[..., Any]
    """A `Body`; where there are cases, a `CaseBody`."""
    cases: tuple[Case, ...] | Callable[[Topology], tuple[Case, ...]] = ()
    """A function where they follow from the topology."""
    story: Story | None = None
    """Told once all cases came to their end."""
    only: tuple[str, ...] = ()
    """Patterns of the cases that are to be run; all, where there is none."""
    is_elsewhere: bool = False
    """Whether it runs on another topology than it was written for."""
    package: str = ""
    """The package that declares it under its name, where that is not labctl."""
    kernels: tuple[str, ...] = ()
    """The kernels that it is to be run with, each in a run of its own; none for the topology's."""
    kernel: str = ""
    """The kernel that its guests boot in this run: a release's, or a file; empty for their own."""
    nic: str = ""
    """The model of its guests' NICs; empty for their own."""
    offload: str = ""
    """Offloads of its guests over their own, such as `guest.tx=off,tap.tso=off`."""

    @property
    def summary(self) -> str:
        """The first line of the body's docstring, or the hypothesis."""
        text = (self.body.__doc__ or "").strip()
        return text.splitlines()[0] if text else self.hypothesis

    @property
    def topology_name(self) -> str:
        """What to call the topology: its file, or the name that a mapping has."""
        if isinstance(self.topology, str):
            return self.topology
        return str(self.topology.get("name", self.name))

    @property
    def is_builtin(self) -> bool:
        """Whether it comes with labctl."""
        return self.body.__module__.startswith("labctl.")

    def select(self, patterns: Sequence[str]) -> Experiment:
        """Return the experiment with those cases only whose names fit a pattern, such as `raw/*`.

        Raises `UsageError` where a pattern fits none. The others are recorded as skipped.
        """
        check_patterns(self.name, self.all_cases(), patterns)
        return replace(self, only=tuple(patterns))

    def on(self, topology: str) -> Experiment:
        """Return the experiment on another topology: a file, found as `labctl up` finds it."""
        return replace(self, topology=topology, is_elsewhere=True)

    def axes(self) -> dict[str, list[str]]:
        """Return the labels of each axis of its cases, by the axis; none where it has no cases."""
        found: dict[str, list[str]] = {}
        for case in self.all_cases():
            for axis, label in case.labels.items():
                labels = found.setdefault(axis, [])
                if label not in labels:
                    labels.append(label)
        return found

    def all_cases(self) -> tuple[Case, ...]:
        """Return its cases; raises as `load` does."""
        return self._cases(self.load)

    def topology_file(self) -> Path | None:
        """Return the file of its topology; None where it is a mapping. Raises as `load` does."""
        if not isinstance(self.topology, str):
            return None
        ours = self.is_builtin and not self.is_elsewhere
        find = topologies.find_shipped if ours else topologies.find
        return find(self.topology)

    def with_guests(self, nic: str = "", offload: str = "") -> Experiment:
        """Return the experiment with other NICs or offloads of all guests; empty leaves them.

        Raises `UsageError` for what there is not, or no guest can have.
        """
        found = replace(self, nic=nic, offload=offload)
        found.load()
        return found

    def by_kernel(self, kernels: Sequence[str] = ()) -> list[Experiment]:
        """Return the experiment once for each of these kernels, or of its own, or as it is.

        A kernel is a release's, such as `debian-13`, or a file. Raises `UsageError` for one that
        is not known, is not there, or that no node can boot.
        """
        chosen = list(dict.fromkeys(kernels or self.kernels))
        found = [replace(self, kernel=one) for one in chosen]
        for one in found:
            if release := kernel_names.release(one.kernel):
                recipe_paths.check_kernel(release)
            one.load()
        return found or [self]

    def run(self, trial: Trial) -> None:
        """Put it to the test on a lab that is up."""
        if not self.cases:
            self.body(trial)
            return
        cases = self._cases(lambda: trial.lab.topology)
        ended: dict[str, Any] = {}
        for case in cases:
            with trial.arm(case.name, case.description) as arm:
                if not fits(case, self.only):
                    arm.give_up(f"not chosen by --only {' '.join(self.only)}")
                    continue
                ended[case.name] = self.body(trial, arm, case)
        tried = sum(fits(case, self.only) for case in cases)
        if tried < len(cases):
            trial.notes.append(f"{tried} of {len(cases)} cases were chosen by --only")
        elif self.story and len(ended) == len(cases):
            trial.story += self.story(ended)
        elif self.story:
            trial.notes.append(UNTOLD)

    def _cases(self, topology: Callable[[], Topology]) -> tuple[Case, ...]:
        return self.cases(topology()) if callable(self.cases) else self.cases

    def load(self) -> Topology:
        """Return the topology.

        That of a built-in one is shipped: its record speaks of that, whatever lies around here.
        Raises `UsageError` where there is no such file, `TopologyError` with every problem in it.
        """
        topology = self._load()
        if self.kernel:
            topology = kernel_names.with_kernel(topology, self.kernel)
        if self.nic:
            topology = overrides.with_nic(topology, self.nic)
        return overrides.with_offload(topology, self.offload) if self.offload else topology

    def _load(self) -> Topology:
        if (file := self.topology_file()) is not None:
            return topologies.load(file)
        if not isinstance(self.topology, Mapping):
            raise UsageError(
                f"the topology of experiment {self.name} is {type(self.topology).__name__}",
                "give a file, the name of a shipped topology, or a mapping",
            )
        return topologies.from_mapping(self.topology, base=Path.cwd())


@overload
def experiment(
    name: str,
    *,
    topology: str | Mapping[str, Any],
    hypothesis: str,
    kernels: Sequence[str] = (),
) -> Callable[[Body], Experiment]: ...


@overload
def experiment(
    name: str,
    *,
    topology: str | Mapping[str, Any],
    hypothesis: str,
    variants: Variants,
    where: Callable[[Case], bool] | None = None,
    describe: Callable[[Case], str] | None = None,
    story: Story | None = None,
    kernels: Sequence[str] = (),
) -> Callable[[CaseBody], Experiment]: ...


def experiment(
    name: str,
    *,
    topology: str | Mapping[str, Any],
    hypothesis: str,
    variants: Variants | None = None,
    where: Callable[[Case], bool] | None = None,
    describe: Callable[[Case], str] | None = None,
    story: Story | None = None,
    kernels: Sequence[str] = (),
) -> Callable[[Callable[..., Any]], Experiment]:
    """Make an experiment of the function below.

    With `variants` (the values of each axis, by their labels or as they are; or a function that
    finds them in the topology) it is called once for each combination that `where` holds of, in an
    arm called after the labels, such as `raw/ipv4`, that `describe` says a line about. Once all
    have come to their end, `story` makes the page of what was returned, by the cases' names. With
    `kernels`, such as `debian-11`, it is run once for each, its guests booting that one. Raises
    `UsageError` for variants that give no case.
    """
    cases: tuple[Case, ...] | Callable[[Topology], tuple[Case, ...]] = ()
    if callable(variants):

        def cases(topology: Topology) -> tuple[Case, ...]:
            return product(variants(topology), where, describe)

    elif variants is not None:
        cases = product(variants, where, describe)

    def make(body: Callable[..., Any]) -> Experiment:
        return Experiment(name, topology, hypothesis, body, cases, story, kernels=tuple(kernels))

    return make
