"""What an experiment is: a hypothesis, a topology, and a function that puts it to the test.

from labctl import Trial, experiment, probes

@experiment("mine", topology="bridged.yaml", hypothesis="SSH works over one bridge")
def mine(trial: Trial) -> None:
    with trial.arm("ipv4", "as it comes") as arm:
        answer = probes.ssh(trial.lab, "vm1", "vm2")
        arm.check("ssh", "works", answer.text, answer.works)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labctl import topology as topologies
from labctl.errors import UsageError

if TYPE_CHECKING:
    from labctl.experiments.trial import Trial
    from labctl.topology import Topology

Body = Callable[["Trial"], None]


@dataclass(frozen=True)
class Experiment:
    """An experiment that can be run."""

    name: str
    topology: str | Mapping[str, Any]
    """A topology file, found as `labctl up` finds it, or a mapping of the same shape as a file."""
    hypothesis: str
    """What is to be shown, one sentence."""
    body: Body

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

    def load(self) -> Topology:
        """Return the topology.

        That of a built-in one is shipped: its record speaks of that, whatever lies around here.
        Raises `UsageError` where there is no such file, `TopologyError` with every problem in it.
        """
        if isinstance(self.topology, str):
            find = topologies.find_shipped if self.is_builtin else topologies.find
            return topologies.load(find(self.topology))
        if not isinstance(self.topology, Mapping):
            raise UsageError(
                f"the topology of experiment {self.name} is {type(self.topology).__name__}",
                "give a file, the name of a shipped topology, or a mapping",
            )
        return topologies.from_mapping(self.topology, base=Path.cwd())


def experiment(
    name: str, *, topology: str | Mapping[str, Any], hypothesis: str
) -> Callable[[Body], Experiment]:
    """Make an experiment of the function below."""

    def make(body: Body) -> Experiment:
        return Experiment(name, topology, hypothesis, body)

    return make
