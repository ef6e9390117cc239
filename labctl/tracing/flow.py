"""The flow to follow: which packets belong to it, and how to send it from inside a guest."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from labctl.errors import UsageError
from labctl.guests import scripts
from labctl.packet.frame import Packet
from labctl.topology.model import Node
from labctl.tracing.packet_trace import PacketTrace

Protocol = Literal["tcp", "udp", "icmp"]

ECHO_KINDS = ("ICMP echo", "ICMPv6 echo")
REPLY_KINDS = ("ICMP echo reply", "ICMPv6 echo reply")


@dataclass(frozen=True)
class Flow:
    """Traffic from one address to another."""

    protocol: Protocol
    port: int | None
    """The destination's port; None for ICMP."""
    version: int
    """4 or 6."""
    source: str
    """The source's address; empty where it is not known."""
    destination: str
    """The destination's address."""
    size: int = 56
    """Bytes of payload of an ICMP echo."""

    def __post_init__(self) -> None:
        """Refuse what cannot be sent."""
        if self.protocol != "icmp" and not 0 < (self.port or 0) < 65536:
            raise UsageError(f"{self.port} is not a {self.protocol.upper()} port", "use 1 to 65535")

    @property
    def text(self) -> str:
        """The flow in words, such as `TCP to 10.0.2.2 port 22`."""
        if self.protocol == "icmp":
            return f"ICMP echo to {self.destination}"
        return f"{self.protocol.upper()} to {self.destination} port {self.port}"

    def forth(self, packet: Packet) -> bool:
        """Tell whether a packet belongs to the way there."""
        if packet.dst != self.destination or (self.source and packet.src != self.source):
            return False
        if self.protocol == "icmp":
            return packet.kind in ECHO_KINDS or _rest(packet, ("icmp", "icmpv6"))
        return packet.protocol == self.protocol and (
            packet.dport == self.port or _rest(packet, (self.protocol,))
        )

    def returning(self, packet_traces: Iterable[PacketTrace]) -> Returning:
        """Return what tells the answers, given the traces forward: addresses may be translated.

        Answers to what was seen, that is, and to nothing else: a server repeats its SYN-ACK to a
        client that gave up for half a minute (kernel: tcp_synack_retries).
        """
        ends: set[tuple[str, int | None, str, int | None]] = set()
        for packet_trace in packet_traces:
            for step in packet_trace.steps:
                for seen in step.observations:
                    packet = seen.judgement.packet
                    ends.add((packet.dst or "", packet.dport, packet.src or "", packet.sport))
        ends = ends or {(self.destination, self.port, self.source, None)}
        return Returning(self, frozenset(ends))

    def begun(self, packet_traces: Iterable[PacketTrace]) -> list[PacketTrace]:
        """Return the traces of connections that began meanwhile, without those left from before.

        A connection begins with a SYN; where none was seen, and for other protocols, all are kept.
        """
        kept = list(packet_traces)
        opened = {(one.source, one.sport) for one in kept if one.kind == "SYN"}
        if self.protocol != "tcp" or not opened:
            return kept
        return [one for one in kept if one.sport is None or (one.source, one.sport) in opened]

    def to_json(self) -> dict[str, Any]:
        """Return the flow as plain data."""
        return {
            "protocol": self.protocol,
            "port": self.port,
            "version": self.version,
            "source": self.source,
            "destination": self.destination,
        }


def with_size(flow: Flow, size: int) -> Flow:
    """Return an ICMP flow whose echoes carry `size` bytes."""
    return replace(flow, protocol="icmp", port=None, size=size)


@dataclass(frozen=True)
class Returning:
    """Tells the packets of the way back."""

    flow: Flow
    ends: frozenset[tuple[str, int | None, str, int | None]]
    """Source, its port, destination and its port of answers; None: any port."""
    hosts: frozenset[tuple[str, str]] = field(init=False)
    """Their addresses alone, so that a packet is looked up and not compared with each."""

    def __post_init__(self) -> None:
        """Leave the ports out."""
        hosts = frozenset((source, destination) for source, _, destination, _ in self.ends)
        object.__setattr__(self, "hosts", hosts)

    def __call__(self, packet: Packet) -> bool:
        """Tell whether a packet is an answer."""
        source = packet.src or ""
        if self.flow.protocol == "icmp":
            return (packet.kind in REPLY_KINDS or _rest(packet, ("icmp", "icmpv6"))) and any(
                (source, destination) in self.hosts for destination in (packet.dst or "", "")
            )
        if packet.protocol != self.flow.protocol:
            return False
        if packet.sport is None:  # a later fragment has none
            return any((source, there) in self.hosts for there in (packet.dst or "", ""))
        return any(
            (source, packet.sport, destination, port) in self.ends
            for destination in (packet.dst or "", "")
            for port in (packet.dport, None)
        )


def _rest(packet: Packet, protocols: tuple[str, ...]) -> bool:
    """Tell a later fragment, which has no ports."""
    return packet.fragment and packet.sport is None and packet.protocol in protocols


_CONNECT = """
use strict; use Socket qw(:all);
my ($family, $address, $port, $seconds, $count, $listen) = @ARGV;
$| = 1;
my $to = $family == 4 ? pack_sockaddr_in($port, inet_aton($address))
  : pack_sockaddr_in6($port, inet_pton(AF_INET6, $address));
for my $n (1 .. $count) {
  socket(my $s, $family == 4 ? PF_INET : PF_INET6, SOCK_STREAM, 0) or die "socket: $!";
  fcntl($s, 4, 2048);
  my $bits = ''; vec($bits, fileno($s), 1) = 1;
  my $error = connect($s, $to) ? 0 : $! + 0;
  if ($error == 115) {
    my $ready = select(undef, my $w = $bits, undef, $seconds);
    $error = $ready ? unpack('i', getsockopt($s, SOL_SOCKET, SO_ERROR)) : 110;
  }
  if ($error) { $! = $error; print "$n error $error $!\\n"; close $s; next }
  print "$n connected\\n";
  my $got = 0;
  while (select(my $r = $bits, undef, undef, $got ? 0.1 : $listen) > 0) {
    my $k = sysread($s, my $data, 65536); last unless $k; $got += $k;
  }
  print "$n heard $got\\n";
  close $s;
}
print "done\\n";
"""
_SEND = """
use strict; use Socket qw(:all);
my ($family, $address, $port, $seconds, $count) = @ARGV;
$| = 1;
socket(my $s, $family == 4 ? PF_INET : PF_INET6, SOCK_DGRAM, 0) or die "socket: $!";
my $to = $family == 4 ? pack_sockaddr_in($port, inet_aton($address))
  : pack_sockaddr_in6($port, inet_pton(AF_INET6, $address));
connect($s, $to) or do { print "1 error ", $! + 0, " $!\\n"; exit };
my $bits = ''; vec($bits, fileno($s), 1) = 1;
for my $n (1 .. $count) {
  if (!send($s, "labctl $n", 0)) { print "$n error ", $! + 0, " $!\\n"; next }
  print "$n sent\\n";
  if (select(my $r = $bits, undef, undef, 0.3) > 0) {
    my $k = sysread($s, my $data, 65536);
    print defined $k ? "$n heard $k\\n" : "$n error " . ($! + 0) . " $!\\n";
  }
}
print "done\\n";
"""
_RECEIVE = """
use strict; use Socket qw(:all);
my ($family, $port) = @ARGV;
$| = 1;
socket(my $s, $family == 4 ? PF_INET : PF_INET6, SOCK_DGRAM, 0) or die "socket: $!";
bind($s, $family == 4 ? pack_sockaddr_in($port, INADDR_ANY) : pack_sockaddr_in6($port, IN6ADDR_ANY))
  or do { print "taken\\n"; exit };
print "listening\\n";
while (defined recv($s, my $data, 65536, 0)) { print "got " . length($data) . "\\n" }
"""


def send_command(flow: Flow, count: int, seconds: float, node: Node | None = None) -> str:
    """Return shell text by which a node sends the flow `count` times; it ends by itself.

    A TCP connection waits `seconds` to be established and a second for what the server says first.
    Raises `GuestError` for a guest that can run no program which does.
    """
    if flow.protocol == "icmp":
        words = ["ping", "-c", str(count), "-i", "0.2", "-W", f"{seconds:g}", "-s", str(flow.size)]
        return shlex.join([*words, flow.destination])
    script = _CONNECT if flow.protocol == "tcp" else _SEND
    words = [str(flow.version), flow.destination, str(flow.port), f"{seconds:g}", str(count)]
    listen = ["1"] if flow.protocol == "tcp" else []
    name = "connect" if flow.protocol == "tcp" else "send"
    return shlex.join(scripts.words(node, script, name, *words, *listen))


def receive_command(flow: Flow, node: Node | None = None) -> str:
    """Return shell text by which a guest takes in the datagrams of a UDP flow, until it is killed.

    It says `listening`, or `taken` where something listens there already, then `got` each time.
    Raises as `send_command` does.
    """
    return shlex.join(scripts.words(node, _RECEIVE, "receive", str(flow.version), str(flow.port)))
