"""Run sessions in runners: each step's result, and whether the machine is as it was before."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import shlex
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from junitparser import Error, Failure, JUnitXml, Skipped, TestCase, TestSuite

from labctl import images
from labctl.errors import LabctlError, UsageError
from labctl.guests import accel
from labctl.images import cache
from labctl.sandbox import owned, paths

from . import plan, store
from .image import HOMES, Image, say, write_bundle
from .machine import Machine, Processor, RunnerError, TimeoutEndedError

Verdict = Literal["pass", "fail", "error"]
VERDICTS: dict[int, Verdict] = {0: "pass", 3: "error"}
"""By the exit status of a step: 3 is labctl's own word for "could not tell"."""
TIMED_OUT = (124, 137)
"""The exit statuses of timeout(1), and of what it had to kill."""
OUTPUT_SHOWN = 20000
"""Characters of a step's output in the JUnit file; all of it lies beside it."""
NOT_XML = re.compile(r"[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
MAX_ATTEMPTS = 2
"""A runner that dies is not the fault of what it ran: it is tried once more."""
MEMORY_MIB = 6144
PREPARE_SECONDS = 900.0
SETTLE_SECONDS = 60.0
"""For what ends by itself after a step, such as the log-in session of a command."""
HERE = Path(__file__).parent
INSIDE = "/root/runner"
"""Where the programs that look at the machine lie in it."""
OWN = tuple(f"{home}/*" for home in HOMES.values())
"""Files of the two who work in the machine: not the machine's own."""


class NotInstalledError(LabctlError):
    """The tree under test cannot be installed in a machine."""


@dataclass
class Outcome:
    """What came of one step, or of the comparison at a session's end."""

    session: str
    name: str
    verdict: Verdict
    seconds: float = 0.0
    message: str = ""
    output: str = ""


@dataclass
class Options:
    """How runners are made, and where results go."""

    processor: Processor
    results: Path
    memory: int = MEMORY_MIB
    anew: bool = False
    """Build the machines anew, each once."""
    made: set[str] = field(default_factory=set)
    outcomes: list[Outcome] = field(default_factory=list)


def run(sessions: Sequence[plan.Session], options: Options) -> int:
    """Run sessions one after another; return the exit code: 0 pass, 1 fail, 3 could not tell."""
    report = options.results / "tests.xml"
    report.unlink(missing_ok=True)  # of an earlier run: nobody shall take it for this one's
    begun = time.monotonic()
    try:
        for session in sessions:
            options.outcomes += _tried(session, options)
    finally:
        # What is known is written, also where the next machine cannot be made or time is over.
        _write_junit(options.outcomes, report)
    verdicts = [outcome.verdict for outcome in options.outcomes]
    counts = ", ".join(f"{verdicts.count(one)} {one}" for one in ("pass", "fail", "error"))
    minutes = (time.monotonic() - begun) / 60
    say(f"{counts} in {minutes:.0f} minutes; results in {options.results}")
    if "error" in verdicts or not verdicts:
        return 3
    return 1 if "fail" in verdicts else 0


def _tried(session: plan.Session, options: Options) -> list[Outcome]:
    """Run a session, once more where the runner breaks; that it broke stands in the first step."""
    place = options.results / f"{session.suite}-{session.name}"
    owned.remove(place)  # of an earlier run
    try:
        owned.make(place)
    except FileExistsError:
        raise UsageError(
            f"{place} is there already, and no run made it", "move it away, or name other results"
        ) from None
    broken = last = ""
    for attempt in range(1, MAX_ATTEMPTS + 1):
        folder = place / f"try-{attempt}"
        folder.mkdir()
        outcomes: list[Outcome] = []
        try:
            _session(session, options, folder, outcomes)
        except RunnerError as error:
            last = str(error)
            say(f"{session.suite} {session.name}: the runner broke: {error}")
            seen = "".join(f"{one.verdict} {one.name}: {one.message}\n" for one in outcomes)
            broken += f"try {attempt}: the runner broke: {error}\n{seen}"
        except NotInstalledError as error:
            return [_told(Outcome(_label(session), "install", "error", message=str(error)))]
        except BaseException as error:
            why = f"not done to its end: {error or type(error).__name__}"
            ended = Outcome(_label(session), "runner", "error", message=why, output=broken)
            options.outcomes += [*outcomes, ended]
            raise
        else:
            if broken:
                outcomes[0].message = "; ".join(filter(None, [outcomes[0].message, broken]))
            return outcomes
    outcome = Outcome(_label(session), "runner", "error", message=last, output=broken)
    return [_told(outcome)]


def _label(session: plan.Session) -> str:
    return f"{session.suite} {session.name}"


def _told(outcome: Outcome) -> Outcome:
    words = f"{outcome.verdict}  {outcome.session}: {outcome.name} ({outcome.seconds:.0f} s)"
    say(words + (f": {outcome.message}" if outcome.message else ""))
    return outcome


def _session(
    session: plan.Session, options: Options, folder: Path, outcomes: list[Outcome]
) -> None:
    """Run a session in a new machine. Raises `RunnerError` when that breaks."""
    image = store.get(session.suite, anew=options.anew and session.suite not in options.made)
    options.made.add(session.suite)
    with booted(image, options.processor, options.memory, folder / "console.log") as machine:
        say(f"{_label(session)}: booted in {machine.uptime:.0f} s ({options.processor})")
        prepare(machine)
        take(machine, "before", OWN + session.ignored)
        for step in session.steps:
            outcome = _step(machine, session, step, folder)
            outcomes.append(_told(outcome))
        if session.compared:
            outcomes.append(_told(_compare(machine, session, folder)))
        say(f"{_label(session)}: done after {machine.uptime:.0f} s")


def processor_for(asked: Processor) -> Processor:
    """Return the processor with its `auto` decided: KVM where this host's works and can nest."""
    if asked.accel != "auto":
        return asked
    nests = False
    for module in ("kvm_amd", "kvm_intel"):
        with contextlib.suppress(OSError):
            nested = Path(f"/sys/module/{module}/parameters/nested").read_text().strip()
            nests = nests or nested in ("1", "Y")
    if not nests:
        return dataclasses.replace(asked, accel="tcg")
    micro = images.get("micro")
    found = accel.choose(
        "auto", micro.kernel, micro.initramfs, micro.memory, images.CMDLINE,
        paths.cache() / "libvirt",
    )  # fmt: skip
    return dataclasses.replace(asked, accel=found)


@contextlib.contextmanager
def booted(image: Image, processor: Processor, memory: int, console: Path) -> Iterator[Machine]:
    """Boot a runner that has the tree under test and the guests' images at hand, to be copied."""
    images.get("micro")
    with owned.temporary(paths.cache() / "runner", ".share-") as share:
        write_bundle(share / "labctl.bundle")
        shutil.copytree(
            HERE / "inside", share / "runner", ignore=shutil.ignore_patterns("__pycache__")
        )
        # Not what somebody builds or fetches just now.
        shutil.copytree(
            cache.root() / "images", share / "images", copy_function=_link,
            ignore=shutil.ignore_patterns(".*", "*.part"),
        )  # fmt: skip
        with Machine.start(
            image, processor, memory=memory, share=share, console=console
        ) as machine:
            yield machine


def _link(source: str, target: str) -> str:
    """Give a file a second name, or copy it where the folders are on different file systems."""
    with contextlib.suppress(OSError):
        Path(target).hardlink_to(source)
        return target
    return str(shutil.copy2(source, target))


def prepare(machine: Machine) -> None:
    """Bring the tree under test into the machine, for both users."""
    machine.ok("root", "mkdir -p /mnt/share && "
               "mount -t 9p -o trans=virtio,version=9p2000.L,ro share /mnt/share", 300)  # fmt: skip
    # Copied by root: to an ordinary user the host's modes may deny it.
    machine.ok("root", f"rm -rf {INSIDE} && cp -r /mnt/share/runner {INSIDE}", 300)
    for user, home in HOMES.items():
        machine.ok("root", f"""\
set -eu
cp /mnt/share/labctl.bundle {home}/
mkdir -p {home}/.cache/labctl
cp -r /mnt/share/images {home}/.cache/labctl/
chown -R {user}:{user} {home}/labctl.bundle {home}/.cache
""", PREPARE_SECONDS)  # fmt: skip
        machine.ok(user, """\
set -eu
cd ~/labctl
git fetch --quiet ../labctl.bundle main
git reset --quiet --hard FETCH_HEAD
git clean --quiet -fdx -e .venv -e .stamps
rm ../labctl.bundle
""", PREPARE_SECONDS)  # fmt: skip
        _install(machine, user)
    # Started at boot, Debian's libvirtd ends by itself some minutes later; its sockets stay.
    machine.ok("root", "systemctl stop libvirtd.service", 300)
    machine.ok("root", "umount /mnt/share && rmdir /mnt/share", 300)
    machine.ok("root", "systemctl is-system-running --wait || systemctl --failed --no-pager", 600)


def _install(machine: Machine, user: str) -> None:
    """Install the tree under test: where that fails, another machine would not mend it."""
    try:
        done = machine.run(user, "cd ~/labctl && make install", PREPARE_SECONDS)
    except TimeoutEndedError as late:
        raise NotInstalledError(f"make install as {user}: {late}") from None
    if done.status == 255:
        raise RunnerError(f"the connection to it was lost in make install as {user}")
    if done.status != 0:
        raise NotInstalledError(f"make install as {user}: {done.output.strip()[-1000:]}")


def take(machine: Machine, name: str, ignored: Sequence[str]) -> None:
    """Take a snapshot of the whole machine, without files of such globs; kept in it."""
    words = " ".join(shlex.quote(one) for one in ignored)
    # What can be seen neither before nor after would pass for the same: nothing may be lacking.
    script = f"cd {INSIDE} && python3 -I snapshot.py take --ignore {words} --may-lack >{name}.json"
    machine.ok("root", script, PREPARE_SECONDS)


def _step(machine: Machine, session: plan.Session, step: plan.Step, folder: Path) -> Outcome:
    place = folder / step.folder
    place.mkdir()
    log = place / "output.log"
    label, name = _label(session), f"{step.user}: {step.name}"
    machine.ok(step.user, "rm -rf ~/results", 60)
    # Ended in there, too: what hangs would go on beside the next step.
    script = f"timeout --kill-after=60 {step.seconds:.0f} bash -c "
    script += shlex.quote(plan.ENTER + step.script)
    # A guest's ssh that fails makes labctl end with 255; here that means that ours did.
    script += "; status=$?; exit $((status == 255 ? 254 : status))"
    try:
        ended = machine.run(step.user, script, step.seconds + 120, log)
        if ended.status == 255:
            raise RunnerError(f"the connection to it was lost in {name}")
        verdict = VERDICTS.get(ended.status, "fail")
        message = "" if verdict == "pass" else f"exit status {ended.status}"
        if ended.seconds >= step.seconds and ended.status in TIMED_OUT:
            verdict, message = "error", f"did not end within {step.seconds:.0f} s"
        outcome = Outcome(label, name, verdict, ended.seconds, message, ended.output)
    except TimeoutEndedError as late:
        said = log.read_text(errors="replace")
        outcome = Outcome(label, name, "error", step.seconds, str(late), said)
    machine.fetch(step.user, f"{HOMES[step.user]}/results", place)
    if skips := _skips(place / "results/tests.xml"):
        outcome.message = "; ".join(filter(None, [outcome.message, skips]))
    return outcome


def _skips(file: Path) -> str:
    """Say how many tests of a JUnit file were skipped, and why; empty where none was."""
    try:
        report = JUnitXml.fromfile(str(file))
    except (OSError, SyntaxError):  # there is none, or it was cut off
        return ""
    cases = [case for suite in report for case in suite]
    why = Counter(
        one.message or "no reason" for case in cases for one in case.result
        if isinstance(one, Skipped)
    )  # fmt: skip
    reasons = ", ".join(f"{reason} ({count})" for reason, count in why.most_common())
    return f"{why.total()} of {len(cases)} tests skipped: {reasons}" if why else ""


def _compare(machine: Machine, session: plan.Session, folder: Path) -> Outcome:
    """Compare the whole machine with what it was before the first step."""
    script = (
        f"cd {INSIDE} && python3 -I snapshot.py until-same before.json "
        f"--seconds {SETTLE_SECONDS:.0f}"
    )
    try:
        ended = machine.run("root", script, PREPARE_SECONDS, folder / "compared.log")
    except TimeoutEndedError as late:
        raise RunnerError(f"the machine could not be compared: {late}") from None
    label, name = _label(session), "nothing left, nothing changed"
    if ended.status not in (0, 1):
        raise RunnerError(f"the machine could not be compared: {ended.output.strip()[-300:]}")
    verdict: Verdict = "pass" if ended.status == 0 else "fail"
    lines = ended.output.strip().splitlines()
    message = "" if ended.status == 0 else (lines[0] if lines else "it differs")
    return Outcome(label, name, verdict, ended.seconds, message, ended.output)


def _plain(text: str) -> str:
    """Return a text without what XML cannot hold, such as the colours of a guest's console."""
    return NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)


def _write_junit(outcomes: Sequence[Outcome], file: Path) -> None:
    """Write JUnit; what tests found in a runner is in files of their own beside it."""
    report = JUnitXml()
    for session in dict.fromkeys(outcome.session for outcome in outcomes):
        suite = TestSuite(session)
        for outcome in outcomes:
            if outcome.session != session:
                continue
            case = TestCase(outcome.name, f"runner.{session}", outcome.seconds)
            message, said = _plain(outcome.message), _plain(outcome.output[-OUTPUT_SHOWN:])
            if outcome.verdict != "pass":
                kind = Failure if outcome.verdict == "fail" else Error
                case.result = [kind(message)]
            case.system_out = f"{message}\n{said}" if message else said
            suite.add_testcase(case)
        report.add_testsuite(suite)
    report.update_statistics()
    file.parent.mkdir(parents=True, exist_ok=True)
    report.write(str(file), pretty=True)
