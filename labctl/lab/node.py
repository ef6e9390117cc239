"""A node of a running lab: run things in it, read its counters, change its offloads."""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from labctl.errors import DeadlineError, GuestError, UsageError
from labctl.guests import console, ethtool, ssh
from labctl.guests.ssh_retry import NEVER_BEGUN, RetriedCommand, retry_until_started
from labctl.kinds import registry
from labctl.sandbox.base import Process, Sandbox
from labctl.sandbox.deadline import Deadline
from labctl.sandbox.process import LONGEST_WORDS, MOST_OUTPUT, CommandError, Result, last_lines
from labctl.topology import model
from labctl.topology.features import kernel_names

T = TypeVar("T")

COMMAND_SECONDS = 60.0
MOST_OF_A_JOB = 1 << 20
"""Bytes of each output of a command in the background, which is ended beyond."""
ASK_SECONDS = 10.0
"""How often dom0 is asked for a guest of its own while a command runs there."""


def _quoted(line: str) -> str:
    """Return a command as an error shows it: as it can be pasted, unless it is a whole program."""
    return line if len(line) <= LONGEST_WORDS else f"{' '.join(line[:LONGEST_WORDS].split())}…"


class Job:
    """A command that goes on in a guest while other things are done."""

    def __init__(
        self, node: Node, start: Callable[[], Process], output: Path, errors: Path
    ) -> None:
        """Start a command by `start`, which may be called again; `Node.start` makes one."""
        self._node = node
        self._output = output
        self._errors = errors
        self._process = RetriedCommand(start, lambda: self.begun, node.check)

    @property
    def begun(self) -> bool:
        """Whether the guest's shell has got as far as to start it."""
        return self._output.exists() and "\n" in self._output.read_text(errors="replace")

    @property
    def output(self) -> str:
        """What it has written to standard output so far."""
        return self._output.read_text(errors="replace").partition("\n")[2]

    @property
    def errors(self) -> str:
        """What it has written to standard error so far."""
        return self._errors.read_text(errors="replace")

    def poll(self) -> int | None:
        """Return its exit status, or None while it runs."""
        return self._process.poll()

    def stop(self) -> None:
        """End it in the guest, and wait until it has ended."""
        deadline = Deadline(COMMAND_SECONDS, f"ending a command in {self._node.name}")
        # Stopped right after its start, it may not have told yet what there is to kill.
        while not (pid := self._pid()) and self.poll() is None and not deadline.passed:
            deadline.pause(0.02)
        if pid and self.poll() is None:
            self._node.run(f"kill -9 {pid}", check=False)
        self._process.finish(deadline)

    def _pid(self) -> str:
        """Return its pid in the guest; empty until its shell has told it."""
        pid, end, _ = self._output.read_text(errors="replace").partition("\n")
        return pid if end and pid.isdigit() else ""

    def wait(self, deadline: Deadline) -> int:
        """Wait until it ends by itself; return its exit status."""
        while (status := self.poll()) is None:
            deadline.pause(0.02)
        self._process.finish(deadline)
        return status


class Node:
    """A node of a running lab: one can run commands in it, and turn the offloads of its NICs.

    This one is a guest, where all of that is done over SSH; a kind whose nodes are had otherwise
    names a subclass (`GuestKind.handled_by`).
    """

    def __init__(
        self, sandbox: Sandbox, directory: Path, node: model.Node, check: Callable[[bool], None]
    ) -> None:
        """Hold a node; `Lab.node` makes one.

        `check` raises `GuestError` when the guest has ended. Only when called with True does it
        ask a dom0 for it, which takes that one some work.
        """
        self._sandbox = sandbox
        self._directory = directory
        self._check = check
        self.model = node
        self.name = node.name

    @property
    def directory(self) -> Path:
        """The lab's directory on the host."""
        return self._directory

    def interface(self, name: str = "eth0") -> model.Interface:
        """Return an interface by its name in the guest; raises `UsageError` for an unknown one."""
        for interface in self.model.interfaces:
            if interface.name == name:
                return interface
        known = ", ".join(interface.name for interface in self.model.interfaces)
        raise UsageError(f"{self.name} has no interface {name}", f"it has: {known}")

    def address(self, version: int, interface: str = "eth0") -> str:
        """Return the first address of an IP version (4 or 6) on an interface.

        Raises `UsageError` when it has none.
        """
        for address in self.interface(interface).addresses:
            if address.version == version:
                return str(address.ip)
        raise UsageError(f"{self.name}'s {interface} has no IPv{version} address")

    def check(self) -> None:
        """Raise `GuestError` when the machine it runs on, its own or its Xen host, has ended."""
        self._check(False)

    def ssh_argv(self, *, shared: bool = True) -> list[str]:
        """Return the words that, run inside the sandbox, start a shell or command in the guest."""
        return ssh.command(self._directory, self.name, shared=shared)

    @property
    def serves_ssh(self) -> bool:
        """Whether an SSH server is meant to serve the other nodes; else that is no finding."""
        return self.model.is_configured

    def words(self, line: str, *, shared: bool = True) -> list[str]:
        """Return the words that, run inside the sandbox, let a shell in the node read a line.

        Not `shared`, they have a connection of their own, where there is one.
        """
        end = ["--"] if line.startswith("-") else []  # else ssh(1) takes it for an option
        return [*self.ssh_argv(shared=shared), *end, line]

    def session(self, command: Sequence[str] = ()) -> list[str]:
        """Return the words that open a shell on this terminal, or let it read a command's.

        The words of a command are joined by spaces, as ssh(1) does.
        """
        return [*self.ssh_argv(shared=False), *command]

    def _is_unreached(self, status: int) -> bool:
        """Tell by an exit status that the way to the node failed, not a command that began."""
        return status == NEVER_BEGUN

    def run(
        self,
        command: str | Sequence[str],
        *,
        timeout: float = COMMAND_SECONDS,
        check: bool = True,
        stdin: bytes = b"",
    ) -> Result:
        """Run a command in the guest over the management network.

        A string is a line for its shell; a sequence is a program and its words. Raises
        `CommandError` when it exits with other than 0 and `check` is set, `GuestError` when the
        guest cannot be reached, ends meanwhile or says without end, `DeadlineError` after `timeout`
        seconds.
        """
        line = command if isinstance(command, str) else shlex.join(command)
        shown = " ".join(line[:120].split())[:60]
        deadline = Deadline(timeout, f"`{shown}` in {self.name}")
        result, begun = retry_until_started(
            lambda text: self._go(self.words(text), deadline, stdin), line
        )
        if result.cut:
            raise GuestError(
                f"{self.name} said more than {MOST_OUTPUT >> 20} MiB to `{shown}`",
                "let the command write to a file in the guest",
            )
        if not begun and self._is_unreached(result.status):  # not the command's trouble
            self._check(True)
            raise GuestError(
                f"{self.name} cannot be reached: {last_lines(result.stderr) or 'no answer'}",
                f"read its console: labctl logs {self.name}"
                if self.model.guest_kind.is_machine
                else "run: labctl status",
            )
        if check and not result.ok:
            words = last_lines(result.stderr or result.stdout)
            told = f"`{_quoted(line)}` in {self.name} exited with {result.status}"
            raise CommandError(f"{told}: {words}" if words else told)
        return result

    def ask(
        self, command: str | Sequence[str], parse: Callable[[str], T], *, check: bool = True
    ) -> T:
        """Run a command in the guest and return what `parse` makes of what it printed.

        Whoever wrote the program that answers: what cannot be understood raises `GuestError` with
        the guest's name. Raises as `run` does besides.
        """
        text = self.run(command, check=check).stdout
        try:
            return parse(text)
        except GuestError as odd:
            raise GuestError(f"{self.name}: {odd.message}", odd.hint) from None
        except (ValueError, LookupError):
            line = command if isinstance(command, str) else shlex.join(command)
            raise GuestError(
                f"{self.name} answered `{_quoted(line)}` with what makes no sense: "
                f"{last_lines(text, 1) or 'nothing'}"
            ) from None

    def _go(self, argv: Sequence[str], deadline: Deadline, stdin: bytes) -> Result:
        """Run ssh for as long as there is a guest: TCP would wait for minutes on a dead one."""
        # Whether its link is lost is soon told, but a dom0 has enough to do.
        ask_at = time.monotonic() + (ASK_SECONDS if self.model.guest_kind.home else 0)

        def watch() -> None:
            nonlocal ask_at
            ask = time.monotonic() > ask_at
            self._check(ask)
            if ask:
                ask_at = time.monotonic() + ASK_SECONDS

        agent = self._sandbox.agent()
        try:
            return agent.run(argv, deadline, stdin=stdin, check=False, watch=watch)
        except DeadlineError:
            self._check(True)
            raise

    def start(self, command: str) -> Job:
        """Start a command in the guest's shell and return at once."""
        folder = self._directory / "jobs"
        folder.mkdir(mode=0o700, exist_ok=True)
        base = folder / f"{self.name}-{time.monotonic_ns()}"
        output, errors = base.with_suffix(".out"), base.with_suffix(".err")
        # The shell tells its pid first: without a terminal nothing else would end the command.
        argv = self.words(f"echo $$; exec {command}")

        def start() -> Process:
            agent = self._sandbox.agent()
            return Process.start(agent, argv, stdout=output, stderr=errors, limit=MOST_OF_A_JOB)

        return Job(self, start, output, errors)

    def console(self, lines: int = 12) -> str:
        """Return the last lines of the guest's console."""
        return console.tail(self._directory / "console" / f"{self.name}.log", lines)

    def features(self, interface: str = "eth0") -> dict[str, ethtool.Feature]:
        """Return the offload features of an interface as the guest's kernel has them."""
        name = self.interface(interface).name
        return self.ask(self._ethtool("-k", name), ethtool.parse_features)

    @property
    def offloads_untold(self) -> str:
        """Why the offloads of its interfaces cannot be told; empty where they can."""
        tools = self.model.tools
        if tools is None or {"ethtool", "python3", "perl"}.intersection(tools.programs):
            return ""
        return "it has neither ethtool, python3 nor perl"

    def _ethtool(self, *words: str) -> Sequence[str]:
        """Return the words of ethtool(8), or of what stands in for it where there is none.

        Raises `GuestError` for a guest that has neither.
        """
        tools = self.model.tools
        if tools is None or "ethtool" in tools.programs:
            return ("ethtool", *words)
        if why := self.offloads_untold:
            raise GuestError(
                f"the offloads of {self.name} cannot be told: {why}",
                "install one of them in its image",
            )
        return ethtool.stand_in_words(self.model.scripting, *words)

    def device(self, interface: str = "eth0") -> dict[str, bool]:
        """Return the negotiated virtio feature bits of an interface; empty where not virtio."""
        found = self.interface(interface)
        if not registry.nic(found.model).device_features:
            return {}
        text = self.run(f"cat /sys/class/net/{found.name}/device/features").stdout
        return ethtool.parse_device(text)

    def set_features(
        self, wanted: Mapping[str, bool], interface: str = "eth0"
    ) -> dict[str, ethtool.Feature]:
        """Set offload features by ethtool's names; return all of them as they were before.

        What took effect must be read back: a driver may refuse without an error.
        """
        before = self.features(interface)
        words = [word for name, on in wanted.items() for word in (name, "on" if on else "off")]
        self.run(self._ethtool("-K", self.interface(interface).name, *words))
        return before

    def restore_features(
        self, before: Mapping[str, ethtool.Feature], interface: str = "eth0"
    ) -> None:
        """Put back what `set_features` returned, and check that it is so.

        Raises `GuestError` naming what could not be put back.
        """
        now = self.features(interface)
        words = [
            word
            for name, feature in before.items()
            # One by one: setting a group back would turn on members that were off.
            if len(kernel_names(name)) == 1 and name in now and now[name] != feature
            for word in (name, "on" if feature.requested else "off")
        ]
        if words:
            self.run(self._ethtool("-K", self.interface(interface).name, *words), check=False)
            now = self.features(interface)
        wrong = [name for name in before if now.get(name) != before[name]]
        if wrong:
            raise GuestError(f"{self.name} did not take back its earlier {', '.join(wrong)}")

    @contextlib.contextmanager
    def offload(
        self, wanted: Mapping[str, bool], interface: str = "eth0"
    ) -> Iterator[dict[str, ethtool.Feature]]:
        """Set offload features for the length of a `with` block; gives the features in effect."""
        before = self.set_features(wanted, interface)
        try:
            yield self.features(interface)
        finally:
            self.restore_features(before, interface)
