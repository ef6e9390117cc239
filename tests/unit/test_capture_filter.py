"""Filters of captures: which frames pass, and what is told of a wrong expression."""

from __future__ import annotations

import pytest
from test_packet_checksum import eth, ip, tcp, udp

from labctl.capture import pcap_filter
from labctl.capture.pcap_filter import PcapFilter
from labctl.errors import HostError, UsageError

SYN = eth(ip(4, 6, tcp()))
SIX = eth(ip(6, 17, udp(b"x" * 40)))
TAGGED = eth(ip(4, 6, tcp()), b"\x81\0\0\7")


@pytest.mark.parametrize(
    ("expression", "passing"),
    [
        ("", [SYN, SIX, TAGGED]),
        ("tcp", [SYN]),
        ("tcp port 22 and src host 10.0.0.1", [SYN]),
        ("tcp[13] & 2 != 0", [SYN]),
        ("ip6 and udp port 53", [SIX]),
        ("vlan 7 and tcp", [TAGGED]),
        ("greater 100", [SIX]),
        ("port 23", []),
    ],
)
def test_an_expression_lets_pass_what_it_names(expression: str, passing: list[bytes]) -> None:
    passes = PcapFilter(expression)
    assert [one for one in (SYN, SIX, TAGGED) if passes(one, len(one))] == passing


def test_the_length_is_that_on_the_wire() -> None:
    assert PcapFilter("greater 1000")(SYN, 1200)
    assert not PcapFilter("greater 1000")(SYN, len(SYN))


def test_a_cut_frame_is_no_fault() -> None:
    passes = PcapFilter("tcp port 22")
    assert not any(passes(SYN[:size], len(SYN)) for size in range(20))


@pytest.mark.parametrize(
    ("expression", "place", "words"),
    [
        ("tcp prot 22", "column 5, 'prot'", "syntax error"),
        ("tcp and and udp", "column 9, 'and'", "syntax error"),
        ("(tcp or udp", "'(tcp or udp'", "syntax error"),
        ("tcp) or udp", "column 4, ')'", "syntax error"),
        ("port 99999", "column 6, '99999'", "illegal port"),
        ("tcp[13 = 2", "column 8, '='", "syntax error"),
        ("udp port nosuchservice", "column 10, 'nosuchservice'", "unknown port"),
        ("tcp and inbound", "column 9, 'inbound'", "no frame tells that"),
        ("ip and tcp and udp", "'ip and tcp and udp'", "rejects all packets"),
        ("tcp \x1b[31m", r"column 5, '\\x1b[31m'", "syntax error"),
        ("tcp " * 5000, "longer than", "characters"),
        ("tcp\0", "holds NUL", ""),
    ],
)
def test_a_wrong_expression_is_told_with_its_place(expression: str, place: str, words: str) -> None:
    with pytest.raises(UsageError) as told:
        PcapFilter(expression)
    assert place in told.value.message
    assert words in told.value.message
    assert "\x1b" not in told.value.message
    assert len(told.value.message.splitlines()) == 1


def test_a_host_without_libpcap_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pcap_filter, "LIBRARIES", ("libnosuch.so.0",))
    pcap_filter._library.cache_clear()
    try:
        with pytest.raises(HostError, match="libpcap is not installed"):
            PcapFilter("tcp")
    finally:
        monkeypatch.undo()
        pcap_filter._library.cache_clear()
