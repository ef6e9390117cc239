"""Conditions on what a hop saw of a packet, such as `state==partial and not needs_csum`.

The language is that of comparisons in Python, read by Python's own parser and evaluated here: names
of what is known of a step and of its packet, words, numbers, and, or, not, in. Nothing is called.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

from labctl.errors import UsageError, clean, nearest
from labctl.packet.checksum import Checksum, Metadata
from labctl.packet.virtio import GSO_TYPES
from labctl.tracing.packet_trace import HopEvent, PacketTrace, Step

LONGEST = 1000
FIELDS: dict[str, Callable[[PacketTrace, Step], Any]] = {
    "hop": lambda _, step: step.hop,
    "owner": lambda _, step: step.owner,
    "state": lambda _, step: None if step.state is None else str(step.state),
    "metadata": lambda _, step: None if step.metadata is None else str(step.metadata),
    "happened": lambda _, step: str(step.happened),
    "reason": lambda _, step: step.reason,
    "gso": lambda _, step: step.gso,
    "gso_size": lambda _, step: step.gso_size,
    "length": lambda _, step: step.length,
    "pieces": lambda _, step: step.pieces,
    "ms": lambda packet, step: ((step.time_ns or packet.started_ns) - packet.started_ns) / 1e6,
    "kind": lambda packet, _: packet.kind,
    "protocol": lambda packet, _: packet.protocol,
    "source": lambda packet, _: packet.source,
    "sport": lambda packet, _: packet.sport,
    "destination": lambda packet, _: packet.destination,
    "dport": lambda packet, _: packet.dport,
    "outcome": lambda packet, _: str(packet.outcome),
    "seen": lambda _, step: step.seen,
    "needs_csum": lambda _, step: step.metadata is Metadata.NEEDS_CSUM,
    "data_valid": lambda _, step: step.metadata is Metadata.DATA_VALID,
    "arrived": lambda packet, _: packet.ok,
}
"""What may be asked of each hop's step, and of the packet."""
WORDS = frozenset(
    {*map(str, Checksum), *map(str, Metadata), *GSO_TYPES, "merged", "tcp", "udp", "icmp", "icmpv6"}
    | {str(event) for event in HopEvent if " " not in event}
    | {"UDP", "SYN", "ACK", "FIN", "RST"}
)
"""Words that need no quotes."""
_HINT = f"such as: state==partial and not needs_csum; known: {', '.join(FIELDS)}"
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda one, many: one in many,
    ast.NotIn: lambda one, many: one not in many,
}
Value = Callable[[Mapping[str, Any]], Any]


class Where:
    """A condition, read and checked; it holds of a packet of which it holds at some hop."""

    def __init__(self, expression: str) -> None:
        """Read an expression; raises `UsageError`, with the column, for what is none."""
        self.expression = expression
        if len(expression) > LONGEST:
            raise UsageError(f"the condition is longer than {LONGEST} characters", _HINT)
        try:
            tree = ast.parse(expression.strip(), mode="eval")
            self._holds = _read(tree.body)
        except SyntaxError as wrong:
            raise _wrong(wrong.offset or 1, "no condition can be read here") from None
        except (ValueError, RecursionError, MemoryError):
            raise UsageError("the condition cannot be read", _HINT) from None

    def __call__(self, packet_trace: PacketTrace) -> bool:
        """Tell whether it holds at some hop of the packet's."""
        return any(
            self._holds({name: field(packet_trace, step) for name, field in FIELDS.items()})
            for step in packet_trace.steps
        )


def _wrong(column: int, what: str) -> UsageError:
    return UsageError(f"the condition is wrong at column {column}: {what}", _HINT)


def _read(node: ast.expr) -> Value:
    """Return what evaluates a part of the tree; raises `UsageError` for parts of another kind."""
    match node:
        case ast.BoolOp(op=ast.And(), values=values):
            parts = [_read(one) for one in values]
            return lambda known: all(part(known) for part in parts)
        case ast.BoolOp(op=ast.Or(), values=values):
            parts = [_read(one) for one in values]
            return lambda known: any(part(known) for part in parts)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            inner = _read(operand)
            return lambda known: not inner(known)
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            return _comparison([left, *comparators], ops)
        case ast.Tuple(elts=elements) | ast.List(elts=elements) | ast.Set(elts=elements):
            parts = [_read(one) for one in elements]
            return lambda known: [part(known) for part in parts]
        case ast.Constant(value=value) if type(value) in (str, int, float):
            return lambda _: value
        case ast.Name(id=name):
            return _name(node, name)
    raise _wrong(node.col_offset + 1, "this is no part of a condition")


def _name(node: ast.Name, name: str) -> Value:
    if name in FIELDS:
        return lambda known: known[name]
    if name in WORDS:
        return lambda _: name
    what = f"{clean(name[:40])!r} is not known, {nearest(name, [*FIELDS, *WORDS])}"
    raise _wrong(node.col_offset + 1, what)


def _comparison(values: list[ast.expr], ops: list[ast.cmpop]) -> Value:
    for op, right in zip(ops, values[1:], strict=True):
        if type(op) not in _COMPARISONS:
            raise _wrong(right.col_offset + 1, "this comparison is not known")
    parts = [_read(one) for one in values]
    how = [_COMPARISONS[type(op)] for op in ops]

    def compare(known: Mapping[str, Any]) -> bool:
        found = [part(known) for part in parts]
        try:
            return all(one(a, b) for one, a, b in zip(how, found, found[1:], strict=False))
        except TypeError:  # a number and a word, or what is not known at this hop
            return False

    return compare
