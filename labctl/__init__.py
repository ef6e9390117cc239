"""labctl: reproducible virtual labs that show where a packet's checksum knowledge was lost.

This is the one import for authors of experiments and of tests: docs/authors.md has a page on every
name. Each is imported when it is first used, so `import labctl` costs nothing. Modules of labctl
itself import from where a name is made, never from here.
"""

TYPE_CHECKING = False  # what type checkers take for true; `typing` itself takes milliseconds
if TYPE_CHECKING:
    from labctl import topology
    from labctl.capture.session import Capture, Evidence, HopEvidence, Observation
    from labctl.errors import DeadlineError, GuestError, HostError, LabctlError, UsageError
    from labctl.experiments import probes
    from labctl.experiments.evidence import (
        PacketSelector,
        Step,
        check_states,
        everywhere,
        fault_location,
        walk,
    )
    from labctl.experiments.expectations import check_path, check_traffic
    from labctl.experiments.model import Experiment, experiment
    from labctl.experiments.probes import Answer
    from labctl.experiments.require import require
    from labctl.experiments.run_context import Arm, Skip, Trial
    from labctl.experiments.software_checksums import software_checksums
    from labctl.experiments.traffic_run import (
        TrafficRun,
        check_answer,
        check_in_effect,
        check_no_errors,
        run_traffic,
    )
    from labctl.experiments.variants import Case
    from labctl.kinds.base import (
        Context,
        Effect,
        ForwarderKind,
        Kind,
        LinkKind,
        LinkPlan,
        LinkProgram,
        Look,
        NewLink,
        ObserverKind,
        Passing,
        Reader,
        Remedy,
        RunningRouter,
        Tool,
    )
    from labctl.kinds.guests.base import GuestKind
    from labctl.kinds.observers.drops import Drop
    from labctl.kinds.observers.frames import FrameObserver
    from labctl.lab import watch
    from labctl.lab.lab import Lab
    from labctl.lab.node import Job, Node
    from labctl.lab.router import Router
    from labctl.lab.waiting import background, wait_for_port, wait_until
    from labctl.packet.checksum import Checksum, Judgement, Metadata
    from labctl.results.model import ArmResult, Check, Run, Verdict
    from labctl.sandbox.deadline import Deadline
    from labctl.sandbox.process import CommandError, Result
    from labctl.topology.expected import Ends, Expected
    from labctl.topology.graph import PacketPath, find_path
    from labctl.topology.model import Topology
    from labctl.topology.points import ObservationPoint
    from labctl.topology.problems import TopologyError
    from labctl.version import __version__

__all__ = [
    "Answer",
    "Arm",
    "ArmResult",
    "Capture",
    "Case",
    "Check",
    "Checksum",
    "CommandError",
    "Context",
    "Deadline",
    "DeadlineError",
    "Drop",
    "Effect",
    "Ends",
    "Evidence",
    "Expected",
    "Experiment",
    "ForwarderKind",
    "FrameObserver",
    "GuestError",
    "GuestKind",
    "HopEvidence",
    "HostError",
    "Job",
    "Judgement",
    "Kind",
    "Lab",
    "LabctlError",
    "LinkKind",
    "LinkPlan",
    "LinkProgram",
    "Look",
    "Metadata",
    "NewLink",
    "Node",
    "Observation",
    "ObservationPoint",
    "ObserverKind",
    "PacketPath",
    "PacketSelector",
    "Passing",
    "Reader",
    "Remedy",
    "Result",
    "Router",
    "Run",
    "RunningRouter",
    "Skip",
    "Step",
    "Tool",
    "Topology",
    "TopologyError",
    "TrafficRun",
    "Trial",
    "UsageError",
    "Verdict",
    "__version__",
    "background",
    "check_answer",
    "check_in_effect",
    "check_no_errors",
    "check_path",
    "check_states",
    "check_traffic",
    "everywhere",
    "experiment",
    "fault_location",
    "find_path",
    "probes",
    "require",
    "run_traffic",
    "software_checksums",
    "topology",
    "wait_for_port",
    "wait_until",
    "walk",
    "watch",
]

_MODULES = {
    "probes": "labctl.experiments.probes",
    "topology": "labctl.topology",
    "watch": "labctl.lab.watch",
}
_HOMES = {
    "labctl.capture.session": "Capture Evidence HopEvidence Observation",
    "labctl.errors": "DeadlineError GuestError HostError LabctlError UsageError",
    "labctl.experiments.traffic_run": "TrafficRun check_answer check_in_effect check_no_errors "
    "run_traffic",
    "labctl.experiments.expectations": "check_traffic check_path",
    "labctl.experiments.variants": "Case",
    "labctl.experiments.evidence": "PacketSelector Step check_states everywhere "
    "fault_location walk",
    "labctl.experiments.software_checksums": "software_checksums",
    "labctl.experiments.model": "Experiment experiment",
    "labctl.experiments.probes": "Answer",
    "labctl.experiments.require": "require",
    "labctl.experiments.run_context": "Arm Skip Trial",
    "labctl.kinds.guests.base": "GuestKind",
    "labctl.kinds.base": "Context Effect ForwarderKind Kind LinkKind LinkPlan LinkProgram "
    "Look NewLink ObserverKind Passing Reader Remedy RunningRouter Tool",
    "labctl.kinds.observers.drops": "Drop",
    "labctl.kinds.observers.frames": "FrameObserver",
    "labctl.lab.lab": "Lab",
    "labctl.lab.node": "Job Node",
    "labctl.lab.router": "Router",
    "labctl.lab.waiting": "background wait_for_port wait_until",
    "labctl.packet.checksum": "Checksum Judgement Metadata",
    "labctl.results.model": "ArmResult Check Run Verdict",
    "labctl.topology.expected": "Ends Expected",
    "labctl.topology.graph": "PacketPath find_path",
    "labctl.topology.model": "Topology",
    "labctl.topology.points": "ObservationPoint",
    "labctl.topology.problems": "TopologyError",
    "labctl.version": "__version__",
    "labctl.sandbox.deadline": "Deadline",
    "labctl.sandbox.process": "CommandError Result",
}
"""The names that each module gives. A test holds both equal to the imports above."""


def __getattr__(name: str) -> object:
    """Import a name on its first use (PEP 562)."""
    from importlib import import_module

    if name in _MODULES:
        return import_module(_MODULES[name])
    for module, names in _HOMES.items():
        if name in names.split():
            return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Name all that can be had, imported or not."""
    return sorted({*globals(), *__all__})
