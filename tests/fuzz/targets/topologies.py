"""Topology files: YAML to a resolved model, or all that is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from random import Random

from labctl.cli.options import print_error
from labctl.errors import UsageError
from labctl.topology import json_schema, load, serialize, shipped
from labctl.topology.tree import MAX_BYTES

from ..mutate import Make, as_json, changed, derived
from ..scratch import file_of
from ..target import Target, WrongError, printed

KEYS = """
    name defaults networks nodes routers interfaces network addresses mac model mtu offload guest
    tap device tx csum routes to via kind memory vcpus kernel initramfs image subnets stp hypervisor
    host labels x-a << segments segment options
"""
VALUES = """
    default raw raw-vnet kernel 10.0.1.1/24 10.0.1.0/24 fd00::1/64 fd00::/64 10.0.1.9 fd00::9
    10.0.2.0/24 52:54:00:00:00:01 on off 96 1G lan wan vm1 vm2 r1 h xen virtio e1000 micro role
    west wire veth bridge ~/x ./bzImage a.b 0 -1 1.5
"""
WORDS = [*KEYS.split(), *VALUES.split(), "[key]", "tx-checksumming", "x" * 16]
MARKS = [": ", "\n", "\n  ", "  - ", "{", "}", "[", "]", ", ", "&a ", "*a", "!!int ", "!!float ",
         '"', "'", "|\n", ">\n", "---\n", "%YAML 1.1\n", "? ", '"\\e[31m"', '"\\ud800"', "\t", "#",
         "0x", "1e999", "<<: *a\n", "\ufeff", "\x85", "\u2028"]  # fmt: skip
TOKENS = [word.encode() for word in (*WORDS, *MARKS)]


def check(data: bytes) -> None:
    """Read a file as every verb does; what is read must survive being stored."""
    path = file_of(data, "t.yaml")
    try:
        topology = load(path)
    except UsageError as error:
        told = error
        printed(lambda: print_error(told), colours=False)
        raise
    if len(topology.digest()) != 64:
        raise WrongError("a topology without a digest")
    kept = serialize.from_json(json.loads(json.dumps(serialize.to_json(topology))))
    if serialize.to_json(kept) != serialize.to_json(topology):
        raise WrongError("a topology is stored as another")


@cache
def seeds() -> Sequence[bytes]:
    """Every shipped topology."""
    return tuple(path.read_bytes() for path in shipped())


@cache
def _derived() -> Make:
    return derived(json_schema(), WORDS)


def make(rng: Random) -> bytes:
    """Make one of the published schema, of tokens, or of a shipped one with parts replaced."""
    kind = rng.random()
    if kind < 0.5:
        return as_json(_derived()(rng))
    if kind < 0.6:
        return b"".join(rng.choices(TOKENS, k=rng.randrange(40)))
    return changed(rng, rng.choice(seeds()), TOKENS)


TARGET = Target(
    "topologies",
    "YAML files of labs",
    10**6,
    ("labctl.topology",),
    seeds,
    make,
    check,
    words=[*WORDS, *MARKS],
    longest=min(8192, MAX_BYTES),
)
