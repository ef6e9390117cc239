"""Experiments: a hypothesis, steps on a running lab, checks with evidence, a verdict."""

from labctl.experiments import probes
from labctl.experiments.model import Experiment, experiment
from labctl.experiments.run_context import Arm, Skip, Trial
from labctl.experiments.variants import Case

__all__ = ["Arm", "Case", "Experiment", "Skip", "Trial", "experiment", "probes"]
