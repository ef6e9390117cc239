"""Impairments of links: how they are written, refused, kept in the model and shown."""

from __future__ import annotations

import pytest

from labctl import topology
from labctl.errors import UsageError
from labctl.topology import TopologyError, serialize
from labctl.topology.impairment import Impairment, reading

FILE = """\
networks: {lan: }
nodes:
  vm1:
    interfaces: [{network: lan, addresses: [10.0.0.1/24], impairment: {%s}}]
  vm2:
    interfaces: [{network: lan, addresses: [10.0.0.2/24]}]
"""


def load(words: str) -> topology.Topology:
    return topology.loads(FILE % words, "t.yaml")


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ({"delay": "20ms"}, Impairment(delay=20_000)),
        ({"delay": "1.5s", "jitter": "250us"}, Impairment(delay=1_500_000, jitter=250)),
        ({"loss": "1.5%"}, Impairment(loss=1.5)),
        ({"loss": "3", "duplicate": "0.1 %"}, Impairment(loss=3, duplicate=0.1)),
        ({"rate": "10Mbit"}, Impairment(rate=10_000_000)),
        ({"rate": "15bit"}, Impairment(rate=8)),  # the kernel counts octets
        ({"delay": "5ms", "reorder": "25%"}, Impairment(delay=5_000, reorder=25)),
        ({}, Impairment()),
    ],
)
def test_values_are_read_with_their_units(words: dict[str, str], meant: Impairment) -> None:
    assert reading(words) == meant


@pytest.mark.parametrize("text", ["20ms", "1.5s", "999us", "60s"])
def test_what_is_written_of_an_impairment_says_the_same(text: str) -> None:
    found = reading({"delay": text, "loss": "0.25%", "rate": "2.5gbit"})
    assert reading(found.written()) == found
    assert str(found) == f"delay {text} loss 0.25% rate 2.5gbit"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"delay": "20"}, "'20' is no duration"),
        ({"delay": "-1ms"}, "'-1ms' is no duration"),
        ({"delay": "20 minutes"}, "is no duration"),
        ({"delay": "9" * 5000 + "s"}, "is no duration"),
        ({"delay": "61s"}, "'61s' is more than 60s"),
        ({"loss": "101%"}, "'101%' is more than 100%"),
        ({"loss": "nan"}, "'nan' is no percentage"),
        ({"rate": "10"}, "'10' is no rate"),
        ({"rate": "35gbit"}, "is more than 34gbit"),
        ({"jitter": "5ms"}, "jitter changes nothing without a delay"),
        ({"reorder": "5%"}, "reorder changes nothing without a delay"),
        ({"delay": "1ms", "jitter": "5ms"}, "the jitter is more than the delay"),
    ],
)
def test_what_is_no_impairment_is_told(words: dict[str, str], told: str) -> None:
    with pytest.raises(UsageError) as wrong:
        reading(words)
    assert told in wrong.value.message


def test_a_topology_says_what_reaches_an_interface() -> None:
    one = load("delay: 20ms, loss: 1.5, rate: 10mbit")
    (interface,) = one.nodes["vm1"].interfaces
    assert interface.impairment == Impairment(delay=20_000, loss=1.5, rate=10_000_000)
    assert one.nodes["vm2"].interfaces[0].impairment == Impairment()
    assert serialize.from_json(serialize.to_json(one)) == one.__class__(
        one.name, one.networks, one.nodes, one.routers, None
    )


def test_a_topology_without_impairments_is_as_before_there_were_any() -> None:
    plain = topology.loads(FILE.replace(", impairment: {%s}", ""), "t.yaml")
    assert "impairment" not in str(serialize.to_json(plain))
    assert load("").digest() == plain.digest()
    assert load("delay: 1ms").digest() != plain.digest()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("delay: 5", "t.yaml:4:79: '5' is no duration (write one such as 20ms)"),
        ("delay: [5]", "t.yaml:4:79: delay must be text such as 20ms"),
        ("loss: true", "t.yaml:4:78: loss must be text such as 1.5%"),
        ("los: 1", "unknown key 'los' (did you mean loss?)"),
        ("jitter: 1ms", "jitter changes nothing without a delay (give a delay: 20ms)"),
    ],
)
def test_a_wrong_impairment_in_a_file_is_told_at_its_place(words: str, told: str) -> None:
    with pytest.raises(TopologyError) as wrong:
        load(words)
    assert told in str(wrong.value.message)
