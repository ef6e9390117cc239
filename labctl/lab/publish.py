"""Ports of this host that lead to ports of guests, while the lab runs.

A relay inside the lab holds a socket that listens outside of it: so it ends with the lab, however
that ends, and no rule or link of the host's is touched. It speaks to the guest over SSH, as all
control does; the guest sees a connection from itself (127.0.0.1 or ::1).
"""

from __future__ import annotations

import errno
import os
import re
import select
import signal
import socket

from labctl import backends
from labctl.errors import HostError, UsageError
from labctl.guests import ssh
from labctl.lab import relay, state
from labctl.lab.lab import Lab
from labctl.lab.published import FOLDER, Published, running
from labctl.sandbox import agent, codec
from labctl.sandbox.deadline import Deadline
from labctl.sandbox.process import last_lines, start_as

START_SECONDS = 30.0
_END_SECONDS = 10.0
_LISTEN = re.compile(r"(?:(?P<v6>\[[0-9a-fA-F:.]+\]|[0-9.]+):)?(?P<port>[0-9]{1,5})")
_TARGET = re.compile(r"[A-Za-z0-9-]+:([0-9]{1,5})")


def publish(lab: Lab, node: str, to: int, listen: str = "") -> Published:
    """Let a port of this host lead to a guest's; the kernel chooses one where `listen` names none.

    `listen` is `PORT` or `ADDRESS:PORT`, by default of 127.0.0.1. Raises `UsageError` for words
    that are none, a port that is taken, or a lab in the host's own network.
    """
    if not lab.node(node).model.guest_kind.is_machine:
        raise UsageError(
            f"{node} is no machine: there is no management network to reach it by",
            "publish a port of a guest",
        )
    known = state.load(lab.directory)
    if not backends.of(known.uri).ends_with_sandbox:
        raise UsageError(
            "a lab with --connect has no namespaces of its own that a relay could end with",
            f"by ssh: labctl ssh-config >lab.conf; ssh -F lab.conf -L 8080:localhost:{to} {node}",
        )
    lab.check_running(node)
    address, port = _listening(listen)
    try:
        server = socket.create_server(
            (address, port), family=socket.AF_INET6 if ":" in address else socket.AF_INET
        )
    except (OSError, OverflowError) as wrong:
        number = wrong.errno if isinstance(wrong, OSError) else None
        taken = {
            errno.EADDRINUSE: "it is taken",
            errno.EACCES: "ports below 1024 take root",
            errno.EADDRNOTAVAIL: f"{address} is no address of this host",
        }
        why = taken.get(number or 0) or str(wrong)
        raise UsageError(f"{address}:{port} cannot be listened on: {why}", "name another") from None
    with server:
        made = Published(address, server.getsockname()[1], node, to)
        _start(lab, made, server)
    return made


def publish_word(lab: Lab, word: str) -> Published:
    """Publish as `[[ADDRESS:]PORT:]NODE:PORT` says; raises `UsageError` also for what is none."""
    listen, _, target = word.rpartition(":")
    listen, _, node = listen.rpartition(":")
    return publish(lab, node, port_of(f"{node}:{target}"), listen)


def port_of(target: str) -> int:
    """Return the port of `NODE:PORT`; raises `UsageError` for what is none."""
    found = _TARGET.fullmatch(target)
    if not found or not 0 < int(found[1]) < 65536:
        raise UsageError(f"{target} is not NODE:PORT", "a port is 1 to 65535; such as vm1:80")
    return int(found[1])


def _listening(listen: str) -> tuple[str, int]:
    found = _LISTEN.fullmatch(listen or "0")
    if not found or int(found["port"]) > 65535:
        raise UsageError(f"{listen} is no port to listen on", "write PORT or ADDRESS:PORT")
    return (found["v6"] or "127.0.0.1").strip("[]"), int(found["port"])


def _start(lab: Lab, made: Published, server: socket.socket) -> None:
    folder = lab.directory / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    name = f"{made.port}-{made.address.replace(':', '_')}"
    words = ssh.command(lab.directory, made.node)
    words = [*words[:-1], "-o", "LogLevel=QUIET", "-W", f"localhost:{made.to}", words[-1]]
    argv = [*lab.sandbox.python, "-m", relay.__name__, str(folder / f"{name}.pid")]
    # First, so that no relay is there which nobody can find: what has none is not listed.
    noted = folder / f"{name}.json"
    noted.write_bytes(codec.dumps(made, Published))
    child = start_as(
        lab.sandbox.words([*argv, str(server.fileno()), *words]), None, files=[server.fileno()]
    )
    assert child.stdout
    assert child.stderr
    ready = select.select([child.stdout], [], [], START_SECONDS)[0]
    if not ready or os.read(child.stdout.fileno(), len(relay.READY)) != relay.READY:
        child.kill()
        said = last_lines(child.stderr.read().decode(errors="replace"))
        noted.unlink()
        raise HostError(f"the relay of port {made.port} did not start: {said or 'no word'}")


def stop(lab: Lab, listen: str) -> list[Published]:
    """End what listens on a port, or `ADDRESS:PORT`; raises `UsageError` where nothing does."""
    found = running(lab.directory, lab.sandbox)
    ended = [(made, pid) for made, pid in found if listen in (str(made.port), made.listens)]
    if not ended:
        told = ", ".join(made.listens for made, _ in found) or "nothing"
        raise UsageError(f"lab {lab.name} publishes nothing on {listen}", f"it has: {told}")
    for made, pid in ended:
        deadline = Deadline(_END_SECONDS, f"ending the relay of port {made.port}")
        while lab.sandbox.runs(pid, relay.__name__):
            lab.sandbox.call(agent.kill, pid, signal.SIGTERM)
            deadline.pause(0.05)
    return [made for made, _ in ended]
