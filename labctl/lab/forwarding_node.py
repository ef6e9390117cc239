"""Nodes that are routers: what forwards in them, with the questions that a router is asked.

All of it goes over the way on which commands run in a node. A kind's program runs in the guest by
the guest's own Python, with this labctl's code, as in a dom0 (`labctl.backends.dom0`).
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from labctl.capture import counters
from labctl.errors import GuestError, HostError
from labctl.kinds import forwarders, registry
from labctl.kinds.base import ForwarderKind, Option
from labctl.lab.forwarding import Forwarding
from labctl.lab.node import Node
from labctl.routers import programs
from labctl.sandbox import codec, jsontext
from labctl.sandbox.deadline import Deadline
from labctl.sandbox.process import Result, last_lines

SYSCTLS = ("/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding")
"""Whether a kernel forwards, of each IP version (Documentation/networking/ip-sysctl.rst)."""
FOLDER = "/run/labctl"
"""In the guest: a program's code and what it says."""
START_SECONDS = 300.0
"""Under emulation, on a busy machine, Python takes its time; this only catches the dead."""
LOOK_SECONDS = 0.2


class Forwarder(Protocol):
    """What forwards packets at a place of a path: a router of the lab, or a node that is one."""

    @property
    def kind(self) -> str | None:
        """The name of what forwards now (`labctl.kinds.forwarders`); None while nothing does."""
        ...

    def set_kind(self, kind: str, options: Mapping[str, Option] | None = None) -> None:
        """Let this kind of forwarding take over."""
        ...

    def stop(self) -> None:
        """Let nothing forward any more."""
        ...

    def forwards(self) -> bool:
        """Tell whether anything forwards."""
        ...

    def counters(self) -> dict[str, int]:
        """Return the counters of what forwards."""
        ...


class ForwardingNode(Forwarding):
    """A node that forwards: its kernel, on the settings of every Linux router, or a program."""

    def __init__(self, node: Node) -> None:
        """Hold a node."""
        self._node = node
        self.name = node.name
        folder = node.directory / "routers"
        folder.mkdir(mode=0o700, exist_ok=True)
        self._kind = folder / f"{node.name}.kind"
        self._options = folder / f"{node.name}.options"
        # Not as a router's is called: the number is one in the guest.
        self._program = folder / f"{node.name}.guest-pid"

    @property
    def kind(self) -> str | None:
        """What forwards now; None while nothing does. Raises as `Node.run` does."""
        kind = self._noted()
        program = programs.noted(self._program)
        return None if program and not self._runs(program) else kind

    def _noted(self) -> str:
        return self._kind.read_text() if self._kind.exists() else forwarders.DEFAULT

    def set_kind(self, kind: str, options: Mapping[str, Option] | None = None) -> None:
        """Let this kind of forwarding take over; what forwarded before is ended first.

        Without `options` the topology's are taken, where it has this kind there. Raises
        `HostError` for a kind that does not run in guests, `GuestError` where its program does not
        start, else as `Node.run` does.
        """
        wanted, node = registry.forwarder(kind), self._node.model
        if not wanted.in_guests:
            raise HostError(
                f"the kind {kind} does not run in guests, as {self.name} is one",
                "put a router of that kind below routers: in the topology",
            )
        if options is None:
            options = node.forwarder_options if kind == node.forwarder else {}
        self._take_over(kind, options)

    def stop(self) -> None:
        """Let nothing forward any more; raises as `Node.run` does."""
        self._stop(registry.FORWARDERS.find(self._noted()))

    def _stop(self, kind: ForwarderKind | None) -> None:
        try:
            if kind:
                kind.stop(self)
        finally:
            self.set_kernel_forwarding(False)
            if program := programs.noted(self._program):
                deadline = Deadline(START_SECONDS, f"ending the router program of {self.name}")
                while self._runs(program):
                    self._node.run(f"kill {program.pid}", check=False)
                    deadline.pause(LOOK_SECONDS)
            for note in (self._program, self._options, self._kind):
                note.unlink(missing_ok=True)

    def counters(self) -> dict[str, int]:
        """Return the counters of what forwards; empty while nothing does.

        Raises `GuestError` for what nothing of labctl's or the kernel's says.
        """
        kind = self.kind
        return {} if kind is None else registry.forwarder(kind).count(self)

    # --- what a kind has of it (`labctl.kinds.base.RunningRouter`) --------------------------

    def run(self, argv: Sequence[str]) -> Result:
        """Run a program in the node and wait for it."""
        return self._node.run(list(argv))

    def set_kernel_forwarding(self, on: bool) -> None:
        """Let the node's kernel forward IPv4 and IPv6, or not; raises as `Node.run` does."""
        self._node.run("; ".join(f"[ ! -e {one} ] || echo {int(on)} >{one}" for one in SYSCTLS))

    def kernel_forwards(self) -> bool:
        """Tell whether the node's kernel forwards both; raises as `Node.run` does."""
        said = self._node.run(f"cat {' '.join(SYSCTLS)} 2>/dev/null || true").stdout.split()
        return bool(said) and all(word != "0" for word in said)

    def set_outer_feature(self, feature: str, on: bool) -> None:  # noqa: ARG002
        """Refuse: the other ends of a guest's interfaces are no links of a router's."""
        raise HostError(f"{feature} of {self.name}'s outer ends is not for a kind to set")

    def kernel_counters(self) -> dict[str, int]:
        """Return the kernel's counters; raises `GuestError` for what no kernel says."""
        said = self._node.run(counters.COUNTERS_COMMAND).stdout
        try:
            return counters.parse_counters(said)
        except counters.CountersError as odd:
            raise GuestError(f"{self.name}: {odd.message}", odd.hint) from None

    def start_program(self, program: str | Path, *options: str) -> None:
        """Start a kind's program in the guest and wait until it forwards.

        Raises `GuestError` where the guest has no Python, or the program does not start.
        """
        if isinstance(program, Path):
            raise HostError(
                f"the router program {program} is not in {self.name}",
                "only modules of labctl's run in guests; put the router into the lab itself",
            )
        self._give_code()
        words = ["env", f"PYTHONPATH={FOLDER}/code", "python3", "-P", "-m", program, *options]
        words += [one.name for one in self._node.model.interfaces]
        out, err = f"{FOLDER}/router.out", f"{FOLDER}/router.err"
        pid = self._node.ask(
            f"cd /; setsid {shlex.join(words)} </dev/null >{out} 2>{err} & echo $!", int
        )
        self._program.write_text(f"{pid} {program}")
        # One command that waits: to ask over and over would take the guest's CPU from the program.
        line = (
            f"until read -r said <{out}; do kill -0 {pid} || {{ cat {err} >&2; exit 1; }}; "
            f'sleep {LOOK_SECONDS}; done; echo "$said"'
        )
        said = self._node.run(line, timeout=START_SECONDS, check=False)
        if not said.ok or '"ready"' not in said.stdout:
            why = last_lines(said.stderr or said.stdout) or "without a word"
            raise GuestError(f"the router program of {self.name} ended: {why}")

    def _give_code(self) -> None:
        """Put this labctl's code into the guest, once."""
        there = f"{FOLDER}/code/complete"
        asked = self._node.run(
            f"command -v python3 >/dev/null || echo none; ls {there}", check=False
        )
        if "none" in asked.stdout.split():
            raise GuestError(
                f"{self.name} has no python3, by which a router's program runs",
                "write image: router, or an image of your own with Python 3.11 or later",
            )
        if there in asked.stdout:
            return
        from labctl.backends.dom0 import packed  # here: most routers are no programs in a guest

        code = f"{FOLDER}/code"
        line = f"umask 077; mkdir -p {code} && tar -xzf - -C {code} && touch {there}"
        self._node.run(line, stdin=packed(), timeout=START_SECONDS)

    def _runs(self, program: programs.Program) -> bool:
        words = shlex.quote(program.module)
        line = f"tr '\\0' ' ' </proc/{program.pid}/cmdline | grep -qF -- {words}"
        return self._node.run(f"{line} && echo runs", check=False).stdout.strip() == "runs"

    def program_counters(self) -> dict[str, int]:
        """Return the counters that the kind's program tells."""
        program = programs.noted(self._program)
        if program is None:
            raise HostError(f"no router program was started for {self.name}")
        out = f"{FOLDER}/router.out"
        line = (
            f"n=$(wc -l <{out}); kill -USR1 {program.pid} || exit 1; "
            f'until [ "$(wc -l <{out})" -gt "$n" ]; do sleep {LOOK_SECONDS}; done; '
            f"tail -n 1 {out} | cut -c 1-10000"
        )
        said = self._node.run(line, timeout=START_SECONDS).stdout
        try:
            told = dict(jsontext.parse(said.encode()))["counters"]
            counted: dict[str, int] = codec.read(told, dict[str, int])
        except (jsontext.CodecError, KeyError, TypeError, ValueError):
            raise GuestError(
                f"the router program of {self.name} told no counters: {last_lines(said)[:100]}"
            ) from None
        return counted
