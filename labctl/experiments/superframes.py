"""Super-frames between Xen guests: send some, tell them at each hop, read what drivers mended.

A super-frame is one packet longer than the MTU that someone is to cut later (GSO). Its checksum is
open by its nature: a sum is made for each piece, when it is cut.
"""

from __future__ import annotations

import re
import shlex
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address

from labctl.capture.session import Evidence
from labctl.errors import GuestError
from labctl.experiments.probes import Answer
from labctl.lab.lab import Lab
from labctl.lab.node import Node
from labctl.lab.watch import counters
from labctl.packet.checksum import knowledge
from labctl.packet.frame import ETH_P_IP, TCP
from labctl.packet.internet_checksum import ones_sum
from labctl.packet.virtio import GSO_TCPV4, VnetHeader
from labctl.sandbox.deadline import Deadline
from labctl.topology.points import ObservationPoint

FIXUP = "rx_gso_checksum_fixup"
"""How many super-frames a driver took from its ring without `csum_blank`, and made `partial` itself
(checksum_setup() of xen-netfront and of xen-netback)."""

BULK_PORT = 5001
BULK_BYTES = 200_000
BULK_SECONDS = 90.0
HAND_PORT = 5004
HAND_PAYLOAD = 3000
HAND_SEGMENT = 1000
WRONG_SUM = 0x0BAD

# A pipe's status is that of its last part, so the receiver's own is told before the count.
_RECEIVE = f"exec 3>&1; {{ timeout {BULK_SECONDS:g} nc -l -p {BULK_PORT}; echo $? >&3; }} | wc -c"
_LISTENING = rf"grep -qs ':{BULK_PORT:04X} .* 0A ' /proc/net/tcp /proc/net/tcp6"

# Packet sockets only, no code of ours: 263, 15 and 17, 3 are SOL_PACKET, PACKET_VNET_HDR and
# AF_PACKET, SOCK_RAW.
_INJECT = """
import socket, sys
packet = socket.socket(17, 3, 0)
packet.setsockopt(263, 15, 1)
packet.bind((sys.argv[1], 0))
packet.send(sys.stdin.buffer.read())
"""


@dataclass(frozen=True)
class Tally:
    """What of a transfer one hop saw."""

    hop: ObservationPoint
    complete: bool
    frames: int
    """Frames with payload."""
    supers: int
    """Those of them that are super-frames."""
    longest: int
    """Bytes of the longest."""
    segments: tuple[int, ...]
    """The sizes that super-frames are to be cut to."""
    states: tuple[str, ...]
    """The super-frames' states in words, such as `partial, needs_csum`."""

    @property
    def text(self) -> str:
        """One line for a reader."""
        if not self.frames:
            return "nothing seen" if self.complete else "unknown: the capture is not complete"
        if not self.supers:
            return f"none in {self.frames} frames, the longest of {self.longest} bytes"
        cut = "/".join(map(str, self.segments))
        return (
            f"{self.supers} of {self.frames} frames, up to {self.longest} bytes "
            f"in pieces of {cut}: {'; '.join(self.states)}"
        )


def tally(evidence: Evidence, hop: ObservationPoint, destination: str, port: int) -> Tally:
    """Count the frames with payload to a TCP port of `destination` (an address) at a hop."""
    seen = [
        one
        for one in evidence[hop.name].observations
        if one.judgement.packet.dst == destination
        and one.judgement.packet.dport == port
        and one.judgement.kind in ("TCP data", "FIN")
    ]
    supers = [one for one in seen if one.judgement.gso]
    complete = evidence[hop.name].complete
    return Tally(
        hop,
        complete,
        frames=len(seen),
        supers=len(supers),
        longest=max((one.record.original_length for one in seen), default=0),
        segments=tuple(sorted({one.judgement.gso_size for one in supers})),
        states=tuple(
            sorted({knowledge(one.judgement.state, one.judgement.metadata) for one in supers})
        ),
    )


def bulk(lab: Lab, source: str, destination: str, address: str) -> Answer:
    """Send `BULK_BYTES` over TCP to `address` of `destination`; works when all of them arrive.

    It does not when the connection ended before they had. A receiver that was stopped while it
    waited, or that counts nothing, tells nothing. Raises `CommandError` when the sender fails.
    """
    client, server = lab.node(source), lab.node(destination)
    seconds = f"{BULK_SECONDS:g}"
    receiver = server.start(f"sh -c {shlex.quote(_RECEIVE)}")
    deadline = Deadline(BULK_SECONDS, f"a transfer from {source} to {destination}")
    try:
        while not server.run(_LISTENING, check=False).ok:
            deadline.pause(0.1)
        client.run(
            f"head -c {BULK_BYTES} /dev/zero | timeout {seconds} nc {address} {BULK_PORT}",
            timeout=BULK_SECONDS,
        )
        ended = receiver.wait(deadline)
    finally:
        receiver.stop()
    return _arrived(ended, receiver.output, receiver.errors)


def _arrived(ended: int, output: str, errors: str) -> Answer:
    """Judge what a receiver told: the status of what it received with, and how many bytes came."""
    match = re.fullmatch(r"(\d{1,18})\s{1,9}(\d{1,18})", output.strip())
    if ended != 0 or not match:
        said = " ".join((errors.strip() or output.strip() or "nothing").split())[:120]
        return Answer(None, f"the receiver ended with {ended} and said: {said}")
    status, arrived = int(match[1]), int(match[2])
    text = f"{arrived} of {BULK_BYTES} bytes arrived"
    if arrived != BULK_BYTES and status != 0:  # by `timeout` perhaps: the rest may have been late
        return Answer(None, f"{text} until the receiver ended with {status}")
    return Answer(arrived == BULK_BYTES, text)


def send_unmarked(lab: Lab, source: Node, destination: Node) -> None:
    """Put a super-frame without `needs_csum`, its sum wrong, on `destination`'s vif in dom0.

    It says that it is from `source`, both with their first interface. Returns when the receiving
    kernel has answered it (nobody listens on its port) or counted it as damaged; raises
    `DeadlineError` when it does neither.
    """
    vif = destination.interface().tap
    before = counters(destination)
    lab.node(destination.model.host).run(
        ["python3", "-c", _INJECT, vif], stdin=super_frame(source, destination)
    )
    deadline = Deadline(BULK_SECONDS, f"waiting for {destination.name} to meet a super-frame")
    while not any(
        counters(destination)[name] > before[name] for name in ("TcpOutRsts", "TcpInCsumErrors")
    ):
        deadline.pause(0.1)


def super_frame(source: Node, destination: Node) -> bytes:
    """Return an IPv4 super-frame behind a virtio header that says GSO but not NEEDS_CSUM."""
    ends = b"".join(ip_address(one.address(4)).packed for one in (source, destination))
    length = 20 + HAND_PAYLOAD
    tcp = struct.pack(
        ">HHIIBBHHH", HAND_PORT - 1, HAND_PORT, 1000, 1, 5 << 4, 0x18, 1000, WRONG_SUM, 0
    )
    ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + length, 1, 0x4000, 64, TCP, 0) + ends
    ip = ip[:10] + (0xFFFF - ones_sum(ip)).to_bytes(2, "big") + ip[12:]
    macs = "".join(one.interface().mac for one in (destination, source)).replace(":", "")
    ethernet = bytes.fromhex(macs) + ETH_P_IP.to_bytes(2, "big")
    headers = ethernet + ip + tcp
    vnet = VnetHeader(0, GSO_TCPV4, len(headers), HAND_SEGMENT, 0, 0)
    return vnet.pack() + headers + bytes(HAND_PAYLOAD)


def fixups(lab: Lab, *names: str) -> dict[str, int]:
    """Read `FIXUP` of Xen guests' eth0, and of their vifs.

    Raises `GuestError` where a driver does not have it.
    """
    found = {}
    for name in names:
        node = lab.node(name)
        vif = node.interface().tap
        for key, where, link in (
            (f"{name}:eth0", node, "eth0"),
            (vif, lab.node(node.model.host), vif),
        ):
            text = where.run(["ethtool", "-S", link]).stdout
            if not (match := re.search(rf"{FIXUP}: (\d{{1,18}})", text)):
                raise GuestError(f"the driver of {key} does not count {FIXUP}")
            found[key] = int(match[1])
    return found


def grown(before: Mapping[str, int], after: Mapping[str, int]) -> str:
    """Say in words which counters grew, by how much; empty when none did."""
    more = {key: after[key] - before[key] for key in before if after[key] != before[key]}
    return ", ".join(f"{key} grew by {by}" for key, by in more.items())
