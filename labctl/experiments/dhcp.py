"""DHCP between two nodes: dnsmasq(8) in one, busybox's udhcpc in the other, over packet sockets.

A DHCP client without an address reads answers by a packet socket, and looks at their UDP checksum
itself. That one is unfinished it can tell by the status word alone (packet(7),
TP_STATUS_CSUMNOTREADY, which udhcpc asks for); where the metadata was lost on the way it takes the
answer for damaged.
"""

from __future__ import annotations

import shlex
import shutil
from ipaddress import IPv4Interface

from labctl.experiments.probes import Answer
from labctl.lab.lab import Lab
from labctl.sandbox import process
from labctl.sandbox.deadline import Deadline
from labctl.sandbox.process import last_lines

SERVER, PACKAGE = "dnsmasq", "dnsmasq-base"
SECONDS = 60.0
READY = "sockets bound"
"""What dnsmasq says once it would answer."""
FIRST, LAST = 100, 110
"""Of the addresses that it hands out, counted from that of its network."""


def missing() -> str:
    """Say what this machine lacks for it; empty for nothing."""
    found = shutil.which(SERVER, path=process.ENVIRONMENT["PATH"])
    return "" if found else f"{SERVER} is not installed (Debian's package {PACKAGE})"


def lease(lab: Lab, client: str, server: str, interface: str = "eth0") -> Answer:
    """Ask for an address; works when a lease is offered and taken, which changes nothing.

    The server is a node whose interface has an IPv4 address, and which sees this machine's
    programs: a namespace. An answer of None could not tell. Raises `DeadlineError` where the server
    does not begin.
    """
    if lacks := missing():
        return Answer(None, lacks)
    asking, serving = lab.node(client), lab.node(server)
    port = next(one for one in lab.topology.nodes[server].interfaces if one.name == interface)
    own = next(one for one in port.addresses if isinstance(one, IPv4Interface))
    network = own.network.network_address
    words = [
        SERVER, "--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--port=0",
        f"--interface={interface}", "--bind-interfaces", "--no-ping", "--log-facility=-",
        f"--dhcp-range={network + FIRST},{network + LAST},5m", "--dhcp-leasefile=/tmp/leases",
        "--pid-file=",
    ]  # fmt: skip
    job = serving.start(shlex.join(words))
    deadline = Deadline(SECONDS, f"starting {SERVER} in {server}")
    try:
        while READY not in job.errors:
            if job.poll() is not None:
                why = last_lines(job.errors, 1) or "it said nothing"
                return Answer(None, f"{SERVER} ended: {why}")
            deadline.pause(0.02)
        ask = ["busybox", "udhcpc", "-i", interface, "-n", "-q", "-f", "-t", "3", "-T", "3"]
        result = asking.run([*ask, "-s", "/bin/true"], check=False)
        said = result.stdout + result.stderr
        if "lease of" in said:
            return Answer(True, "a lease")
        offered = "DHCPOFFER" in job.errors
        if "no lease" in said and offered:
            return Answer(False, "no lease, although one was offered")
        return Answer(None, f"udhcpc said: {last_lines(said, 1)}")
    finally:
        job.stop()
