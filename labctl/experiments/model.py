"""What an experiment is: a hypothesis, a topology, and a function that puts it to the test.

from labctl.experiments import Trial, experiment

@experiment("mine", topology="bridged.yaml", hypothesis="SSH works over one bridge")
def mine(trial: Trial) -> None:
    with trial.arm("ipv4", "as it comes") as arm:
        answer = probes.ssh(trial.lab, "vm1", "vm2", "10.0.1.2")
        arm.check("ssh", "works", answer.text, answer.works)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from labctl.experiments.trial import Trial

Body = Callable[["Trial"], None]


@dataclass(frozen=True)
class Experiment:
    """An experiment that can be run."""

    name: str
    topology: str
    """A topology file, found as `labctl up` finds it."""
    hypothesis: str
    """What is to be shown, one sentence."""
    body: Body

    @property
    def summary(self) -> str:
        """The first line of the body's docstring, or the hypothesis."""
        text = (self.body.__doc__ or "").strip()
        return text.splitlines()[0] if text else self.hypothesis


def experiment(name: str, *, topology: str, hypothesis: str) -> Callable[[Body], Experiment]:
    """Make an experiment of the function below."""

    def make(body: Body) -> Experiment:
        return Experiment(name, topology, hypothesis, body)

    return make
