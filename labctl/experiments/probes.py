"""Probes: traffic between two nodes through the network under test, judged by evidence.

All take the same: the lab, the node that sends, and the destination, which is the name of a node or
router or an address that one of them has. For a name, `version` and `interface` choose the address.

Whether something failed is never decided by patience alone. SSH that is going to hang is recognised
by the receivers' checksum counters, a lost ping by a counter or by an ICMP error that came back;
where neither success nor a cause is seen, the answer is that it could not be told. Nor does a probe
that did not run accuse the network: what was asked for wrongly raises `UsageError`, a lab that does
not answer another `LabctlError`, and a program that a guest lacks is a *could not tell*.
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from labctl.capture import counters as kernel_counters
from labctl.errors import UsageError
from labctl.experiments.endpoints import check_port, resolve
from labctl.guests import scripts
from labctl.lab.lab import Lab
from labctl.lab.node import Job, Node
from labctl.lab.watch import counters
from labctl.sandbox.deadline import Deadline
from labctl.sandbox.process import Result, last_lines

SSH_PORT = 22
SSH_SECONDS = 90.0
"""For one command over SSH between two busy emulated guests; a hang is told in about a second."""
LOOK_SECONDS = 0.1
HANGS = "hangs"
NO_CAUSE = "no cause seen"
BROKE = "the connection broke"
_IMPATIENT = re.compile(r"timed? ?out", re.IGNORECASE)
"""What an SSH client says that gave up waiting."""
_ANSWERED = re.compile(
    r"refused|no route to host|unreachable|permission denied|no auth methods|authentication"
    r"|host key",
    re.IGNORECASE,
)
"""What an SSH client says that got a no for an answer, which it would get again. Anything else, as
a connection that was closed or reset, may be a busy server's doing and accuses no network."""
ATTEMPTS = 3
"""Times that SSH is tried which broke for no cause that was seen."""
MIN_CSUM_ERRORS = 2
"""Checksum errors that make a hang: the packet and its retransmission died of the same cause."""
NOT_RUN = (126, 127)
"""What a shell exits with for a program that cannot be run, or that is not there (POSIX, XCU
2.8.2)."""


@dataclass(frozen=True)
class Answer:
    """What a probe found."""

    works: bool | None
    """None: it could not be told."""
    text: str
    """One line, for a reader."""
    errors: dict[str, dict[str, int]] = field(default_factory=dict)
    """By how much each node's checksum error counters grew meanwhile."""
    attempts: tuple[str, ...] = ()
    """What came of the attempts before this one, which told nothing."""

    @property
    def hangs(self) -> bool:
        """Whether it waits for an answer that cannot come, rather than having got a no."""
        return self.works is False and self.text.startswith(HANGS)

    def grown(self, node: str, counter: str) -> int:
        """Return by how much a node's counter grew."""
        return self.errors.get(node, {}).get(counter, 0)


PING_SECONDS = 0.2
"""From one echo request to the next: the least that iputils' ping grants an ordinary user."""
_ICMP = {4: "Icmp", 6: "Icmp6"}
"""How the kernel's names of ICMP counters begin, by IP version."""
_REFUSALS = ("InDestUnreachs", "InTimeExcds", "InPktTooBigs")
"""Counters of ICMP errors that say that something sent cannot arrive. Busybox's ping is silent
about those that it gets, so the kernel is asked (net/ipv4/proc.c, net/ipv6/proc.c)."""
_REFUSED = re.compile(r"unreachable|no route to host|prohibited|exceeded|too big", re.IGNORECASE)
"""What ping says where its kernel has no route, and iputils' ping of ICMP errors that it gets."""


def ping(
    lab: Lab,
    source: str,
    destination: str,
    *,
    version: int = 4,
    interface: str | None = None,
    count: int = 2,
) -> Answer:
    """Send `count` ICMP echo requests; works when every one is answered.

    It does not when one is missing and a cause is seen: a checksum error of ICMP that either end
    counted, or an ICMP error that came back to the source. A missing answer alone may be a late
    one, so it tells nothing. Raises `UsageError` for ends that there are not.
    """
    if count < 1:
        raise UsageError(f"{count} echo requests tell nothing", "send 1 or more")
    ends = resolve(lab, source, destination, version, interface)
    client = ends.client
    asked = ends.server is not None and not ends.server.model.console_only
    both = [client, ends.server] if asked and ends.server else [client]
    before = {node.name: counters(node) for node in both}
    command = f"ping -c {count} -i {PING_SECONDS} -W 10 {ends.address}"
    result = client.run(command, check=False)
    after = {node.name: counters(node) for node in both}
    errors = {name: kernel_counters.grown(before[name], after[name]) for name in after}
    if result.status in NOT_RUN:
        return Answer(None, _not_run(client, "ping", result), errors)
    said = [line for line in (result.stdout + result.stderr).splitlines() if line.strip()]
    refusal = next((line.strip()[:120] for line in said if _REFUSED.search(line)), "")
    match = re.search(
        r"(?<!\d)(\d{1,9}) packets transmitted, (\d{1,9}) (?:packets )?received", result.stdout
    )
    if not match:
        return Answer(False if refusal else None, f"ping said: {refusal or _last(said)}", errors)
    sent, received = int(match[1]), int(match[2])
    text = f"{received} of {sent} answered"
    if received == sent:
        return Answer(True, text, errors)
    family = _ICMP[ends.version]
    damage = [f"{family}InCsumErrors"]
    refusals = [family + name for name in _REFUSALS]
    causes = [
        f"{name} counted {grown} {counter}"
        for name in after
        for counter, grown in kernel_counters.grown(
            before[name], after[name], damage + (refusals if name == source else [])
        ).items()
    ]
    if refusal:
        causes.append(refusal)
    return Answer(False if causes else None, f"{text}: {', '.join(causes) or NO_CAUSE}", errors)


def _not_run(node: Node, program: str, result: Result) -> str:
    """Say that a guest has not got what a probe needs."""
    return f"{node.name} did not run {program}: {last_lines(result.stderr, 1) or result.status}"


def _last(lines: Sequence[str]) -> str:
    return lines[-1].strip()[:120] if lines else "nothing"


def ssh(
    lab: Lab,
    source: str,
    destination: str,
    *,
    version: int = 4,
    interface: str | None = None,
    port: int = SSH_PORT,
) -> Answer:
    """Run a command in the destination by SSH from the source: over the network's way.

    It works when the command's output comes back. It does not when the client got a no for an
    answer, or when a receiver counts `SIGNS` checksum errors while it waits: a retransmission is
    summed as the first transmission was, so it cannot fare better. A client that gave up waiting
    tells nothing. One whose connection broke is started again, at most `ATTEMPTS` times in all:
    where each broke and no receiver counted a cause, it could not be told.
    Raises `UsageError` for ends that there are not, a router as the destination, or no port.

    The server is left with `tcp_synack_retries` 0: by its default it would go on answering the
    client of a hang for a minute, and each of these answers would count in what is measured next.
    A lost answer is still sent again when the client asks again.
    """
    check_port(port)
    ends = resolve(lab, source, destination, version, interface)
    client, server = ends.client, ends.guest("SSH server")
    if not server.model.is_configured:
        return Answer(
            None, f"{server.name} does not know the keys of others: labctl did not set it up"
        )
    if not server.serves_ssh:
        return Answer(None, f"{server.name} has no SSH server: this host lacks sshd and dropbear")
    server.run("echo 0 >/proc/sys/net/ipv4/tcp_synack_retries")
    before = {node.name: counters(node) for node in (client, server)}
    deadline = Deadline(SSH_SECONDS, f"SSH from {source} to {server.name}")
    where = "" if port == SSH_PORT else f"-p {port} "
    command = f"ssh {where}root@{ends.address} hostname"
    broken: list[str] = []
    while True:
        answer = _ssh(client, server, command, before, deadline)
        if answer.works is not None or not answer.text.startswith(BROKE):
            break
        broken.append(answer.text)
        if len(broken) == ATTEMPTS or deadline.passed:
            text = f"{answer.text} ({len(broken)} times, {NO_CAUSE})"
            return Answer(None, text, answer.errors, tuple(broken[:-1]))
    if not broken:
        return answer
    tries = f"at attempt {len(broken) + 1}, before: {'; '.join(broken)}"
    return Answer(answer.works, f"{answer.text} ({tries})", answer.errors, tuple(broken))


def _ssh(
    client: Node,
    server: Node,
    command: str,
    before: Mapping[str, Mapping[str, int]],
    deadline: Deadline,
) -> Answer:
    """Try SSH once; an answer that begins with `BROKE` says nothing of the network."""
    job = client.start(command)
    try:
        while not deadline.passed:
            status = job.poll()
            errors = _growth(before, client, server)
            if status == 0:
                said = job.output.strip()
                right = said == server.name
                return Answer(right, "works" if right else f"reached {said[:80]!r}", errors)
            why = ""
            if status is not None:
                why = last_lines(job.errors, 1) or f"exit status {status}"
                # The way to run anything there failed, or the client: not the way under test.
                if not job.begun or status in NOT_RUN:
                    return Answer(None, f"{client.name} did not run the client: {why}", errors)
                if _ANSWERED.search(why) and not _IMPATIENT.search(why):
                    return Answer(False, why, errors)
            blamed = [
                f"{name} counted {grown['TcpInCsumErrors']} TCP checksum errors"
                for name, grown in errors.items()
                if grown.get("TcpInCsumErrors", 0) >= MIN_CSUM_ERRORS
            ]
            if blamed and (status is not None or job.poll() is None):
                return Answer(False, f"{HANGS}: {', '.join(blamed)}", errors)
            if status is not None and _IMPATIENT.search(why):
                return Answer(None, f"the client gave up, {NO_CAUSE}: {why}", errors)
            if status is not None:
                return Answer(None, f"{BROKE}: {why}", errors)
            time.sleep(LOOK_SECONDS)
    finally:
        job.stop()
    return Answer(None, f"no answer and no cause seen in {SSH_SECONDS:g} s")


def _wait_listening(program: Job, what: str, deadline: Deadline) -> Answer | None:
    """Wait until a program says that it listens; return the answer where it ended instead."""
    while "listening" not in program.output:
        if program.poll() is not None:
            why = last_lines(program.errors, 1) or "it said nothing"
            return Answer(None, f"{what} ended: {why}")
        deadline.pause(0.02)
    return None


def _growth(before: Mapping[str, Mapping[str, int]], *nodes: Node) -> dict[str, dict[str, int]]:
    return {node.name: kernel_counters.grown(before[node.name], counters(node)) for node in nodes}


_TCP_SERVER = """
use strict; use Socket qw(:all);
my ($family, $port, $name) = @ARGV;
socket(my $s, $family == 4 ? PF_INET : PF_INET6, SOCK_STREAM, 0) or die "socket: $!";
setsockopt($s, SOL_SOCKET, SO_REUSEADDR, 1);
bind($s, $family == 4 ? pack_sockaddr_in($port, INADDR_ANY) : pack_sockaddr_in6($port, IN6ADDR_ANY))
  or die "bind: $!";
listen($s, 8) or die "listen: $!";
$| = 1; print "listening\n";
while (accept(my $c, $s)) { syswrite($c, "$name\n"); close $c }
"""

_TCP_CLIENT = """
use strict; use Socket qw(:all);
my ($family, $address, $port) = @ARGV;
socket(my $s, $family == 4 ? PF_INET : PF_INET6, SOCK_STREAM, 0) or die "socket: $!";
my $to = $family == 4 ? pack_sockaddr_in($port, inet_aton($address))
  : pack_sockaddr_in6($port, inet_pton(AF_INET6, $address));
connect($s, $to) or die "connect: $!\n";
my $said = ''; while (sysread($s, my $data, 4096)) { $said .= $data }
print $said;
"""


_TCP_GREETED = """
use strict; use Socket qw(:all);
my ($family, $address, $port, $name) = @ARGV;
socket(my $s, $family == 4 ? PF_INET : PF_INET6, SOCK_STREAM, 0) or die "socket: $!";
my $to = $family == 4 ? pack_sockaddr_in($port, inet_aton($address))
  : pack_sockaddr_in6($port, inet_pton(AF_INET6, $address));
connect($s, $to) or die "connect: $!\n";
my $bits = ''; vec($bits, fileno($s), 1) = 1;
select($bits, undef, undef, 5);
print "$name\n";
"""
"""Says the name when the connection is there, after what a server may say first."""
_IN_USE = re.compile("in use")


def tcp(
    lab: Lab,
    source: str,
    destination: str,
    *,
    version: int = 4,
    interface: str | None = None,
    port: int = SSH_PORT,
) -> Answer:
    """Connect to a program that listens in the destination meanwhile, and read what it says.

    For ends without an SSH server that lets the other in; where something listens on the port
    already, it is connected to that. What tells success from failure is as for `ssh`. Raises
    `UsageError` for ends that there are not, a router as the destination, or no port;
    `DeadlineError` when the listening program does not start.
    """
    check_port(port)
    ends = resolve(lab, source, destination, version, interface)
    client, server = ends.client, ends.guest("program to connect to")
    server.run("echo 0 >/proc/sys/net/ipv4/tcp_synack_retries")
    told = (str(ends.version), str(port), server.name)
    words = scripts.words(server.model, _TCP_SERVER, "serve", *told)
    listener = server.start(shlex.join(words))
    deadline = Deadline(SSH_SECONDS, f"TCP from {source} to {server.name}")
    try:
        ended = _wait_listening(listener, f"the listener in {server.name}", deadline)
        if ended and not _IN_USE.search(ended.text):
            return ended
        before = {node.name: counters(node) for node in (client, server)}
        told = (str(ends.version), ends.address, str(port))
        words = scripts.words(client.model, _TCP_CLIENT, "fetch", *told)
        if ended:  # what listens there is somebody else's: that it is reached is all it can tell
            words = scripts.words(client.model, _TCP_GREETED, "greet", *told, server.name)
        return _ssh(client, server, shlex.join(words), before, deadline)
    finally:
        listener.stop()


UDP_PORT = 4007
"""Not 67: QEMU completes the checksum of what looks like DHCP by its source port."""

_RECEIVER = """
use strict; use Socket qw(:all);
my ($family, $port, $seconds) = @ARGV;
socket(my $s, $family == 4 ? PF_INET : PF_INET6, SOCK_DGRAM, 0) or die "socket: $!";
bind($s, $family == 4 ? pack_sockaddr_in($port, INADDR_ANY) : pack_sockaddr_in6($port, IN6ADDR_ANY))
  or die "bind: $!";
$| = 1; print "listening\\n";
my $ready = ''; vec($ready, fileno($s), 1) = 1;
select($ready, undef, undef, $seconds) or exit 1;
recv($s, my $data, 4096, 0); print "received $data\\n";
"""

_SENDER = """
use strict; use Socket qw(:all);
my ($family, $address, $port, $text, $unsummed) = @ARGV;
socket(my $s, $family == 4 ? PF_INET : PF_INET6, SOCK_DGRAM, 0) or die "socket: $!";
if ($unsummed) { setsockopt($s, SOL_SOCKET, 11, 1) or die "setsockopt: $!" } # SO_NO_CHECK
my $to = $family == 4 ? pack_sockaddr_in($port, inet_aton($address))
  : pack_sockaddr_in6($port, inet_pton(AF_INET6, $address));
send($s, $text, 0, $to) or die "send: $!";
"""


def udp(
    lab: Lab,
    source: str,
    destination: str,
    *,
    version: int = 4,
    interface: str | None = None,
    port: int = UDP_PORT,
    times: int = 1,
    summed: bool = True,
) -> Answer:
    """Send one UDP datagram; works when a program that listens in the destination gets it.

    It holds a text of 15 octets so many `times`, 270 at most: beyond the MTU it is fragmented.
    Unless it is `summed` it has no checksum (SO_NO_CHECK), as IPv4 allows.

    It does not when the receiver's kernel counts a checksum error instead, or the sender's has no
    way to it. Raises `UsageError` for ends that there are not, a router as the destination, or no
    port; `DeadlineError` when the receiving program does not start.
    """
    check_port(port)
    ends = resolve(lab, source, destination, version, interface)
    client, server = ends.client, ends.guest("program to receive a datagram")
    counter = "UdpInCsumErrors" if ends.version == 4 else "Udp6InCsumErrors"
    before = {node.name: counters(node) for node in (client, server)}
    told = (str(ends.version), str(port), f"{SSH_SECONDS:g}")
    words = scripts.words(server.model, _RECEIVER, "take", *told)
    receiver = server.start(shlex.join(words))
    deadline = Deadline(SSH_SECONDS, f"UDP from {source} to {server.name}")
    try:
        if ended := _wait_listening(receiver, "the receiver", deadline):
            return ended
        text = "labctl-datagram" * times
        to = (str(ends.version), ends.address, str(port), text, *(() if summed else ("1",)))
        send = scripts.words(client.model, _SENDER, "put", *to)
        sent = client.run(send, check=False)
        if not sent.ok:
            return _unsent(client, sent, _growth(before, client, server))
        while not deadline.passed:
            errors = _growth(before, client, server)
            if f"received {text}" in receiver.output:
                return Answer(True, "received", errors)
            grown = errors[server.name].get(counter, 0)
            if grown:
                return Answer(False, f"lost: {server.name} counted {grown} {counter}", errors)
            if receiver.poll() not in (None, 0):
                break
            time.sleep(LOOK_SECONDS)
    finally:
        receiver.stop()
    return Answer(None, "neither received nor counted as an error")


def _unsent(client: Node, sent: Result, errors: dict[str, dict[str, int]]) -> Answer:
    """Tell of a datagram that was not sent: only a kernel without a way for it is a no."""
    if sent.status in NOT_RUN:
        return Answer(None, _not_run(client, client.model.scripting, sent), errors)
    why = last_lines(sent.stderr, 1) or f"exit status {sent.status}"
    refused = "send: " in why and _REFUSED.search(why)
    return Answer(False if refused else None, f"{client.name} did not send it: {why}", errors)
