"""What a run found: verdicts, checks with their evidence, arms, and the environment they ran in."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import field
from enum import StrEnum
from importlib import metadata
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, model_validator
from pydantic.dataclasses import dataclass


class Verdict(StrEnum):
    """What a check, an arm or a run came to."""

    PASS = "pass"
    """What was expected was observed."""
    FAIL = "fail"
    """Something else was observed."""
    ERROR = "error"
    """It could not be told: the host, a guest or labctl failed before there was an answer."""
    SKIP = "skip"
    """It was not tried, for a reason that is said."""


def combine(verdicts: Iterable[Verdict], *, given_up: bool = False) -> Verdict:
    """Return the verdict of a set.

    Error if any is error, else fail if any is fail, else skip if all are skipped, else pass.
    An empty set is an error: where nothing was checked, nothing is known. `given_up`: the rest of
    it was not tried, so what passed before is no pass of the whole, but a skip.
    """
    found = set(verdicts)
    for verdict in (Verdict.ERROR, Verdict.FAIL):
        if verdict in found:
            return verdict
    if not found:
        return Verdict.ERROR
    return Verdict.SKIP if given_up or found == {Verdict.SKIP} else Verdict.PASS


def _earned(claim: Verdict, verdicts: Iterable[Verdict]) -> bool:
    """Tell whether a set may claim a verdict: a pass or a skip that hides something may not.

    A claim of fail or error may be worse than the set: something broke off before its check.
    """
    found = set(verdicts)
    if claim is Verdict.SKIP:
        return Verdict.SKIP in found and not found & {Verdict.FAIL, Verdict.ERROR}
    return claim is not Verdict.PASS or combine(found) is Verdict.PASS


def _storable(value: object) -> object:
    """Replace what UTF-8 cannot hold, so that odd bytes from a console never cost a record."""
    return value.encode(errors="replace").decode() if isinstance(value, str) else value


Text = Annotated[str, BeforeValidator(_storable)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Offloads = dict[str, dict[str, dict[str, bool]]]
"""Features in effect, as read back: `{"vm1/eth0": {"guest" | "tap" | "device": {feature: on}}}`."""

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, config=_STRICT)
class Check:
    """One question with its answer."""

    name: Text
    """What is checked, unique within its arm (together with `hop`)."""
    verdict: Verdict
    expected: Text
    observed: Text
    """What was seen; for a skipped check, why it was skipped."""
    evidence: tuple[Text, ...] = ()
    """Lines that let a reader judge for themselves: packets, counters, names of captures."""
    hop: Text | None = None
    """The observation point this is about, where it is about one."""
    seconds: Seconds = 0.0
    """From the check before it in its arm, or the arm's begin, to this one: what was done for it.
    So those of an arm add up to no more than the arm's own. Nothing reads it back from a record:
    in older ones it is the time from the arm's begin."""


@dataclass(frozen=True, config=_STRICT)
class ArmResult:
    """One arm of an experiment: the same steps under one condition, such as one router kind.

    Raises `pydantic.ValidationError` (a ValueError) when `verdict` is pass without its checks
    saying so, or skip without a skipped check or although one failed. Skip with checks that passed
    is an arm that was given up after them.
    """

    name: Text
    """Unique within the run, such as `raw/ipv6`."""
    description: Text
    verdict: Verdict
    checks: tuple[Check, ...] = ()
    offloads: Offloads = field(default_factory=dict)
    """Features in effect while this arm ran."""
    routers: dict[Text, Text] = field(default_factory=dict)
    """What forwarded in each router then, by its kind; empty in older records."""
    seconds: Seconds = 0.0
    """From its begin to its end."""

    @model_validator(mode="after")
    def _a_pass_is_earned(self) -> Self:
        if not _earned(self.verdict, (check.verdict for check in self.checks)):
            raise ValueError(f"arm {self.name!r} says {self.verdict}, its checks do not")
        return self

    @classmethod
    def judge(
        cls,
        name: str,
        description: str,
        checks: Iterable[Check],
        *,
        offloads: Offloads | None = None,
        routers: Mapping[str, str] | None = None,
        seconds: float = 0.0,
        given_up: bool = False,
    ) -> ArmResult:
        """Make the arm whose verdict is that of its `checks` together.

        `given_up`: a check says why the rest was not tried, so it is no pass.
        """
        kept = tuple(checks)
        verdict = combine((check.verdict for check in kept), given_up=given_up)
        return cls(name, description, verdict, kept, offloads or {}, dict(routers or {}), seconds)


@dataclass(frozen=True, config=_STRICT)
class Environment:
    """Everything outside the experiment that could make two runs differ."""

    host_kernel: Text = ""
    distribution: Text = ""
    cpus: int = 0
    python: Text = ""
    labctl: Text = ""
    pyroute2: Text = ""
    qemu: Text = ""
    libvirt: Text = ""
    accelerator: Text = ""
    """What runs the guests: `kvm`, `tcg`, `xen`, or `none` where there are no machines."""
    images: dict[str, str] = field(default_factory=dict)
    """Content digest of each image that was used, by its name."""
    guest_kernels: dict[str, str] = field(default_factory=dict)
    """What `uname -r` said in each node."""
    guest_starts: dict[str, str] = field(default_factory=dict)
    """How each guest that the lab started itself was started: `booted` or `cloned`."""
    topology: Text = ""
    topology_digest: Text = ""
    offloads: Offloads = field(default_factory=dict)
    """Features in effect when the lab was up, before any arm changed them."""

    def flat(self) -> dict[str, str]:
        """Return one text for each leaf, with a dotted key such as `offloads.vm1/eth0.tap.tso`."""
        return flatten(_ENVIRONMENT.dump_python(self, mode="json"))


@dataclass(frozen=True, config=_STRICT)
class Run:
    """One run of one experiment, as it is recorded.

    Raises `pydantic.ValidationError` (a ValueError) when `verdict` is pass without the arms saying
    so, skip without a skipped arm or although one failed, or either although the run is `partial`.
    Skip with arms that passed is a run that was given up after them.
    """

    id: Text
    experiment: Text
    hypothesis: Text
    verdict: Verdict
    arms: tuple[ArmResult, ...]
    environment: Environment
    started: Text
    """ISO 8601, UTC."""
    timings: dict[str, Seconds] = field(default_factory=dict)
    """Seconds by stage, such as `up`, `down`."""
    story: Text = ""
    """The page that tells a reader what happened and why."""
    notes: tuple[Text, ...] = ()
    """What a reader should know besides: warnings, captures that were cut, why it was skipped."""
    partial: bool = False
    """Whether it was stopped before everything it planned was checked."""
    command: Text = ""
    """What to type to run it again."""

    @model_validator(mode="after")
    def _a_pass_is_earned(self) -> Self:
        if self.partial and self.verdict in (Verdict.PASS, Verdict.SKIP):
            raise ValueError("a partial run cannot pass, nor say that it was not tried")
        if not _earned(self.verdict, (arm.verdict for arm in self.arms)):
            raise ValueError(f"the run says {self.verdict}, its arms do not")
        return self

    @classmethod
    def judge(
        cls,
        run_id: str,
        experiment: str,
        hypothesis: str,
        arms: Iterable[ArmResult],
        *,
        environment: Environment,
        started: str,
        timings: Mapping[str, float] | None = None,
        story: str = "",
        notes: Iterable[str] = (),
        partial: bool = False,
        command: str = "",
        given_up: bool = False,
    ) -> Run:
        """Make the run whose verdict is that of its `arms` together; a partial pass is an error.

        `given_up`: an arm says why the rest was not tried, so it is no pass.
        """
        kept = tuple(arms)
        verdict = combine((arm.verdict for arm in kept), given_up=given_up)
        if partial and verdict in (Verdict.PASS, Verdict.SKIP):
            verdict = Verdict.ERROR
        return cls(
            id=run_id,
            experiment=experiment,
            hypothesis=hypothesis,
            verdict=verdict,
            arms=kept,
            environment=environment,
            started=started,
            timings=dict(timings or {}),
            story=story,
            notes=tuple(notes),
            partial=partial,
            command=command,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the run as plain data, ready for `json.dumps`."""
        data: dict[str, Any] = _RUN.dump_python(self, mode="json")
        return data

    @classmethod
    def from_json(cls, data: object) -> Run:
        """Make a run from what `to_json` returned; ValueError says what does not fit."""
        return _RUN.validate_python(data)


_ENVIRONMENT = TypeAdapter(Environment)
_RUN = TypeAdapter(Run)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return the leaves of nested mappings as text, keyed by their dotted path."""
    leaves: dict[str, str] = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            leaves.update(flatten(value, f"{path}."))
        elif isinstance(value, bool):
            leaves[path] = "on" if value else "off"
        else:
            leaves[path] = str(value)
    return leaves


def host_environment(**rest: Any) -> Environment:
    """Return this host's part of the environment, with `rest` (other fields) filled in."""
    try:
        distribution = platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        distribution = ""
    found: dict[str, Any] = {
        "host_kernel": platform.release(),
        "distribution": distribution,
        "cpus": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "labctl": _version("labctl"),
        "pyroute2": _version("pyroute2"),
    }
    return Environment(**{**found, **rest})


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""
