"""tcpdump(8) as an observer, for guests that have neither Perl nor Python.

It sees each frame and its time, and no metadata: a packet is never said to have lost what nobody
could see here (`labctl.packet.checksum.Metadata.UNTOLD`). The shell around it writes a line before
what tcpdump does, and its words behind:

    labctl-tcpdump 1 MTU MAC SECONDS KERNEL
    a pcap file with nanoseconds (pcap-savefile(5)), as `tcpdump -w -` writes it
    16 bytes 0xff, in place of a packet's header, SECONDS, and what tcpdump counted

tcpdump writes the file's header when its socket is bound (tcpdump.c: pcap_activate() comes before
pcap_dump_open(), and -U flushes it), so who reads that knows that nothing is missed any more.
"""

from __future__ import annotations

import re
import struct

from labctl.kinds.base import Look
from labctl.kinds.observers.stream import Header, Record, StreamError, StreamParser, Trailer
from labctl.packet.af_packet import PACKET_HOST, PACKET_OTHERHOST, PACKET_OUTGOING, UNTOLD
from labctl.packet.virtio import VnetHeader

SIGN = b"labctl-tcpdump 1 "
_LINE = re.compile(
    rb"labctl-tcpdump 1 (\d{1,9}) ((?:[0-9a-f]{2}:){5}[0-9a-f]{2}) (\d{1,12}) (\S{1,99})"
)
_LONGEST_LINE = 200
_FILE = struct.Struct("<IHHiIII")
_FRAME = struct.Struct("<IIII")
_NANOSECONDS = 0xA1B23C4D
_ETHERNET = 1
_END = b"\xff" * _FRAME.size
_LONGEST_FRAME = 1 << 18
_LONGEST_WORDS = 4096
_COUNTED = re.compile(
    rb"(\d{1,18}) packets? captured.{0,4}?(\d{1,18}) packets? received by filter"
    rb".{0,4}?(\d{1,18}) packets? dropped by kernel",
    re.DOTALL,
)
_SECOND = 1_000_000_000
SCRIPT = r"""
i=$1
read -r mtu </sys/class/net/$i/mtu && read -r mac </sys/class/net/$i/address || exit 1
read -r kernel </proc/sys/kernel/osrelease
echo "labctl-tcpdump 1 $mtu $mac $(date +%s) $kernel"
exec 4<&0 5>&1
said=$(
    tcpdump -Z root -n -p -i $i -s $2 -U --immediate-mode --nano -w - 2>&1 >&5 4<&- </dev/null &
    pid=$!
    (read -r word <&4; kill $pid) 5>&- >/dev/null 2>&1 &
    reader=$!
    wait $pid
    kill $reader 2>/dev/null
)
case $said in
    *captured*) ;;
    *) echo "$said" >&2; exit 1 ;;
esac
printf '\377\377\377\377\377\377\377\377\377\377\377\377\377\377\377\377'
date +%s
echo "$said"
"""
"""Its words are the interface and the bytes to keep of a frame; it ends when its input does."""


def words(look: Look) -> tuple[str, ...]:
    """Return the words that start it in a guest."""
    return ("sh", "-c", SCRIPT, "observe", look.link, str(min(look.snap, _LONGEST_FRAME)))


class TcpdumpParser(StreamParser):
    """Reads that as `StreamParser` reads the stream of the other observers."""

    def __init__(self, name: str = "the stream", most: int | None = None) -> None:
        """Prepare to read what was seen at the hop `name`, and to keep its first `most` frames."""
        super().__init__(name, most)
        self._mac = b""
        self._ending: bytes | None = None

    def feed(self, data: bytes) -> None:
        """Read what came next; raises `StreamError` for what never was such a stream."""
        if self.ended:
            return
        data = self._rest + data
        at = 0
        if self.header is None:
            at = self._begin(data)
        if self.header is not None and self._ending is None:
            at = self._frames(data, at)
        if self._ending is not None:
            self._end(data[at:])
            at = len(data)
        self._rest = data[at:]
        self._at += at

    def _begin(self, data: bytes) -> int:
        """Read the line and the header of the file; return where what follows begins."""
        if not (data.startswith(SIGN) or SIGN.startswith(data[: len(SIGN)])):
            raise StreamError(f"{self._name} is not a capture stream", "is it tcpdump there?")
        line, newline, rest = data.partition(b"\n")
        if len(line) > _LONGEST_LINE:
            raise StreamError(f"{self._name} has a damaged header")
        if not newline or len(rest) < _FILE.size:
            return 0
        told = _LINE.fullmatch(line)
        magic, _, _, _, _, snap, link = _FILE.unpack_from(rest)
        if told is None or magic != _NANOSECONDS or link != _ETHERNET:
            raise StreamError(f"{self._name} has a damaged header")
        kernel = told[4].decode(errors="replace")
        self._mac = bytes.fromhex(told[2].decode().replace(":", ""))
        clock_ns = int(told[3]) * _SECOND
        self.header = Header(
            self._name, "", 0, int(told[1]), snap, clock_ns, kernel if kernel.isprintable() else "",
            "tcpdump",
        )  # fmt: skip
        return len(line) + 1 + _FILE.size

    def _frames(self, data: bytes, at: int) -> int:
        while at + _FRAME.size <= len(data) and not self._damage:
            if data[at : at + _FRAME.size] == _END:
                self._ending = b""
                return at + _FRAME.size
            seconds, nanoseconds, kept, original = _FRAME.unpack_from(data, at)
            if kept > _LONGEST_FRAME or nanoseconds >= _SECOND:
                self._damaged(at)
                break
            begin = at + _FRAME.size
            if begin + kept > len(data):
                break
            if self._most is not None and len(self.records) >= self._most:
                self.left_out += 1
            else:
                frame = data[begin : begin + kept]
                time_ns = seconds * _SECOND + nanoseconds
                self.records.append(self._record(time_ns, original, frame))
            at = begin + kept
        return at

    def _record(self, time_ns: int, original: int, frame: bytes) -> Record:
        if frame[6:12] == self._mac:
            kind = PACKET_OUTGOING
        elif frame[:6] == self._mac or (frame[:1] and frame[0] & 1):
            kind = PACKET_HOST
        else:
            kind = PACKET_OTHERHOST
        return Record(time_ns, kind, 0, UNTOLD, original, VnetHeader(0, 0, 0, 0, 0, 0), frame)

    def _end(self, data: bytes) -> None:
        """Read what tcpdump counted, once it is there."""
        self._ending = ((self._ending or b"") + data)[:_LONGEST_WORDS]
        clock, newline, said = self._ending.partition(b"\n")
        counted = _COUNTED.search(said)
        if newline and counted and clock.strip().isdigit() and len(clock) < 13:
            _, received, dropped = (int(one) for one in counted.groups())
            written = len(self.records) + self.left_out
            self.trailer = Trailer(received, dropped, written, 0, int(clock) * _SECOND)
