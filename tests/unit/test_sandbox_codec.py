"""Values as JSON and back by their types; what is wrong with one is said in one line, and where."""

from __future__ import annotations

import enum
import json
import signal
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Interface, IPv6Interface, ip_interface
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from labctl.sandbox import codec
from labctl.sandbox.codec import CodecError
from labctl.topology import find, load
from labctl.topology.model import Topology


class Colour(enum.Enum):
    RED = 1
    BLUE = "blue"


@dataclass(frozen=True)
class Leaf:
    name: str
    size: int = 7
    made: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Twig:
    ends: tuple[int, str]


@dataclass(frozen=True)
class Tree:
    """One of everything."""

    leaf: Leaf
    maybe: Leaf | None
    either: Leaf | Twig
    leaves: tuple[Leaf, ...]
    by_name: dict[str, Leaf]
    by_file: Mapping[Path, bytes]
    pair: tuple[int, str]
    address: IPv4Interface | IPv6Interface
    colour: Colour
    word: Literal["a", "b", 1]
    share: float
    yes: bool
    nothing: None
    branches: tuple[Tree, ...] = ()


def tree(**changed: Any) -> Tree:
    whole: dict[str, Any] = {
        "leaf": Leaf("é\ud800"), "maybe": None, "either": Twig((1, "x")),
        "leaves": (Leaf("1"), Leaf("2", 2, ["a"])), "by_name": {"x": Leaf("x")},
        "by_file": {Path("/a b"): b"\0\xff"}, "pair": (1, "2"),
        "address": ip_interface("fd00::1/64"), "colour": Colour.BLUE, "word": 1, "share": 0.5,
        "yes": True, "nothing": None,
    }  # fmt: skip
    return Tree(**(whole | changed))


def test_a_value_of_every_type_comes_back_as_it_was() -> None:
    one = tree(branches=(tree(maybe=Leaf("z")), tree(either=Leaf("y"))))
    data = codec.dumps(one, Tree)
    assert codec.loads(data, Tree) == one
    assert data.isascii()


@pytest.mark.parametrize("name", ["bridged", "router-hop", "xen-router-hop"])
def test_a_topology_comes_back_as_it_was(name: str) -> None:
    topology = load(find(name))
    assert codec.loads(codec.dumps(topology, Topology), Topology) == topology


def test_abstract_types_come_back_as_plain_ones() -> None:
    assert codec.loads(codec.dumps((1, 2), Sequence[int]), Sequence[int]) == [1, 2]
    assert codec.loads(codec.dumps([1, 2], Iterable[int]), Iterable[int]) == [1, 2]
    assert codec.loads(codec.dumps(signal.SIGTERM, int), int) == 15


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"leaf": 7}, "leaf: a table (Leaf) should stand here, not 7"),
    ({"leaf": {"size": 1}}, "leaf.name: is missing"),
    ({"leaf": {"name": "x", "kind": "y"}}, "leaf.kind: is unknown in Leaf"),
    ({"leaf": {"name": "x", "size": True}}, "leaf.size: a whole number should stand here, not Tru"),
    ({"leaf": {"name": "x", "size": 1 << 64}}, "leaf.size: the number is too large"),
    ({"maybe": []}, "maybe: a table (Leaf) should stand here, not a list"),
    ({"either": {"name": "x"}}, "either: one of Leaf, Twig should stand here, not a dict"),
    ({"either": {"Path": "x"}}, "either: one of Leaf, Twig should stand here"),
    ({"either": {"Twig": {"ends": [1]}}}, "either.ends: a list of 2 should stand here, not a list"),
    ({"either": {"Twig": {"ends": [1, 2]}}}, "either.ends.[1]: text should stand here, not 2"),
    ({"leaves": [{"name": "x"}, {"name": 1}]}, "leaves.[1].name: text should stand here, not 1"),
    ({"by_name": {"k": {"name": None}}}, "by_name.k.name: text should stand here, not None"),
    ({"by_file": {"/x": "*"}}, "by_file./x: base64 should stand here, not '*'"),
    ({"by_file": {"/x\0": ""}}, "by_file./x?: a path should stand here, not '/x?'"),
    ({"address": {"IPv4Interface": "fd00::1"}}, "an IPv4 address and prefix should stand here"),
    ({"colour": "blue"}, "colour: one of RED, BLUE should stand here, not 'blue'"),
    ({"word": True}, "word: one of 'a', 'b', 1 should stand here, not True"),
    ({"word": "c" * 10**6}, "word: one of 'a', 'b', 1 should stand here, not 'ccc"),
    ({"share": "1"}, "share: a number should stand here, not '1'"),
    ({"yes": 1}, "yes: true or false should stand here, not 1"),
    ({"nothing": 0}, "nothing: nothing should stand here, not 0"),
    ({"pair": "12"}, "pair: a list of 2 should stand here, not '12'"),
    ({"branches": [{}]}, "branches.[0]."),
]


@pytest.mark.parametrize(("changed", "why"), WRONG)
def test_what_is_wrong_with_a_text_is_one_line_that_says_where(
    changed: dict[str, Any], why: str
) -> None:
    plain = json.loads(codec.dumps(tree(), Tree)) | changed
    with pytest.raises(CodecError) as told:
        codec.loads(json.dumps(plain).encode(), Tree)
    assert why in str(told.value)
    assert "\n" not in str(told.value)
    assert len(str(told.value)) < 300


@pytest.mark.parametrize(
    "changed",
    [
        {"leaf": Twig((1, "x"))}, {"leaf": None}, {"leaves": [1]}, {"by_name": {1: Leaf("x")}},
        {"pair": (1,)}, {"address": "10.0.0.1/8"}, {"colour": "BLUE"}, {"word": 2}, {"yes": 1},
        {"share": float("nan")}, {"share": float("inf")}, {"leaf": Leaf("x", True)},
        {"by_file": {Path("x"): "text"}}, {"either": None}, {"nothing": 0},
    ],
)  # fmt: skip
def test_a_value_that_is_not_of_its_type_is_not_written(changed: dict[str, Any]) -> None:
    with pytest.raises(CodecError, match=rf"^{next(iter(changed))}\b"):
        codec.dumps(tree(**changed), Tree)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b"1 2", "no JSON"),
        (b"NaN", "NaN is no number"),
        (b"-Infinity", "is no number"),
        (b"1e999", "a number should stand here, not inf"),
        (b"1" * 10_000, "no JSON"),
        (b"[" * 10**6, "too much in each other"),
        (b'{"a":' * 10**6, "too much in each other"),
        (b"[" + b"{}," * 10**6 + b"1]", "more than 1000000 values"),
        (b"[" + b'"",' * 10**6 + b"1]", "more than 1000000 values"),
        (b'"\\"' + b',"\\' * 2 * 10**6, "no JSON"),
    ],
)
def test_a_text_that_would_cost_much_or_is_none_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(CodecError, match=why):
        codec.loads(data, float)


def test_a_long_text_full_of_commas_is_a_text() -> None:
    text = '[{,\\"' * 1_000_000
    assert codec.loads(codec.dumps(text, str), str) == text


@pytest.mark.parametrize("kind", [object, Any, int | Any, list, dict, dict[str, object], complex])
def test_a_type_that_says_too_little_is_a_fault_of_ours(kind: Any) -> None:
    with pytest.raises((TypeError, IndexError, ValueError)):
        codec.dumps("x", kind)


@dataclass
class Endless:
    inner: list[Endless]


def test_what_holds_itself_is_refused() -> None:
    one = Endless([])
    one.inner.append(one)
    with pytest.raises(CodecError, match="holds itself"):
        codec.dumps(one, Endless)
    with pytest.raises(CodecError, match="too much in each other"):
        codec.loads(b'{"inner":[' * 700 + b"]}" * 700, Endless)


# --- anything at all ----------------------------------------------------------------------------

PLAIN = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats() | some.text(max_size=9),
    lambda inner: some.lists(inner, max_size=4) | some.dictionaries(some.text(), inner, max_size=4),
    max_leaves=10,
)


@settings(max_examples=100, deadline=None)
@given(some.sampled_from(list(Tree.__dataclass_fields__)), PLAIN)
def test_any_value_in_any_field_is_that_fields_or_one_error(name: str, plain: object) -> None:
    whole = json.loads(codec.dumps(tree(), Tree)) | {name: plain}
    try:
        found = codec.read(whole, Tree)
    except CodecError as wrong:
        told = str(wrong)
    else:
        assert codec.loads(codec.dumps(found, Tree), Tree) == found
        return
    assert told.startswith(name)
    assert told.isprintable()
    assert len(told) < 800


@settings(max_examples=100, deadline=None)
@given(some.integers(0, 800), some.binary(min_size=1, max_size=3))
def test_a_spoilt_text_is_a_value_or_one_error(at: int, spoilt: bytes) -> None:
    data = codec.dumps(tree(), Tree)
    try:
        found = codec.loads(data[:at] + spoilt + data[at + len(spoilt) :], Tree)
    except CodecError as wrong:
        told = str(wrong)
    else:
        assert isinstance(found, Tree)
        return
    assert told.isprintable()
