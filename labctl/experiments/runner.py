"""Run one experiment: a lab of its own, the trial, the record. The lab ends with the run."""

from __future__ import annotations

import inspect
import json
import secrets
import shlex
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from labctl import topology
from labctl.errors import LabctlError
from labctl.events import Emit, Event, silent
from labctl.experiments.model import Experiment
from labctl.experiments.run_context import (
    NOT_PASSED,
    UNCHECKED,
    Skip,
    Stopped,
    Trial,
    lines_of,
    state_of,
)
from labctl.guests import console, secret_texts
from labctl.guests.accel import Policy
from labctl.lab import handover
from labctl.lab.lab import Lab
from labctl.results.model import ArmResult, Check, Environment, Run, Verdict, host_environment
from labctl.results.recorder import INTERRUPTED, TOPOLOGY, Recorder, numbered
from labctl.sandbox import atomic
from labctl.topology import serialize


@dataclass(frozen=True)
class Keeping:
    """That a lab stays up where its experiment does not pass, so that somebody can look into it."""

    look: Callable[[Lab, str], None] = lambda _lab, _what: None
    """See `labctl.experiments.run_context.Look`; the lab is up."""
    kept: list[Lab] = field(default_factory=list)
    """The labs that were kept, also where something went wrong afterwards."""


def run(
    experiment: Experiment,
    *,
    policy: Policy = "auto",
    results: Path | None = None,
    emit: Emit = silent,
    keeping: Keeping | None = None,
    cold: bool = False,
) -> tuple[Run, Path]:
    """Run an experiment from `up` to the record; return the run and its directory.

    A fault of the host, the lab or the experiment's own code gives a recorded verdict of error; a
    mistake in the topology raises `UsageError` before anything is started. When the user interrupts
    it, what was found so far is recorded as partial and the interrupt goes on.

    With `keeping` the first arm that does not pass is the last: the verdict is recorded as ever,
    the run as stopped early, and the lab outlives this process, unless the user interrupts it.
    With `cold` its guests boot, though they could be clones.
    """
    model = experiment.load()
    recorder = Recorder.create(experiment.name, results)
    _keep_topology(recorder.path / TOPOLOGY, model)
    emit(Event("experiment", experiment.name, "start", experiment.hypothesis))
    trial: Trial | None = None
    lab: Lab | None = None
    environment = host_environment(topology=model.name, topology_digest=model.digest())
    arms: list[ArmResult] = []
    timings: dict[str, float] = {}
    begun = time.monotonic()
    notes: tuple[str, ...] = ()
    unfinished, given_up = True, False
    interrupt: BaseException | None = None
    try:
        # A name of its own: a lab of the user's may be up meanwhile.
        name = f"{experiment.name[:30]}-{secrets.token_hex(3)}"
        lab = Lab.up(model, name=name, policy=policy, emit=emit, cold=cold)
        timings.update(lab.timings)
        environment = _environment(lab, environment)
        _keep_topology(recorder.path / TOPOLOGY, lab.topology)  # with what was found in its guests
        look = partial(keeping.look, lab) if keeping else None
        trial = Trial(
            lab, recorder.captures, lab.directory / "captures", emit, look, lab.check_programs
        )
        trial.notes += lab.topology.unseen()
        try:
            experiment.run(trial)
        finally:
            trial.undo(lambda error: arms.append(_trouble("deferred", error)))
        unfinished = False
        if not trial.arms:
            arms.append(_trouble("body", LabctlError(UNCHECKED, "check something in an arm")))
    except Skip as why:
        arms.append(_skipped(str(why)))
        unfinished, given_up = False, True
    except LabctlError as error:
        arms.append(_trouble("lab" if lab is None else "body", error))
    except Exception as fault:
        where = "".join(traceback.format_tb(fault.__traceback__)[1:])  # from the body on
        arms.append(_trouble("body", LabctlError(f"{type(fault).__name__}: {fault}", "", where)))
    except Stopped as stopped:
        if not stopped.keep:  # what has failed stays so, whoever interrupts it afterwards
            interrupt, notes = KeyboardInterrupt(), (INTERRUPTED,)
    except BaseException as stop:
        interrupt = stop
        if isinstance(stop, KeyboardInterrupt):  # SIGTERM and SIGHUP too
            notes = (INTERRUPTED,)
        raise
    finally:
        timings["experiment"] = time.monotonic() - begun
        if lab is not None:
            tried = [*(trial.arms if trial else []), *arms]
            keep = not interrupt and any(arm.verdict in NOT_PASSED for arm in tried)
            try:
                if keeping and keep:
                    _hand_over(lab, recorder, keeping)
                else:
                    _end(lab, recorder, timings)
            except (LabctlError, OSError) as error:  # the record is to be written all the same
                told = error if isinstance(error, LabctlError) else LabctlError(str(error))
                arms.append(_trouble("down", told))
            if keeping and lab in keeping.kept:
                notes = (*notes, f"the lab was kept up as {lab.name}")
        record = Run.judge(
            recorder.id,
            experiment.name,
            experiment.hypothesis,
            _together(trial.arms if trial else [], arms),
            environment=environment,
            started=recorder.started,
            timings=timings,
            story="\n".join(trial.story) if trial else "",
            notes=(*(trial.notes if trial else ()), *notes),
            partial=unfinished,
            command=_command(experiment, policy, cold),
            given_up=given_up,
        )
        recorder.finish(record)
        verdict = record.verdict
        emit(Event("experiment", experiment.name, state_of(verdict), str(verdict)))
    if interrupt:
        raise interrupt
    return record, recorder.path


def _together(tried: list[ArmResult], ours: list[ArmResult]) -> list[ArmResult]:
    """Add arms of the runner's own to those of the experiment, which may have the same names."""
    found = list(tried)
    for arm in ours:
        found.append(replace(arm, name=numbered(arm.name, [one.name for one in found])))
    return found


def _keep_topology(path: Path, model: topology.Topology) -> None:
    """Keep the topology as it was resolved, so that a report can draw it wherever it is made."""
    try:
        text = json.dumps(serialize.to_json(model), indent=2) + "\n"
        atomic.write(path, text, atomic.public())
    except OSError as error:
        raise LabctlError(f"cannot record in {path.parent}: {error.strerror}") from error


def _command(experiment: Experiment, policy: Policy, cold: bool = False) -> str:
    """Return what to type to run it again: the name it is found by, or the user's file."""
    word = experiment.name
    if not (experiment.is_builtin or experiment.package):
        word = inspect.getsourcefile(experiment.body) or word
    words = ["labctl", "experiment", word]
    if experiment.is_elsewhere:
        words += ["--topology", experiment.topology_name]
    for pattern in experiment.only:
        words += ["--only", pattern]
    if experiment.kernel:
        words += ["--kernel", experiment.kernel]
    if experiment.nic:
        words += ["--nic", experiment.nic]
    if experiment.offload:
        words += ["--offload", experiment.offload]
    if policy != "auto":
        words += ["--accel", policy]
    if cold:
        words.append("--cold")
    return shlex.join(words)


def _skipped(why: str) -> ArmResult:
    """Tell why nothing, or nothing more, was tried."""
    check = Check("experiment", Verdict.SKIP, "to be tried", why)
    return ArmResult.judge("skipped", "the experiment said that it cannot be tried here", [check])


def _end(lab: Lab, recorder: Recorder, timings: dict[str, float]) -> None:
    """Keep the consoles and take the lab down."""
    begun = time.monotonic()
    try:
        _keep_consoles(lab, recorder)
    finally:
        lab.down()
        timings["down"] = time.monotonic() - begun


def _hand_over(lab: Lab, recorder: Recorder, keeping: Keeping) -> None:
    """Keep the consoles, and let the lab outlive this process."""
    try:
        _keep_consoles(lab, recorder)
    finally:
        try:
            handover.hand_over(lab)
        except LabctlError:  # it has ended: what is left of it goes
            lab.down()
            raise
        keeping.kept.append(lab)


def _keep_consoles(lab: Lab, recorder: Recorder) -> None:
    hidden = secret_texts.kept(lab.directory).values()
    for log in sorted((lab.directory / "console").glob("*.log")):
        console.copy(log, recorder.console / log.name, hidden)


def _trouble(where: str, error: LabctlError) -> ArmResult:
    """Tell of what ended a run early, as an arm that could not be told."""
    evidence = tuple(lines_of(error))
    check = Check(where, Verdict.ERROR, "to go to its end", error.message, evidence)
    return ArmResult.judge(f"lab/{where}", "the lab itself", [check])


def _environment(lab: Lab, host: Environment) -> Environment:
    """Add what only the running lab can tell."""
    versions = lab.versions()
    return host_environment(
        topology=host.topology,
        topology_digest=host.topology_digest,
        qemu=versions["qemu"],
        libvirt=versions["libvirt"],
        accelerator=lab.accel,
        images={image.name: image.digest for image in lab.images.values()}
        | {disk.name: disk.facts.sha256 for disk in lab.disks.values()},
        guest_kernels={
            node.name: node.run("uname -r").stdout.strip()[:100]
            for node in lab.nodes
            if not node.model.console_only
        },
        guest_starts=dict(lab.starts),
        offloads=lab.offloads(),
    )
