"""Labs in pytest: an installed plugin, for labctl's own suite and for any user's project.

@pytest.mark.topology("bridged.yaml")
def test_they_talk(lab: Lab) -> None:
    assert probes.ssh(lab, "vm1", "vm2").works

Every pytest run on a machine with labctl imports this module, so it imports what a lab needs only
when a test asks for one.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from labctl.errors import LabctlError, clean

if TYPE_CHECKING:
    from labctl.capture.session import Evidence
    from labctl.guests.accel import Policy
    from labctl.lab.lab import Lab
    from labctl.topology import Topology
    from labctl.topology.points import ObservationPoint

Source = str | Path | Mapping[str, Any]
"""A topology: a file, the name of a shipped one, or a mapping of the same shape as a file."""

POLICIES = ("auto", "require", "off")
CONSOLE_LINES = 40
"""How much of each guest's console a failing test's report shows."""
STOP_SECONDS = 60.0


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--accel` and `--labctl-keep-on-failure`."""
    group = parser.getgroup("labctl", "virtual network labs")
    group.addoption(
        "--labctl-keep-on-failure",
        action="store_true",
        help="leave the labs up in which a test fails, for you to look into them; the summary says "
        "how, and `labctl down` ends them",
    )
    group.addoption(
        "--accel",
        choices=POLICIES,
        default=os.environ.get("LABCTL_ACCEL", "auto"),
        help="for guests: KVM when it really works (auto, the default), KVM or an error (require), "
        "or TCG (off); the default can be set by LABCTL_ACCEL",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker and remember the labs of this run."""
    config.addinivalue_line(
        "markers",
        "topology(source): what the lab fixture brings up: a file (beside the test, or below the "
        "project), a shipped topology's name, or a mapping",
    )
    if config.getoption("--accel") not in POLICIES:
        raise pytest.UsageError("LABCTL_ACCEL must be one of: " + ", ".join(POLICIES))
    policy = cast("Policy", config.getoption("--accel"))
    config.stash[_RUN] = _Run(policy, keep=config.getoption("--labctl-keep-on-failure"))


# --- fixtures -----------------------------------------------------------------------------------


class LabFactory:
    """Brings labs up for tests; the fixture `lab_factory` is one.

    with lab_factory("bridged.yaml") as lab: ...
    """

    def __init__(self, run: _Run, config: pytest.Config) -> None:
        """Work with the options of a test run."""
        self._run = run
        self._config = config

    def __call__(
        self, source: Source | Topology, *, name: str | None = None, near: Path | None = None
    ) -> contextlib.AbstractContextManager[Lab]:
        """Bring a lab up for the length of a `with` block; it is taken down whatever happens.

        A relative path means a file in the folder `near`, below the project's root or the working
        directory, or a shipped topology. `name` (made unique by default) names the lab. Raises
        what `Lab.up` raises, and at the end of the block `HostError` when a program that carries
        frames between links has ended meanwhile.
        """
        return self._up(source, name, near)

    @contextlib.contextmanager
    def _up(self, source: Source | Topology, name: str | None, near: Path | None) -> Iterator[Lab]:
        from labctl.lab import naming
        from labctl.lab.lab import Lab

        model = self._load(source, near)
        name = name or naming.from_topology(model.name[:24], secrets.token_hex(4))
        lab = Lab.up(model, name=name, policy=self._run.policy)
        self._run.up.append(lab)
        try:
            yield lab
            lab.check_programs()  # else what was seen on their links proves nothing
        except BaseException as error:  # in a `with` block of the test
            if _fails(error):
                self._run.failed.add(lab.name)
                _add_dead_program(error, lab)
            raise
        finally:
            with contextlib.suppress(OSError):  # a lab whose sandbox has died may lose its files
                self._run.note(lab)
            self._run.up.remove(lab)
            self._run.end(lab)

    def _load(self, source: Source | Topology, near: Path | None) -> Topology:
        from labctl import topology

        if isinstance(source, topology.Topology):
            return source
        if isinstance(source, Mapping):
            return topology.from_mapping(source, base=near)
        for folder in (near, self._config.rootpath):
            if folder is not None and (folder / source).is_file():
                return topology.load(folder / source)
        return topology.load(topology.find(str(source)))


@pytest.fixture(scope="session")
def lab_factory(pytestconfig: pytest.Config) -> LabFactory:
    """Bring up labs as context managers: several in one test, or one for a whole module."""
    return LabFactory(pytestconfig.stash[_RUN], pytestconfig)


@pytest.fixture
def lab(request: pytest.FixtureRequest, lab_factory: LabFactory) -> Iterator[Lab]:
    """Bring up the lab of the test's marker `topology`, and take it down afterwards.

    Where it does not come up the test is an error, not a failure: nothing was tested.
    """
    marker = request.node.get_closest_marker("topology")
    if marker is None or len(marker.args) != 1 or marker.kwargs:
        pytest.fail(
            'the lab fixture needs a topology: @pytest.mark.topology("bridged.yaml")',
            pytrace=False,
        )
    with contextlib.ExitStack() as stack:
        try:
            up = stack.enter_context(lab_factory(marker.args[0], near=request.path.parent))
        except LabctlError as error:
            pytest.fail(_told(error), pytrace=False)
        yield up


class Observation:
    """What passes the hops between two nodes; the fixture `observe` makes one."""

    def __init__(self, title: str, path: tuple[ObservationPoint, ...], file: Path) -> None:
        """Start with nothing seen."""
        self.title = title
        self.path = path
        """The hops in the order they are passed from the first node to the second."""
        self.file = file
        """Where what was seen is kept as pcapng if the test fails."""
        self._evidence: Evidence | None = None

    @property
    def evidence(self) -> Evidence:
        """What was seen; raises `LabctlError` before the end of the `with` block."""
        if self._evidence is None:
            raise LabctlError(
                "the evidence is complete only after the `with observe(...)` block",
                "move the line that reads it out of the block",
            )
        return self._evidence

    def end(self, evidence: Evidence) -> None:
        """Take what was seen."""
        self._evidence = evidence

    def keep(self) -> str:
        """Write the pcapng file; return a line that says so."""
        from labctl.capture import pcapng

        count = pcapng.write(self.file, self.evidence.hops)
        return f"{self.title}: {count} frames at {len(self.path)} hops: {self.file}"


Observe = Callable[..., contextlib.AbstractContextManager[Observation]]


@pytest.fixture
def observe(request: pytest.FixtureRequest, tmp_path: Path) -> Observe:
    """Capture at every hop between two nodes, with what the kernel knew of each checksum.

    with observe(lab, "vm1", "vm2") as seen:
        ...traffic...
    seen.evidence, seen.path

    `interface` names the one to use at both ends. If the test fails, what was seen is kept as
    pcapng, and its report says where.
    """
    run = request.config.stash[_RUN]

    @contextlib.contextmanager
    def observing(
        lab: Lab, source: str, destination: str, *, interface: str | None = None
    ) -> Iterator[Observation]:
        from labctl.lab.watch import capture
        from labctl.sandbox.deadline import Deadline
        from labctl.topology.graph import find_path

        number = len(run.observations)
        path = find_path(lab.topology, source, destination, interface).points
        title = f"{lab.name}: {source} to {destination}"
        seen = Observation(title, path, tmp_path / f"{source}-{destination}-{number}.pcapng")
        with capture(lab, path, tmp_path / f"streams-{number}") as seeing:
            run.observations.append(seen)
            try:
                yield seen
            finally:
                seen.end(seeing.stop(Deadline(STOP_SECONDS, "ending the capture")))

    return observing


def _told(error: LabctlError) -> str:
    return "\n".join(part for part in (error.message, error.hint, error.detail) if part)


# --- reports ------------------------------------------------------------------------------------


class _Run:
    """The labs of one pytest run, and what to tell of them if a test fails."""

    def __init__(self, policy: Policy, *, keep: bool) -> None:
        self.policy = policy
        self._keep = keep
        self.failed: set[str] = set()
        """The names of labs that were up when a test failed."""
        self.kept: list[Lab] = []
        self.up: list[Lab] = []
        self.observations: list[Observation] = []
        self._ended: dict[str, str] = {}
        """Whole console logs of labs that this test has taken down already, by lab and node."""

    def begin(self) -> None:
        """Forget what an earlier test left."""
        self.observations.clear()
        self._ended.clear()

    def note(self, lab: Lab) -> None:
        """Keep a lab's consoles."""
        self._ended.update(_consoles(lab))

    def end(self, lab: Lab) -> None:
        """Take a lab down, or let it outlive this process where a test failed in it."""
        if not self._keep or lab.name not in self.failed:
            lab.down()
            return
        from labctl.lab import handover

        try:
            handover.hand_over(lab)
        except LabctlError:  # it has ended: what is left of it goes
            lab.down()
            raise
        self.kept.append(lab)

    def consoles(self) -> dict[str, str]:
        """Return the console logs of all labs this test has seen."""
        found = dict(self._ended)
        for lab in self.up:
            with contextlib.suppress(OSError):
                found.update(_consoles(lab))
        return found


_RUN = pytest.StashKey[_Run]()


def _consoles(lab: Lab) -> dict[str, str]:
    from labctl.guests import console  # here, as all that a lab needs

    logs = sorted((lab.directory / "console").glob("*.log"))
    return {f"{lab.name}: {log.stem}": console.text(log) for log in logs}


def _tail(text: str) -> str:
    lines = [line.rstrip() for line in text.replace("\r", "").splitlines() if line.strip()]
    return clean("\n".join(lines[-CONSOLE_LINES:])) or "(it stayed empty)"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    """Start each test with nothing to tell of earlier ones."""
    item.config.stash[_RUN].begin()
    with _skips():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    """Let `labctl.Skip`, as `require` raises it, skip a test."""
    with _skips():
        return (yield)


def _is_skip(error: BaseException) -> bool:
    trials = sys.modules.get(
        "labctl.experiments.run_context"
    )  # who has not imported it raises none
    return trials is not None and isinstance(error, trials.Skip)


def _fails(error: BaseException) -> bool:
    """Whether a test fails by what it raises: it may be skipped, and pytest ended by the user."""
    ends = (pytest.skip.Exception, pytest.exit.Exception, KeyboardInterrupt, GeneratorExit)
    return not (isinstance(error, ends) or _is_skip(error))


def _add_dead_program(error: BaseException, lab: Lab) -> None:
    """Note on what a test failed by that a program of its lab's links has ended."""
    try:
        lab.check_programs()
    except LabctlError as dead:
        if dead.message != str(error):
            error.add_note(f"lab {lab.name}: {dead.message}")
    except OSError:  # the lab's folder has gone: its end is told elsewhere
        pass


@contextlib.contextmanager
def _skips() -> Iterator[None]:
    """Turn labctl's skip into pytest's."""
    try:
        yield
    except Exception as why:
        if _is_skip(why):
            raise pytest.skip.Exception(str(why), _use_item_location=True) from None
        raise


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Attach consoles, captures and labctl's own hints to the report of a failing test."""
    report = cast("pytest.TestReport", (yield))
    if not report.failed:
        return report  # type: ignore[return-value]
    item.config.stash[_RUN].failed.update(lab.name for lab in item.config.stash[_RUN].up)
    error = call.excinfo.value if call.excinfo else None
    if isinstance(error, LabctlError) and (error.hint or error.detail):
        report.sections.append(("labctl", "\n".join(filter(None, (error.hint, error.detail)))))
    run = item.config.stash[_RUN]
    for title, text in run.consoles().items():
        report.sections.append((f"console of {title}", _tail(text)))
    kept = []
    for seen in run.observations:
        with contextlib.suppress(LabctlError, OSError):  # the test's own failure counts
            kept.append(seen.keep())
    if kept:
        report.sections.append(("captures", "\n".join(kept)))
    return report  # type: ignore[return-value]


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say which labs stay up, and what to do with them."""
    kept = config.stash[_RUN].kept
    if not kept:
        return
    from labctl.lab import handover

    terminalreporter.section("labs that stay up")
    for lab in kept:
        for line in handover.commands(lab):
            terminalreporter.write_line(clean(line))
