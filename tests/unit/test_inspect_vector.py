"""Judged by arrays or one by one: the answers must not differ."""

from __future__ import annotations

import io
import itertools
from collections import Counter
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inspect_files import any_frame, echo, pcap
from test_packet_checksum import eth, ip, pseudo, tcp, udp, with_state, word_sum
from test_packet_tunnels import inside, local, sctp, vxlan

from labctl.inspect import pcap as reader
from labctl.inspect import vector
from labctl.inspect.batch import SLACK, Windows
from labctl.inspect.crc import sctp_crcs
from labctl.inspect.fields import Sums
from labctl.inspect.flows import Table, group, group_keys
from labctl.inspect.kinds import Kind
from labctl.inspect.scalar import examine_all
from labctl.inspect.source import Ending
from labctl.inspect.vector import Judged, judge_batch
from labctl.packet import link_types
from labctl.packet.crc32c import crc32c
from labctl.packet.internet_checksum import ones_sum

MTU = 1500


def judged(some: list[tuple[bytes, int]], link: int) -> Judged:
    windows = Windows(io.BytesIO(pcap(some, link=link)).readinto, 1 << 20)
    (batch,) = reader.read(windows, Ending("a file"))
    return judge_batch(batch, MTU)


def check(some: list[tuple[bytes, int]], link: int) -> None:
    seen = judged(some, link)
    kinds: list[Kind] = []
    flows: Counter[tuple[bytes, Kind]] = Counter()
    pairs: Counter[tuple[Kind, Kind]] = Counter()
    inner: Counter[tuple[int, Kind]] = Counter()
    headers = 0
    for place, (frame, original) in enumerate(some):
        layers = examine_all(link, frame, original, MTU)
        kinds.append(layers[0].kind)
        for layer in layers:
            if layer.key is not None:
                flows[layer.key, layer.kind] += 1
            headers += layer.bad_headers
        for outer, within in itertools.pairwise(layers):
            pairs[outer.kind, within.kind] += 1
            inner[place, within.kind] += 1
    for number, kind in enumerate(seen.kinds.tolist()):
        assert Kind(kind) is kinds[number], some[number]
    assert seen.bad_headers == headers
    table = Table()
    for some_flows in seen.groups:
        table.add(some_flows)
    counted = {
        (key, Kind(kind)): int(counts[kind])
        for key, counts in zip(table.keys, table.counts, strict=True)
        for kind in np.flatnonzero(counts).tolist()
    }
    assert counted == flows
    assert {(a, b): int(seen.pairs[a, b]) for a in Kind for b in Kind if seen.pairs[a, b]} == pairs
    assert inner == Counter(
        (int(place), Kind(kind))
        for places, found in seen.inner
        for place, kind in zip(places, found, strict=True)
    )


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_ethernet_frames_are_judged_as_by_the_judge(seed: int) -> None:
    rng = Random(seed)
    check([any_frame(rng, link_types.ETHERNET) for _ in range(200)], link_types.ETHERNET)


@pytest.mark.parametrize("link", sorted(set(link_types.NAMES) - {link_types.ETHERNET}))
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_frames_of_other_links_are_judged_as_by_the_judge(link: int, seed: int) -> None:
    rng = Random(seed)
    check([any_frame(rng, link) for _ in range(100)], link)


@settings(max_examples=50, deadline=None)
@given(some=st.lists(st.tuples(st.binary(max_size=120), st.integers(0, 2**32 - 1)), min_size=1))
def test_any_bytes_are_judged_as_by_the_judge(some: list[tuple[bytes, int]]) -> None:
    for link in (link_types.ETHERNET, link_types.RAW, link_types.NULL):
        check(some, link)


def patched(frame: bytes, at: int, value: bytes) -> bytes:
    return frame[:at] + value + frame[at + len(value) :]


def edges() -> list[tuple[bytes, int]]:
    """Frames one step on either side of each rule, which chance seldom makes."""
    found: list[bytes] = []
    for version, l4 in ((4, 34), (6, 54)):
        whole = eth(ip(version, 17, with_state(version, 17, udp(b"abcdefgh"), "valid")))
        for announced in (0, 1, 7, 8, 9, 15, 16, 17, 40):
            found.append(patched(whole, l4 + 4, announced.to_bytes(2, "big")))
        for size in (0, 7, 8, 9, 16, 17, 18, 19, 20, 21):  # TCP as short as the IP header says
            for number in (6, 17, 58):
                # Its sum holds the pseudo-header's: bytes 16 and 17 exist from 18 on.
                body = with_state(version, 6, tcp(0x10, b"zz"), "partial")[:size]
                found.append(eth(ip(version, number, body)))
                found.append(patched(found[-1], l4 + 12, b"\0") + bytes(9))
        eighteen = word_sum(pseudo(version, 6, 18)).to_bytes(2, "big")
        short = patched(tcp(0x10)[:16] + eighteen, 12, b"\0")  # no room for a data offset
        found.append(eth(ip(version, 6, short)))
        seven = word_sum(pseudo(version, 17, 7)).to_bytes(2, "big")
        found.append(patched(patched(whole, l4 + 4, b"\0\7"), l4 + 6, seven))
        for state in ("valid", "partial"):  # an echo that holds the pseudo-header's sum
            whole_echo = bytearray(echo(version, b"", True))
            number = 1 if version == 4 else 58
            if state == "partial":
                whole_echo[2:4] = word_sum(pseudo(version, number, len(whole_echo))).to_bytes(
                    2, "big"
                )
            found.append(eth(ip(version, number, bytes(whole_echo))))
        for size in range(11, 17):  # SCTP as short as the IP header says, then padding
            for check in (bytes(4), None):
                found.append(eth(ip(version, 132, sctp(b"", check)[:size])) + bytes(9))
        for size in range(1436, 1466):  # around the MTU and two tags
            body = with_state(version, 6, tcp(0x10, b"y" * size), "partial")
            found.append(eth(ip(version, 6, body), b"\x81\0\0\1"))
        # A pseudo-header whose sum is 0xffff: what folds to 0 is written as all ones.
        body = tcp()
        plain = ip(version, 6, body)
        missing = 0xFFFF - word_sum(pseudo(version, 6, len(body)))
        place = 14 if version == 4 else 22  # the last two bytes of the source
        last = (int.from_bytes(plain[place : place + 2], "big") + missing).to_bytes(3, "big")[1:]
        for value in (b"\xff\xff", b"\0\0"):
            found.append(patched(patched(eth(plain), 14 + place, last), l4 + 16, value))
        inner = eth(ip(4, 6, with_state(4, 6, tcp(), "valid")))
        tunnel = eth(ip(version, 17, vxlan(inner)))
        for more in (-1, 0, 1, -54, -55):
            size = 16 + len(inner) + more
            found.append(patched(tunnel, l4 + 4, size.to_bytes(2, "big")))
            found.append(patched(tunnel, l4 + 4, size.to_bytes(2, "big")) + bytes(9))
        for port in (4789, 8472, 6081, 4788):  # without a sum
            found.append(patched(tunnel, l4 + 2, port.to_bytes(2, "big")))
        for number in (6, 17):  # a sum that counts on what is inside
            open_inside = inside(4, number, "partial")
            counting = eth(ip(version, 17, local(version, open_inside, inside(4, number, "valid"))))
            for place in (len(counting), l4 + 7, l4 + 12, l4 + 40, l4 + 56, len(counting) - 1):
                changed = counting[place : place + 1].replace(b"\xff", b"\0") or b""
                found.append(patched(counting, place, bytes([changed[0] + 1]) if changed else b""))
    long = eth(ip(6, 6, tcp(0x10, b"x" * 2000)))
    found += [patched(long, 18, b"\0\0"), patched(eth(ip(6, 6, b"")), 18, b"\0\0")]
    several = [(frame, len(frame)) for frame in found]
    tagged = eth(ip(4, 6, tcp()), b"\x81\0\0\1")
    several += [(tagged[:size], len(tagged)) for size in range(len(tagged))]
    return several


def test_frames_at_the_edge_of_every_rule_are_judged_as_by_the_judge() -> None:
    check(edges(), link_types.ETHERNET)
    assert {Kind.PARTIAL_MERGED, Kind.PARTIAL_DATA} <= set(judged(edges(), 1).kinds.tolist())


def carriers() -> list[tuple[bytes, Kind]]:
    """Return frames of tunnels without a transport checksum, and what each counts as."""
    found = []
    for state in ("valid", "bad", "partial"):
        for version in (4, 6):
            packet = ip(version, 17, with_state(version, 17, udp(b"abc"), state))
            kind = Kind[state.upper()]
            ethertype = eth(packet)[12:14]
            gre = b"\0\0" + ethertype + packet
            full = b"\xb0\0" + ethertype + bytes(12) + packet
            bridged = b"\x20\0\x65\x58\0\0\0\x07" + eth(packet)
            number = 4 if version == 4 else 41
            for outer in (4, 6):
                found += [(eth(ip(outer, number, packet)), kind)]
                found += [(eth(ip(outer, 47, body)), kind) for body in (gre, full, bridged)]
            found.append((eth(ip(4, 47, b"\0\0\x08\0" + ip(4, number, packet))), kind))
    packet = ip(4, 17, with_state(4, 17, udp(b"abc"), "valid"))
    for odd in (b"\x40\0\x08\0", b"\0\x01\x08\0", b"\0\0\x12\x34"):
        found.append((eth(ip(4, 47, odd + packet)), Kind.NO_CHECKSUM))
    found.append((eth(ip(4, 4, packet, place=0x2000)), Kind.FRAGMENT))
    return found


def test_what_a_tunnel_without_a_checksum_carries_is_judged() -> None:
    for frame, kind in carriers():
        assert judged([(frame, len(frame))], 1).kinds.tolist() == [kind], frame.hex()
    some = [(frame, len(frame)) for frame, _ in carriers()]
    check(some, link_types.ETHERNET)
    check([(frame[:size], len(frame)) for frame, _ in carriers()[:9] for size in range(14, 90, 5)],
          link_types.ETHERNET)  # fmt: skip


def test_a_vxlan_frame_inside_gre_is_found_where_it_lies() -> None:
    frame = eth(ip(4, 47, b"\0\0\x08\0" + ip(4, 17, vxlan(inside(4, 6, "bad"))))) + bytes(5)
    check([(frame, len(frame))], link_types.ETHERNET)
    layers = examine_all(1, frame, len(frame), MTU)
    assert [layer.kind for layer in layers][1:] == [Kind.BAD]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(("number", "body"), [(6, tcp(payload=b"abc")), (17, udp(b"abc"))])
def test_only_what_the_capture_cut_is_called_cut(version: int, number: int, body: bytes) -> None:
    whole = eth(ip(version, number, with_state(version, number, body, "valid")))
    for size in (len(whole) - 1, len(whole) - 5):
        assert judged([(whole[:size], len(whole))], 1).kinds.tolist() == [Kind.CUT]
        assert judged([(whole[:size], size)], 1).kinds.tolist() == [Kind.MALFORMED]


def test_the_common_shapes_do_not_go_to_the_slow_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector, "examine", None)
    some = [
        eth(ip(version, number, with_state(version, number, body, state)), tags)
        for version in (4, 6)
        for number, body in ((6, tcp(payload=b"abc")), (17, udp(b"abc")))
        for state in ("valid", "partial", "bad")
        for tags in (b"", b"\x81\0\0\1")
    ]
    seen = judged([(frame, len(frame)) for frame in some], link_types.ETHERNET)
    assert np.bincount(seen.kinds, minlength=4).tolist() == [8, 8, 0, 8]


def test_an_unknown_link_type_is_said_so() -> None:
    assert judged([(b"x" * 80, 80)], 147).kinds.tolist() == [Kind.LINK]


@given(
    data=st.binary(max_size=300),
    ends=st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), min_size=1),
)
def test_sums_of_any_range_are_those_of_its_words(data: bytes, ends: list[tuple[int, int]]) -> None:
    ranges = [sorted((min(a, len(data)), min(b, len(data)))) for a, b in ends]
    window = np.frombuffer(data + b"\xff" * SLACK, np.uint8)  # what follows must not count
    window = np.concatenate([window, np.zeros(-len(window) % 8, np.uint8)])
    start, end = np.array(ranges, np.int64).T
    found = Sums(window, len(data)).of(start, end)
    assert found.tolist() == [ones_sum(data[a:b]) for a, b in ranges]


def test_sums_of_a_large_window_carry_over_its_pieces() -> None:
    window = np.full((1 << 20) + SLACK, 0xFF, np.uint8)
    sums = Sums(window, 1 << 20)
    data = window.tobytes()
    for a, b in ((0, 1 << 20), (32767, 32769), (1, (1 << 20) - 1), (65535, 131073)):
        assert sums.of(np.array([a]), np.array([b])).tolist() == [ones_sum(data[a:b])]


def test_many_crcs_at_once_are_those_of_each() -> None:
    rng = Random(3)
    window = np.frombuffer(rng.randbytes(20_000), np.uint8)
    length = np.array([12, 13, 15, 16, 100, 2047, 2048, 2049, 5000], np.int64)
    start = np.array([rng.randrange(15_000) for _ in length], np.int64)
    data = window.tobytes()
    packets = [data[a : a + n] for a, n in zip(start.tolist(), length.tolist(), strict=True)]
    expected = [crc32c(one[:8] + bytes(4) + one[12:]) for one in packets]
    assert sctp_crcs(window, start, length).tolist() == expected


def test_flows_whose_digests_collide_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    from labctl.inspect import flows

    columns = [np.array([7, 8, 7, 9], np.uint64), np.array([1, 1, 1, 2], np.uint64)]
    kinds = np.array([0, 1, 2, 0], np.uint8)
    usual = group(columns, kinds)
    monkeypatch.setattr(flows, "_FACTORS", [np.uint64(0)] * 6)
    collided = group(columns, kinds)
    for found in (usual, collided):
        counts = dict(zip(found.keys, found.counts.tolist(), strict=True))
        assert len(counts) == 3
        key = np.array([7, 1], "<u8").tobytes()
        assert (counts[key][0], counts[key][2]) == (1, 1)


def test_a_full_table_counts_later_flows_together() -> None:
    table = Table(most=2)
    table.add(group_keys([b"a" * 16, b"b" * 16, b"c" * 16, None], [0, 0, 1, 1]))
    table.add(group_keys([b"c" * 16, b"a" * 16], [1, 1]))
    assert table.keys == [b"a" * 16, b"b" * 16]
    assert table.counts[:, :2].tolist() == [[1, 1], [1, 0]]
    assert table.others[:2].tolist() == [0, 2]
