"""Longest-prefix match against the plain definition of it."""

from __future__ import annotations

import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from labctl.routers.tables import NextHop, Routes, packed


def routes(*entries: tuple[str, int]) -> Routes:
    made = Routes()
    for text, index in entries:
        net = ipaddress.ip_network(text)
        made.add(net.network_address.packed, net.prefixlen, NextHop(index, None))
    return made


def test_the_longest_prefix_wins_in_each_family() -> None:
    table = routes(
        ("0.0.0.0/0", 1), ("10.0.0.0/8", 2), ("10.1.0.0/16", 3), ("10.1.2.3/32", 4),
        ("fd00::/8", 5), ("fd00:1::/64", 6),
    )  # fmt: skip
    expected = {
        "192.0.2.1": 1, "10.9.9.9": 2, "10.1.9.9": 3, "10.1.2.3": 4, "fd00:2::1": 5, "fd00:1::1": 6,
    }  # fmt: skip
    for address, index in expected.items():
        assert table.find(packed(address)) == NextHop(index, None)
    assert table.find(packed("2001:db8::1")) is None  # the IPv4 default is not IPv6's
    assert routes().find(packed("10.0.0.1")) is None


def test_of_equal_prefixes_the_lowest_metric_wins() -> None:
    made = Routes()
    for index, metric in ((1, 100), (2, 50), (3, 70)):
        made.add(packed("10.0.0.0"), 8, NextHop(index, None), metric)
    assert made.find(packed("10.1.1.1")) == NextHop(2, None)


@given(
    entries=st.lists(st.tuples(st.integers(0, 0xFFFFFFFF), st.integers(0, 32)), max_size=12),
    address=st.integers(0, 0xFFFFFFFF),
)
def test_it_agrees_with_the_definition(entries: list[tuple[int, int]], address: int) -> None:
    nets = [ipaddress.ip_network((number, length), strict=False) for number, length in entries]
    table = routes(*((str(net), number) for number, net in enumerate(nets)))
    target = ipaddress.IPv4Address(address)
    matching = [net.prefixlen for net in nets if target in net]
    found = table.find(target.packed)
    if found is None:
        assert not matching
    else:
        assert nets[found.ifindex].prefixlen == max(matching)
