"""The shape of `impairment:`: how an interface's link is made worse, as a pydantic model."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, PlainValidator, WithJsonSchema

from labctl.errors import UsageError, shown
from labctl.topology import fields
from labctl.topology.impairment import DURATION, EXAMPLES, PERCENTAGE, RATE, reading


def _one(name: str) -> PlainValidator:
    """Return what reads one value: text, which is kept, or a bare number of percent."""

    def read(value: object) -> str:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            fields.refuse(f"{name} must be text such as {EXAMPLES[name]}")
        text = value if isinstance(value, str) else shown(value)
        try:
            reading({name: text}, part=True)
        except UsageError as wrong:
            fields.refuse(wrong.message, wrong.hint)
        return text

    return PlainValidator(read)


_TIME = WithJsonSchema({"type": "string", "pattern": DURATION})
_SHARE = WithJsonSchema(
    {
        "anyOf": [
            {"type": "number", "minimum": 0, "maximum": 100},
            {"type": "string", "pattern": PERCENTAGE},
        ]
    }
)
_BITS = WithJsonSchema({"type": "string", "pattern": RATE})


class Impairment(BaseModel):
    """What happens to frames on their way from the network to an interface, by tc-netem(8)."""

    model_config = fields.STRICT

    delay: Annotated[str, _one("delay"), _TIME] | None = None
    """How much later they come: 20ms."""
    jitter: Annotated[str, _one("jitter"), _TIME] | None = None
    """By how much the delay is more or less: 5ms."""
    loss: Annotated[str, _one("loss"), _SHARE] | None = None
    """How many are lost: 1%."""
    duplicate: Annotated[str, _one("duplicate"), _SHARE] | None = None
    """How many come twice."""
    corrupt: Annotated[str, _one("corrupt"), _SHARE] | None = None
    """In how many a bit is flipped."""
    reorder: Annotated[str, _one("reorder"), _SHARE] | None = None
    """How many overtake those that are delayed."""
    rate: Annotated[str, _one("rate"), _BITS] | None = None
    """How many bits come in a second: 10mbit."""

    def words(self) -> dict[str, Any]:
        """Return what is written, as `labctl.topology.impairment.reading` takes it."""
        return self.model_dump(exclude_none=True)
