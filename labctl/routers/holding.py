"""A program that sets something up in a router's namespace and holds it until it is ended.

What the kernel does for the router (rules of a packet filter, programs of bpf(2)) hangs on what
this process has open, so that it ends with the process, however that ends.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pyroute2 import netns as namespaces

from labctl.sandbox import confine


def _nothing() -> None:
    """Undo nothing."""


@dataclass(frozen=True)
class Held:
    """What was set up."""

    counters: Callable[[], Mapping[str, int]] = dict
    """Tells its counters."""
    readers: Mapping[int, Callable[[], None]] = field(default_factory=dict)
    """What is to be called when a descriptor can be read."""
    undo: Callable[[], None] = _nothing
    """Takes away what does not go with this process; called at its end, and may raise `OSError`."""
    rights: tuple[int, ...] = ()
    """The capabilities that it still needs for that."""


SetUp = Callable[[Sequence[str], argparse.Namespace], Held]
"""Sets it up for interfaces, as the words of the command line say; raises `OSError`."""


def say(about: Mapping[str, object]) -> None:
    """Write one line of JSON to the standard output."""
    sys.stdout.write(json.dumps(about) + "\n")
    sys.stdout.flush()


def main(set_up: SetUp, words: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> int:
    """Run the program, whose own options are in `words`; returns its exit status.

    It writes a line with `ready` once all is set up, on SIGUSR1 one with its `counters`, and ends
    with SIGTERM.
    """
    words.add_argument("--netns", help="the named network namespace to enter")
    words.add_argument("interfaces", nargs="+", metavar="IFACE")
    asked = words.parse_args(argv)
    wake, wake_in = os.pipe()
    os.set_blocking(wake_in, False)
    signal.set_wakeup_fd(wake_in)
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who started us
    try:
        if asked.netns:
            namespaces.setns(asked.netns, flags=0)
        held = set_up(asked.interfaces, asked)
        confine.forgo(*held.rights)
    except OSError as wrong:
        sys.stderr.write(f"cannot route between {', '.join(asked.interfaces)}: {wrong}\n")
        return 1
    say({"ready": True, "pid": os.getpid(), "interfaces": asked.interfaces})
    while True:
        for fd in select.select([wake, *held.readers], [], [])[0]:
            if fd != wake:
                held.readers[fd]()
                continue
            numbers = os.read(wake, 4096)
            if signal.SIGUSR1 in numbers:
                say({"counters": dict(held.counters())})
            if signal.SIGTERM in numbers:
                held.undo()
                return 0
