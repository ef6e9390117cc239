"""What is done in guests and dom0, each with its answer compared: files, payloads, logs."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from labctl.guests import ssh
from labctl.guests.xen import boot_file
from labctl.sandbox.deadline import Deadline
from labctl.sandbox.process import Result

from .content import MIB, Content, CorruptionError, difference, digest, listed_files

if TYPE_CHECKING:
    from pathlib import Path

    from labctl.sandbox.namespaces import Namespaces

MEMORY = "/tmp/soak/memory"
SECONDS = 300.0
"""For one command; only what hangs takes that long."""

MAKE = (
    "read STDIN, my $b, 1 << 20; open my $f, '>', $ARGV[0] or die $!;"
    " for my $i (0 .. $ARGV[1] - 1) {"
    " print $f $b ^ (pack('N', $i * 2654435761 & 0xffffffff) x (1 << 18)) or die $! }"
    " close $f or die $!"
)
"""Perl that makes a `Content` of its first MiB: ARGV is file, MiB."""
PEER = r"""
use Socket qw(:all);
my ($role, $address, $port, $file, $skip, $length, $piece, $spoil) = @ARGV;
$SIG{ALRM} = sub { die "$role: timed out\n" }; alarm 280;
my $six = $address =~ /:/;
my $place = $six ? pack_sockaddr_in6($port, inet_pton(AF_INET6, $address))
                 : pack_sockaddr_in($port, inet_pton(AF_INET, $address));
sub fresh { socket my $s, $six ? AF_INET6 : AF_INET, SOCK_STREAM, 0 or die "socket: $!"; $s }
my $c;
if ($role eq 'listen') {
    my $s = fresh();
    setsockopt $s, SOL_SOCKET, SO_REUSEADDR, 1;
    bind $s, $place or die "bind: $!";
    listen $s, 1;
    accept $c, $s or die "accept: $!";
} else {
    for (;;) { $c = fresh(); last if connect $c, $place; select undef, undef, undef, .1 }
}
setsockopt $c, IPPROTO_TCP, TCP_NODELAY, 1 if $piece < 65536;
my $child = fork // die "fork: $!";
if (!$child) {
    open my $f, '<', $file or die "$file: $!";
    sysseek $f, $skip, 0;
    while ($length > 0) {
        my $n = sysread $f, my $b, $length < 65536 ? $length : 65536;
        die "$file: $!" unless $n;
        $length -= $n;
        if ($spoil) { substr($b, $n / 2, 1) ^= "\1"; $spoil = 0 }
        for (my $at = 0; $at < $n;) {
            my $want = $n - $at < $piece ? $n - $at : $piece;
            $at += syswrite($c, $b, $want, $at) // die "send: $!";
        }
    }
    shutdown $c, 1;
    exit 0;
}
open my $out, '|-', 'sha256sum' or die $!;
my ($total, $n, $b) = (0);
while ($n = sysread $c, $b, 65536) {
    $total += $n;
    for (my $at = 0; $at < $n;) { $at += syswrite($out, $b, $n - $at, $at) // die "pipe: $!" }
}
die "receive: $!" unless defined $n;
close $out or die 'sha256sum';
waitpid $child, 0;
die "the sender failed\n" if $?;
print "$total\n";
"""
"""Perl that sends a part of a file and at the same time receives, over one TCP connection.

ARGV: `listen` or `connect`, address, port, file, octets to skip, octets to send, octets a call,
1 to change one octet. Prints the SHA-256 and the number of octets of what it received.
"""


class Lab(Protocol):
    """What is needed of a Xen host with guests."""

    @property
    def sandbox(self) -> Namespaces: ...
    @property
    def directory(self) -> Path: ...


@dataclass(frozen=True)
class Flow:
    """How two guests exchange: what of the IP versions, which TCP port, what to send."""

    version: Literal[4, 6]
    port: int
    skip: int
    length: int
    piece: int
    """Octets a write: small ones make small packets at odd places of a page."""


@dataclass(frozen=True)
class End:
    """A guest of an exchange: its name, its addresses by IP version, its content."""

    name: str
    addresses: Mapping[Literal[4, 6], str]
    content: Content


def ask(lab: Lab, name: str, line: str, stdin: bytes = b"") -> str:
    """Run a shell's line in a guest or in dom0; return what it printed."""
    words = [*ssh.command(lab.directory, name), line]
    done: Result = lab.sandbox.agent().run(words, Deadline(SECONDS, f"{name}: soak"), stdin=stdin)
    return done.stdout


def perl(program: str, *arguments: object) -> str:
    """Write the shell's line that runs a Perl program."""
    return shlex.join(["perl", "-e", program, "--", *map(str, arguments)])


def fill(lab: Lab, name: str, content: Content) -> None:
    """Fill memory of a guest or of dom0 with a content."""
    room = content.size + MIB
    ask(
        lab,
        name,
        f"set -e; mkdir -p /tmp/soak; mount -t tmpfs -o size={room} soak /tmp/soak; "
        + perl(MAKE, MEMORY, content.mebibytes),
        content.block,
    )


def check_memory(lab: Lab, name: str, content: Content, expected: str) -> int:
    """Compare the memory that `fill` filled; return its octets, raise `CorruptionError`."""
    found = ask(lab, name, f"sha256sum <{MEMORY}").split()[0]
    if found == expected:
        return content.size
    line = f"dd if={MEMORY} bs=1M skip=%d count=1 2>/dev/null | base64"
    told = []
    for number, part in enumerate(content.parts()):
        seen = base64.b64decode(ask(lab, name, line % number))
        if where := difference(part, seen, number * MIB):
            told.append(where)
    where = "; ".join(told[:3]) or "but it does not when read again"
    raise CorruptionError(
        f"memory of {name} ({content.mebibytes} MiB in a tmpfs) has the SHA-256 {found}, "
        f"must have {expected}: {where}"
    )


def spoil_memory(lab: Lab, name: str) -> None:
    """Change one octet of the memory that `fill` filled."""
    change = (
        "open my $f, '+<', $ARGV[0] or die $!; seek $f, 1234567, 0; read $f, my $b, 1;"
        " seek $f, 1234567, 0; print $f $b ^ qq(\\1); close $f or die $!"
    )
    ask(lab, name, perl(change, MEMORY))


def exchange(lab: Lab, one: End, other: End, flow: Flow, spoil: bool = False) -> int:
    """Let two guests send each other a part of their contents; return the octets of both ways.

    Raises `CorruptionError` where what one received is not what the other had to send.
    """

    def side(role: str, end: End, spoil: bool) -> list[str]:
        words = (role, other.addresses[flow.version], flow.port, MEMORY, flow.skip, flow.length)
        return ask(lab, end.name, perl(PEER, *words, flow.piece, int(spoil))).split()

    with ThreadPoolExecutor(2) as pool:
        sides = [
            pool.submit(side, "listen", other, False),
            pool.submit(side, "connect", one, spoil),
        ]
        told = [future.result() for future in sides]
    for (found, _, octets), sender, receiver in zip(told, (one, other), (other, one), strict=True):
        expected = digest([sender.content.slice(flow.skip, flow.length)])
        if (found, int(octets)) != (expected, flow.length):
            raise CorruptionError(
                f"payload {sender.name} > {receiver.name} over IPv{flow.version}, "
                f"{flow.piece} octets a write: {receiver.name} received {octets} octets with the "
                f"SHA-256 {found}, must be {flow.length} with {expected}"
            )
    return 2 * flow.length


def from_outside(lab: Lab, name: str, payload: bytes) -> int:
    """Send a payload from the sandbox of the lab into a guest or dom0, by SSH; return its octets.

    On its way: the lab's bridge, QEMU's virtio NIC, dom0's bridge, for a guest its vif too.
    """
    found, expected = ask(lab, name, "sha256sum", payload).split()[0], digest([payload])
    if found != expected:
        raise CorruptionError(
            f"payload lab > {name} by SSH, {len(payload)} octets: received {found}, "
            f"must be {expected}"
        )
    return len(payload)


def image_files(lab: Lab, name: str) -> dict[str, str]:
    """Return the SHA-256 of each file that a guest or dom0 has from its initramfs."""
    find = "find /usr /init -xdev -type f | xargs sha256sum"
    return listed_files(ask(lab, name, find))


def check_drives(lab: Lab, name: str, drives: Sequence[Path]) -> int:
    """Compare the files that guests boot, as dom0 reads them anew; return their octets."""
    total = 0
    for drive in drives:
        with drive.open("rb") as stream:
            expected = digest(iter(lambda: stream.read(MIB), b""))
        size = drive.stat().st_size
        ask(lab, name, "echo 3 >/proc/sys/vm/drop_caches")
        found = ask(lab, name, f"head -c {size} {boot_file(drive)} | sha256sum").split()[0]
        if found != expected:
            raise CorruptionError(
                f"{drive.name} as {name} reads it from its drive has the SHA-256 {found}, "
                f"must have {expected}"
            )
        total += size
    return total
