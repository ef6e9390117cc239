"""Experiments: a hypothesis, steps on a running lab, checks with evidence, a verdict."""

from labctl.experiments import probes
from labctl.experiments.model import Experiment, experiment
from labctl.experiments.trial import Arm, Skip, Trial

__all__ = ["Arm", "Experiment", "Skip", "Trial", "experiment", "probes"]
