"""Which packets a trace tells of: conditions, filters, and what is said of wrong ones."""

from __future__ import annotations

import pytest
from tracing_frames import LOST, PATH, VALID, Pkt, along, evidence

from labctl.capture.pcap_filter import PcapFilter
from labctl.errors import UsageError
from labctl.tracing.follow import follow
from labctl.tracing.packet_trace import PacketTrace
from labctl.tracing.selection import Selection
from labctl.tracing.where import FIELDS, Where


def traces() -> list[PacketTrace]:
    """A packet whose metadata a router loses, one that is finished, and one that never arrives."""
    lost = along(Pkt(seq=1, sport=1001), **LOST)
    done = along(Pkt(seq=2, sport=1002), **VALID)
    gone = [*along(Pkt(seq=3, sport=1003))[:4], None, None, None, None]
    return follow(evidence([lost, done, gone]), PATH, lambda _: True)


def kept(expression: str) -> list[int | None]:
    return [one.sport for one in traces() if Where(expression)(one)]


@pytest.mark.parametrize(
    ("expression", "ports"),
    [
        ("state==partial and not needs_csum and seen", [1001]),
        ("state == valid", [1002]),
        ("happened == 'not seen'", [1003]),
        ("happened == completed or happened == 'metadata lost'", [1001, 1002]),
        ("metadata == needs_csum", []),  # the word is a field here: True or False
        ("metadata == 'needs_csum'", [1001, 1002, 1003]),
        ("hop == 'vm2:eth0' and needs_csum", []),
        ("sport in (1001, 1003)", [1001, 1003]),
        ("sport not in [1001, 1003]", [1002]),
        ("1001 < sport <= 1003", [1002, 1003]),
        ("not arrived", [1001, 1003]),
        ("outcome == 'never seen again'", [1003]),
        ("length > 'tcp'", []),  # what cannot be compared does not hold
        ("kind == SYN and protocol == tcp and destination == '10.0.2.2'", [1001, 1002, 1003]),
        ("owner == 'r1' and state == valid", [1002]),
        ("ms >= 0", [1001, 1002, 1003]),
    ],
)
def test_a_condition_holds_of_packets_of_which_it_holds_at_some_hop(
    expression: str, ports: list[int]
) -> None:
    assert kept(expression) == ports


@pytest.mark.parametrize(
    ("expression", "column", "words"),
    [
        ("state==parital", 8, "did you mean partial?"),
        ("state = partial", 7, ""),
        ("state==partial and", 19, ""),
        ("__import__('os')", 1, "no part of a condition"),
        ("hop.upper() == 'X'", 1, "no part of a condition"),
        ("state is partial", 10, "comparison"),
        ("1 + length > 2", 1, "no part"),
        ("[x for x in hop]", 1, "no part"),
        ("f'{hop}'", 1, "no part"),
        ("seen == True", 9, "no part"),
        ("lambda: 1", 1, "no part"),
        ("-1 < length", 1, "no part"),
        ("not state and evil\x1b", 14, ""),
    ],
)
def test_what_is_no_condition_is_told_with_its_column(
    expression: str, column: int, words: str
) -> None:
    with pytest.raises(UsageError) as told:
        Where(expression)
    assert words in told.value.message
    assert "\x1b" not in told.value.message
    if words:
        assert f"column {column}" in told.value.message
    else:
        assert "column" in told.value.message


@pytest.mark.parametrize(
    "expression", ["(" * 300 + "1", "a" * 2000, "", "1\0", "9" * 999 + "9" * 5000, "\ud800", "'"]
)
def test_nothing_that_is_typed_ends_in_a_fault(expression: str) -> None:
    with pytest.raises(UsageError) as told:
        Where(expression)
    assert len(told.value.message.splitlines()) == 1


def test_every_field_can_be_asked_of_every_packet() -> None:
    for name in FIELDS:
        assert Where(f"{name} == 0 or seen or not seen")(traces()[0])


def test_a_filter_keeps_packets_that_pass_it_at_some_hop() -> None:
    def ports(expression: str, where: str = "") -> list[int | None]:
        selection = Selection(PcapFilter(expression), Where(where) if where else None)
        return [one.sport for one in traces() if selection.keeps(one)]

    assert ports("tcp src port 1001") == [1001]
    assert ports("tcp", "state == valid") == [1002]
    assert ports("udp") == []
    assert ports("ip[8] = 63") == [1001, 1002]  # the TTL behind the router
