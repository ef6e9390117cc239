"""The flags in the rings: what dom0 is told to do, what it answers, and which packet it was."""

from __future__ import annotations

import shlex
import shutil
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from labctl.capture.session import Observation
from labctl.capture.xenflags import FlagsWatch, beside
from labctl.kinds.base import Context, Look
from labctl.kinds.observers.stream import Record
from labctl.kinds.observers.xen_rings import (
    FlagsEvidence,
    FlagsSeen,
    RingDirection,
    XenFlagsError,
    XenRings,
    flags_script,
    parse_flags,
)
from labctl.kinds.observers.xen_rings_program import RECORD, RX, TX
from labctl.packet.af_packet import PACKET_OUTGOING
from labctl.packet.virtio import VnetHeader
from labctl.sandbox.deadline import Deadline

SECOND = 1_000_000_000
OFFSET = 1000 * SECOND
HEADER = f"labctl xen flags 1 {OFFSET + 5 * SECOND} {5 * SECOND} 6.1.0\n"
END = "end 1 1\n"


def line(
    way: int, flags: int, *, number: int = 0, time: int = 6 * SECOND, error: int = 0, queue: int = 0
) -> str:
    entry = struct.pack("<IHHHH", 8, 2, flags, 7, 74)
    if way == RX:
        entry = struct.pack("<HHHh", 7, 0, flags, 74)
    record = RECORD.pack(
        time, number, way, error, b"vm1-eth0", entry, 100, 26, queue, bytes(range(128))
    )
    return f"seen {record.hex()}\n"


@pytest.mark.parametrize(
    ("way", "flags", "names"),
    [
        (TX, 3, ("csum_blank", "data_validated")),
        (TX, 1, ("csum_blank",)),
        (TX, 2, ("data_validated",)),
        (TX, 12, ("more_data", "extra_info")),
        (RX, 1, ("data_validated",)),
        (RX, 2, ("csum_blank",)),
        (RX, 11, ("csum_blank", "data_validated", "extra_info")),
        (RX, 0, ()),
    ],
)
def test_flags_have_the_names_of_their_direction(
    way: int, flags: int, names: tuple[str, ...]
) -> None:
    evidence = parse_flags(HEADER + line(way, flags) + "count vm1-eth0 1\n" + END)
    (one,) = evidence.seen
    assert one.names == names
    assert one.csum_blank == ("csum_blank" in names)
    assert one.data_validated == ("data_validated" in names)
    assert one.extra_info == ("extra_info" in names)
    assert one.direction == ("tx" if way == TX else "rx")
    assert (one.vif, one.flags, one.id, one.size) == ("vm1-eth0", flags, 7, 74)
    assert one.time_ns == OFFSET + 6 * SECOND
    assert one.head == bytes(range(74)), "only the linear part is the packet's"
    assert (evidence.complete, evidence.kernel) == (True, "6.1.0")


def test_bytes_that_could_not_be_read_are_none() -> None:
    (one,) = parse_flags(HEADER + line(TX, 3, error=-14)).seen
    assert one.head == b""


def test_a_packet_left_out_is_known_by_the_counts_of_its_queue() -> None:
    def found(*numbers: int) -> FlagsEvidence:
        times = enumerate(numbers)
        lines = [line(TX, 3, number=n, time=SECOND + t) for t, n in times]
        return parse_flags(HEADER + "".join(lines) + END)

    assert found(4, 5, 6).complete
    assert found(4, 4, 5).complete, "netback threw one away before it was counted"
    assert found(4, 5, 0, 1).complete, "the guest was started again"
    assert found(4, 6).note == "the flags of 1 packets were missed"
    assert found(4, 8, 9, 11).note == "the flags of 4 packets were missed"
    other = parse_flags(
        HEADER
        + line(TX, 3, number=4)
        + line(RX, 3, number=9)
        + line(TX, 3, number=7, queue=1)
        + END
    )
    assert other.complete, "each queue counts each direction"


def test_a_packet_that_was_counted_and_did_not_come_is_missed() -> None:
    evidence = parse_flags(HEADER + line(TX, 3) + "count vm1-eth0 3\n" + END)
    assert evidence.note == "the flags of 2 packets were missed"
    assert not evidence.complete


@pytest.mark.parametrize("tail", ["", "see", "seen 0011", line(TX, 3)[:-9]])
def test_what_was_cut_off_is_kept_as_far_as_it_came(tail: str) -> None:
    evidence = parse_flags(HEADER + line(TX, 3) + tail)
    assert len(evidence.seen) == 1
    assert evidence.note == "the observer of the flags was cut off"
    assert parse_flags(HEADER[:9]).note == "the observer said nothing but 'labctl xe'"


def test_a_kernel_that_cannot_be_traced_says_why() -> None:
    evidence = parse_flags("cannot follow xenvif_rx_skb in Linux 5.4: Invalid argument\n")
    assert evidence.why_not == "cannot follow xenvif_rx_skb in Linux 5.4: Invalid argument"
    assert not evidence.complete


@pytest.mark.parametrize(
    "text",
    [
        "hello\n",
        "\n",
        HEADER + "\n",
        HEADER + "seen\n",
        HEADER + "seen 00\n",
        HEADER + "seen x\n",
        HEADER + line(9, 0),
        HEADER + "count vm1 many\n",
        f"labctl xen flags 1 {'9' * 5000} 1 6.1\n",
        f"labctl xen flags 1 1 1 {'6' * 5000}\n",
    ],
)
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(XenFlagsError, match="not what the observer of the flags writes"):
        parse_flags(text)


def frame(number: int = 1, family: int = 4) -> bytes:
    """A SYN; what its checksum is does not matter here."""
    tcp = struct.pack(">HHIIBBHHH", 4000, 22, number, 0, 5 << 4, 2, 512, 0, 0)
    macs = bytes(12)
    if family == 6:
        return macs + b"\x86\xdd" + struct.pack(">IHBB", 6 << 28, 20, 6, 64) + bytes(32) + tcp
    ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 40, number, 0, 64, 6, 0, bytes(4), bytes(4))
    return macs + b"\x08\x00" + ip + tcp


def observation(time: int, data: bytes, *, out: bool = False, hop: str = "vm1-eth0") -> Observation:
    vnet = VnetHeader(0, 0, 0, 0, 0, 0)
    record = Record(time, PACKET_OUTGOING if out else 0, 2, 0, len(data), vnet, data)
    return Observation(hop, record, record.classify(None))


def flagged(time: int, head: bytes, way: RingDirection = "tx", flags: int = 3) -> FlagsSeen:
    return FlagsSeen(time, "vm1-eth0", way, flags, 0, len(head), head)


def beside_flags(observations: list[Observation], seen: list[FlagsSeen]) -> list[FlagsSeen | None]:
    return [flags for _, flags in beside(observations, seen)]


@pytest.mark.parametrize("family", [4, 6])
def test_flags_stand_beside_the_packet_with_the_same_bytes(family: int) -> None:
    one, two = frame(1, family), frame(2, family)
    first, second = flagged(SECOND, one), flagged(SECOND + 10, two[:-8], flags=0)
    packets = [observation(SECOND + 20, two), observation(SECOND + 30, one)]
    assert beside_flags(packets, [first, second]) == [second, first]
    assert beside_flags([observation(SECOND, frame(3, family))], [first, second]) == [None]


def test_of_packets_that_are_alike_each_has_its_own_flags() -> None:
    data = frame()
    step = 100 * 1_000_000
    seen = [flagged(SECOND, data, flags=3), flagged(SECOND + step, data, flags=0)]
    packets = [observation(SECOND + step + 9, data), observation(SECOND + 9, data)]
    assert beside_flags(packets, seen) == seen
    assert beside_flags([*packets, observation(SECOND + step + 10, data)], seen) == [*seen, None]
    assert beside_flags(packets, seen[1:]) == [None, seen[1]], "not those of a later packet"


def test_towards_the_guest_flags_come_after_the_packet() -> None:
    data = frame()
    late = flagged(2 * SECOND, data, "rx")
    assert beside_flags([observation(SECOND, data, out=True)], [late]) == [late]
    assert beside_flags([observation(SECOND, data)], [late]) == [None], "the other direction"
    assert beside_flags([observation(3 * SECOND, data, out=True)], [late]) == [None]
    lost = flagged(90 * SECOND, data, "rx")
    assert beside_flags([observation(SECOND, data, out=True)], [lost]) == [None]


def test_other_hops_are_left_out_and_unread_bytes_fit_nothing() -> None:
    data = frame()
    seen = [flagged(SECOND, data), flagged(SECOND, b"")]
    assert beside_flags([observation(SECOND, data, hop="vm1:eth0")], seen) == []
    assert beside_flags([observation(SECOND, frame(2))], seen) == [None]


def test_the_command_fits_an_ssh_server_and_needs_no_quoting_of_quotes() -> None:
    vifs = [f"guest{number:02}-eth0001" for number in range(24)]
    words = XenRings().start(Look("flags", tuple(vifs), context=Context.DOM0))
    line = shlex.join(words)
    assert line.split()[-24:] == vifs
    assert len(line) < 8500  # dropbear's bound is 9000
    assert "'" not in flags_script()


@pytest.mark.parametrize("vifs", [[], ["a b"], [""], ["x" * 16], ["a/b"], ["a\n"]])
def test_what_is_no_vif_is_refused(tmp_path: Path, vifs: list[str]) -> None:
    with pytest.raises(XenFlagsError, match="vif"):
        FlagsWatch(vifs, ("ssh", "xen1"), tmp_path / "flags", deadline=Deadline(10, "flags"))


def test_rings_are_looked_into_in_a_dom0_alone() -> None:
    rings = XenRings()
    assert rings.can_run(Look("flags", ("vm1-eth0",), context=Context.DOM0)) == ""
    for context in (Context.LAB, Context.GUEST):
        why_not = rings.can_run(Look("flags", ("vm1-eth0",), context=context))
        assert why_not == f"it looks into the dom0 of a Xen host, not into {context.value}"


def test_a_dom0_without_perl_says_so() -> None:
    words = XenRings().start(Look("flags", ("vm1-eth0",), context=Context.DOM0))
    sh = shutil.which("sh")
    assert sh
    done = subprocess.run([sh, *words[1:]], env={"PATH": ""}, capture_output=True, check=True)
    reader = XenRings().reader()
    reader.feed(done.stdout)
    assert not reader.ready
    assert reader.why_not == "cannot look into the rings: there is no perl"
    assert reader.evidence().why_not == reader.why_not


def test_it_is_ready_with_its_first_line() -> None:
    reader = XenRings().reader()
    for part, ready in ((HEADER[:9], False), (HEADER[9:], True), (line(TX, 3), True)):
        reader.feed(part.encode())
        assert reader.ready is ready
    assert len(reader.evidence().seen) == 1


class Ended:
    """An observer that has ended by itself."""

    def poll(self) -> int:
        return 255

    def finish(self, deadline: Deadline) -> int:
        return 0 if deadline.passed else 255

    def kill(self, number: int = 15) -> None:
        raise AssertionError(number)


def watch(tmp_path: Path, text: str, errors: str) -> FlagsWatch:
    def spawn(argv: Sequence[str], *, stdout: Path, stderr: Path, limit: int = 0) -> Ended:
        assert argv[0] == "ssh"
        assert limit
        stdout.write_text(text)
        stderr.write_text(errors)
        return Ended()

    deadline = Deadline(10, "flags")
    return FlagsWatch(
        ["vm1-eth0"], ["ssh"], tmp_path / "f" / "flags", deadline=deadline, spawn=spawn
    )


def test_a_watch_tells_of_an_observer_that_broke(tmp_path: Path) -> None:
    with watch(tmp_path, HEADER + line(TX, 3), "Connection reset\n") as running:
        assert len(running.so_far().seen) == 1
        evidence = running.stop(Deadline(10, "flags"))
        with pytest.raises(XenFlagsError, match="not running"):
            running.stop(Deadline(10, "flags"))
    assert len(evidence.seen) == 1
    assert evidence.note == "the observer of the flags was cut off: Connection reset"
