"""Which nodes and routers are meant."""

from __future__ import annotations

import pytest

from labctl import topology
from labctl.errors import UsageError
from labctl.lab.targets import chosen, is_pattern

FILE = """\
name: several
networks: {lan: {subnets: [10.0.1.0/24]}, far: {subnets: [10.0.2.0/24]}}
nodes:
  web1: {labels: {role: web, rack: a}, interfaces: [{network: lan, addresses: [10.0.1.1/24]}]}
  web2: {labels: {role: web, rack: b}, interfaces: [{network: lan, addresses: [10.0.1.2/24]}]}
  db1: {labels: {role: db}, interfaces: [{network: lan, addresses: [10.0.1.3/24]}]}
routers:
  r1:
    labels: {rack: a}
    kind: namespace
    interfaces:
      - {network: lan, addresses: [10.0.1.254/24]}
      - {network: far, addresses: [10.0.2.254/24]}
"""
MODEL = topology.loads(FILE, "several.yaml")


@pytest.mark.parametrize(
    ("how", "names"),
    [
        ({"everything": True}, ["web1", "web2", "db1"]),
        ({"pattern": "web*"}, ["web1", "web2"]),
        ({"pattern": "*1"}, ["web1", "db1", "r1"]),
        ({"pattern": "r1,db1,web1"}, ["web1", "db1", "r1"]),
        ({"pattern": "web[2-9]"}, ["web2"]),
        ({"labels": ["role=web"]}, ["web1", "web2"]),
        ({"labels": ["rack"]}, ["web1", "web2", "r1"]),
        ({"labels": ["rack=a", "role"]}, ["web1"]),
        ({"labels": ["rack=a"], "everything": True}, ["web1"]),
        ({"labels": ["rack=a"], "pattern": "r*"}, ["r1"]),
    ],
)
def test_what_is_meant_comes_in_the_topologys_order(
    how: dict[str, object], names: list[str]
) -> None:
    assert chosen(MODEL, **how) == names  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("how", "hint"),
    [
        ({"pattern": "web*,wab2"}, "did you mean web2?"),
        ({"pattern": "x*"}, "known: db1, r1, web1, web2"),
        ({"labels": ["role=wbe"]}, "role=web"),
        ({"labels": ["role="]}, "role=web"),
        ({"pattern": ","}, ""),
    ],
)
def test_what_means_nothing_is_told_with_what_there_is(how: dict[str, object], hint: str) -> None:
    with pytest.raises(UsageError, match="no node or router matches") as wrong:
        chosen(MODEL, **how)  # type: ignore[arg-type]
    assert hint in wrong.value.hint


def test_a_name_is_no_pattern() -> None:
    assert not is_pattern("web1-a")
    assert all(map(is_pattern, ("web*", "a,b", "w?b", "[ab]")))
