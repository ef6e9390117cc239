"""Whatever is brought, the answer is a topology or a topology error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labctl.topology import Problem, Topology, TopologyError, find, from_mapping, loads

MORE = "x-more: &more {offload: {tap: {tx: off}}}\n"
SOUND = [find(name).read_text() + MORE for name in ("router-hop", "xen-uplink", "two-bridges")]
KEYS = """
    name defaults networks nodes routers interfaces network addresses mac model mtu offload
    guest tap device tx csum routes to via kind memory vcpus kernel subnets stp hypervisor host
    segments segment options image url file sha256 format firmware
    [key] x-a
"""
VALUES = """
    default raw 10.0.1.1/24 10.0.1.0/24 fd00::1/64 10.0.1.9 52:54:00:00:00:01 [key] on off ~
    0 -1 1.5 lan vm1 << 1G xen h west veth bridge
    http://x/a.raw qcow2 bios micro
"""
WORDS = [*KEYS.split(), *VALUES.split()]
TOKENS = [*WORDS, ": ", "\n", "  ", "- ", "{", "}", "[", "]", ", ", "&a ", "*a", "!!int ", '"', "|"]
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(WORDS)
    | st.binary(max_size=4)
)
keys = st.sampled_from(WORDS) | st.text(max_size=5) | st.integers() | st.none()
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=5),
    max_leaves=12,
)
quick = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)


def outcome(read: Callable[[], Topology]) -> tuple[Problem, ...]:
    """Return the problems; anything but a topology or a topology error fails the test."""
    try:
        topology = read()
    except TopologyError as error:
        return error.problems or (Problem("", 0, 0, "", "an error without problems"),)
    assert len(topology.digest()) == 64
    return ()


def check_text(text: str) -> None:
    problems = outcome(lambda: loads(text, "t.yaml"))
    assert all(problem.line > 0 and problem.column > 0 for problem in problems)


def check_mapping(mapping: dict[Any, Any]) -> None:
    problems = outcome(lambda: from_mapping(mapping))
    assert all(problem.file == "topology" and problem.message for problem in problems)


@quick
@given(st.text())
def test_any_text(text: str) -> None:
    check_text(text)


@quick
@given(st.lists(st.sampled_from(TOKENS), max_size=40))
def test_text_of_yaml_tokens(tokens: list[str]) -> None:
    check_text("".join(tokens))


@quick
@given(st.sampled_from(SOUND), st.integers(0, 900), st.integers(0, 30), st.sampled_from(TOKENS))
def test_a_sound_file_with_a_part_replaced(text: str, start: int, length: int, put: str) -> None:
    check_text(text[:start] + put + text[start + length :])


@quick
@given(st.dictionaries(keys, values, max_size=6))
def test_any_mapping(mapping: dict[Any, Any]) -> None:
    check_mapping(mapping)


def places(value: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the way to every value inside."""
    found = [way] if way else []
    keys: list[Any] = []
    if isinstance(value, dict | list):
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    for key in keys:
        found += places(value[key], (*way, key))
    return found


def sound() -> dict[str, Any]:
    nic: dict[str, Any] = {"network": "lan", "addresses": ["10.0.1.1/24"], "mtu": 1500}
    return {
        "name": "x",
        "defaults": {"memory": 128, "offload": {"guest": {"tx": False}}},
        "networks": {"lan": {"subnets": ["10.0.1.0/24"], "mtu": 1500}},
        "nodes": {
            "a": {"interfaces": [nic], "routes": [{"to": "default", "via": "10.0.1.9"}]},
            "h": {"hypervisor": "xen", "memory": 900, "interfaces": [{"network": "lan"}]},
            "v": {"host": "h", "interfaces": [{"network": "lan", "model": "xen"}]},
        },
        "routers": {"r": {"kind": "raw", "interfaces": [{"network": "lan"}, {"network": "lan"}]}},
    }


@settings(quick, max_examples=200)
@given(st.lists(st.tuples(st.sampled_from(places(sound())), values), min_size=1, max_size=3))
def test_a_sound_mapping_with_values_replaced(changes: list[tuple[tuple[Any, ...], Any]]) -> None:
    mapping = sound()
    for way, value in sorted(changes, key=lambda change: -len(change[0])):
        holder: Any = mapping
        for key in way[:-1]:
            holder = holder[key]
        holder[way[-1]] = value
    check_mapping(mapping)


def test_the_sound_mapping_is_sound() -> None:
    assert outcome(lambda: from_mapping(sound())) == ()
