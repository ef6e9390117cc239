"""Making inputs: values after a JSON Schema, and sound inputs with parts replaced.

All from a `random.Random`, so that its seed names an input. Strategies of hypothesis did the same
in 9 ms an input, of which a million are wanted; what shrinks a finding is in `findings`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

STRANGE: list[Any] = [
    None, True, 0, -1, 1, 2**31, 2**63, 10**30, 10**4000, 0.5, float("inf"), float("nan"), -0.0,
    "", " ", "\0", "\x1b[31m", "a\nb", "\u202e", "\ud800", "\uffff", "é", "x" * 300, "../..",
    "/", "%s", "{}", "{0.__class__}", "<b>", "0x10", "1e5", "1_0", "\u0661", "~", "[]", [], {},
    [[]], {"": ""}, {"\x1b]0;x\x07": 1},
]  # fmt: skip
"""Values that mean something to a parser, and seldom what it was made for."""
_DEEPEST = 12

Make = Callable[[Random], Any]


class _Derived:
    """Makes values after a JSON Schema, some of them strange."""

    def __init__(self, schema: dict[str, Any], words: Sequence[str], odd: float) -> None:
        self.schema = schema
        self.words = list(words)
        self.odd = odd
        self.fitting: dict[str, list[str]] = {}

    def strange(self, rng: Random) -> Any:
        return rng.choice(STRANGE if rng.random() < 0.5 else self.words)

    def value(self, rng: Random, schema: dict[str, Any], depth: int = 0) -> Any:
        """Return what fits a schema, or with the probability `odd` a strange value."""
        if rng.random() < self.odd or depth > _DEEPEST:
            return self.strange(rng)
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            return self.value(rng, self.schema["$defs"][name], depth + 1)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return rng.choice(schema["enum"])
        for several in ("anyOf", "oneOf"):
            if several in schema:
                return self.value(rng, rng.choice(schema[several]), depth + 1)
        match schema.get("type"):
            case "object":
                return self.mapping(rng, schema, depth)
            case "array":
                count = rng.randrange(schema.get("minItems", 0), 4)
                items = schema.get("items", {})
                return [self.value(rng, items, depth + 1) for _ in range(count)]
            case "integer":
                low, high = schema.get("minimum", -2), schema.get("maximum", 2**33)
                edges = [low, high, low - 1, high + 1]
                return rng.choice(edges) if rng.random() < 0.2 else rng.randint(low, high)
            case "number":
                return rng.uniform(0, 1e9)
            case "boolean":
                return rng.random() < 0.5
            case "null":
                return None
            case "string":
                return self.text(rng, schema.get("pattern", ""))
        return self.strange(rng)

    def mapping(self, rng: Random, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        properties: dict[str, Any] = schema.get("properties", {})
        required = schema.get("required", ())
        made = {
            key: self.value(rng, inside, depth + 1)
            for key, inside in properties.items()
            if rng.random() < (1 - self.odd / 4 if key in required else 0.4)
        }
        pattern = schema.get("propertyNames", {}).get("pattern", "")
        more = schema.get("additionalProperties")
        if "patternProperties" in schema:
            pattern, more = next(iter(schema["patternProperties"].items()))
        if isinstance(more, dict):
            for _ in range(rng.randrange(4)):
                made[self.text(rng, pattern)] = self.value(rng, more, depth + 1)
        if rng.random() < self.odd / 2:
            made[rng.choice(self.words)] = self.strange(rng)
        if rng.random() < self.odd / 2:
            made[rng.choice([one for one in STRANGE if isinstance(one, str)])] = self.strange(rng)
        return made

    def text(self, rng: Random, pattern: str) -> str:
        if pattern not in self.fitting:
            fitting = [word for word in self.words if re.search(pattern, word)]
            self.fitting[pattern] = fitting or self.words
        return rng.choice(self.fitting[pattern])


def derived(schema: dict[str, Any], words: Sequence[str]) -> Make:
    """Return what makes values that mostly fit a JSON Schema, and whose texts are `words`.

    One in three fits in all; of the others each value is strange with a probability of 3 %.
    """
    sound, odd = _Derived(schema, words, 0.0), _Derived(schema, words, 0.03)
    return lambda rng: (sound if rng.random() < 1 / 3 else odd).value(rng, schema)


def as_json(value: object) -> bytes:
    """Return a value as JSON, which is YAML too."""
    return json.dumps(value).encode()


def changed(rng: Random, data: bytes, tokens: Sequence[bytes], most: int = 4) -> bytes:
    """Return an input in which up to `most` parts are replaced by tokens, bytes, or its own."""
    for _ in range(rng.randint(1, most)):
        at = rng.randrange(len(data) + 1)
        length = rng.choice([0, 0, 1, 2, 4, 8, 40, len(data)])
        kind = rng.random()
        if kind < 0.6:
            put = rng.choice(tokens)
        elif kind < 0.8:
            put = rng.randbytes(rng.randrange(8))
        else:
            begin = rng.randrange(len(data) + 1)
            put = data[begin : begin + rng.randrange(80)]
        data = data[:at] + put + data[at + length :]
    return data
