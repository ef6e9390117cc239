"""`python -m tests.runner`: a machine like the users', and labctl in it under a real KVM.

shell [-- COMMAND]   a shell, or a command, in a runner (`make runner`)
kvm [-- COMMAND]     labctl's own steps, or a command, as both users (`make kvm`)
soak                 how long a runner holds (docs/runner.md)
"""

from __future__ import annotations

import argparse
import dataclasses
import signal
import subprocess
import sys
import traceback
from fnmatch import fnmatchcase
from pathlib import Path

from labctl.errors import LabctlError
from labctl.sandbox import owned, paths

from . import plan, sessions, soak, store
from .image import CHECKOUT, HOMES, SUITES, USER, say
from .machine import Processor, RunnerError

DEFAULT = Processor()


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.runner", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    verbs = parser.add_subparsers(dest="verb", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--suite", choices=SUITES, help="the Debian (shell: bookworm; kvm: all)")
    common.add_argument("--accel", choices=("auto", "tcg", "kvm"), default="auto",
                        help="the runner's own; auto: kvm where the host's can nest")  # fmt: skip
    common.add_argument("--cpu", default=DEFAULT.model, help=f"TCG's CPU ({DEFAULT.model})")
    common.add_argument("--vcpus", type=int, default=DEFAULT.vcpus)
    common.add_argument("--thread", choices=("multi", "single"), default=DEFAULT.thread)
    common.add_argument("--memory", type=int, default=sessions.MEMORY_MIB, help="MiB")
    common.add_argument("--anew", action="store_true", help="build the machine anew")
    common.add_argument("--results", type=Path, default=CHECKOUT / "build/kvm", metavar="DIR")

    shell = verbs.add_parser("shell", parents=[common], help="a shell or a command in a runner")
    shell.add_argument("--user", choices=tuple(HOMES), default=USER)
    shell.add_argument("command", nargs="*", help="after --")
    kvm = verbs.add_parser("kvm", parents=[common], help="labctl under KVM, by both users")
    kvm.add_argument("--profile", choices=tuple(plan.PROFILES), default="whole")
    kvm.add_argument("--user", choices=tuple(HOMES), help="only this one")
    kvm.add_argument("--only", default="*", metavar="GLOB", help="only sessions of such a name")
    kvm.add_argument("command", nargs="*", help="after --: run this instead")
    soaked = verbs.add_parser("soak", parents=[common], help="how long a runner holds")
    soaked.add_argument("--minutes", type=float, default=60.0)
    return parser


def main(words: list[str]) -> int:
    """Do what the words say; return the exit code: 0, 1 (a step failed), 3 (could not tell)."""
    given = _options().parse_args(words)
    # As for Ctrl-C: what is up is taken down on the way out.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    processor = Processor(given.accel, given.cpu, given.vcpus, given.thread)
    try:
        processor = sessions.processor_for(processor)
        options = sessions.Options(processor, given.results, given.memory, given.anew)
        if given.verb == "shell":
            return _shell(given, options)
        if given.verb == "soak":
            return soak.run(given.suite or SUITES[0], options, given.minutes * 60)
        return sessions.run(_sessions(given), options)
    except RunnerError as error:
        say(f"the runner broke: {error}")
    except LabctlError as error:
        say(f"{error}; {error.hint}")
    except subprocess.CalledProcessError as error:
        say(f"{error.cmd[0]} failed with {error.returncode}: its words are above")
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    except Exception:
        # Python's own status would be that of a step that failed.
        traceback.print_exc()
    return 3


def _sessions(given: argparse.Namespace) -> list[plan.Session]:
    suites = [given.suite] if given.suite else list(SUITES)
    users = [given.user] if given.user else list(HOMES)
    if given.command:
        steps = tuple(plan.command(user, given.command) for user in users)
        return [plan.Session("command", suite, steps) for suite in suites]
    chosen = []
    for session in plan.PROFILES[given.profile]():
        steps = tuple(step for step in session.steps if step.user in users)
        if steps and session.suite in suites and fnmatchcase(session.name, given.only):
            chosen.append(dataclasses.replace(session, steps=steps))
    return chosen


def _shell(given: argparse.Namespace, options: sessions.Options) -> int:
    image = store.get(given.suite or SUITES[0], anew=options.anew)
    with owned.temporary(paths.cache() / "runner", ".console-") as folder:
        say(f"booting ({options.processor}): about a minute under TCG")
        console = folder / "console.log"
        with sessions.booted(image, options.processor, options.memory, console) as machine:
            sessions.prepare(machine)
            return machine.interact(given.user, given.command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
