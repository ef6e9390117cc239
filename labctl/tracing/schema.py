"""What a trace prints as lines of JSON, declared: `labctl schema trace`.

A test holds what is printed to it, so that the two cannot drift apart.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from labctl.packet.checksum import Checksum, Metadata
from labctl.tracing.packet_trace import HopEvent, Outcome


class _Object(BaseModel):
    model_config = ConfigDict(extra="forbid")


class FlowFields(_Object):
    """Which packets are followed."""

    protocol: Literal["tcp", "udp", "icmp"]
    port: int | None
    version: Literal[4, 6]
    source: str
    destination: str


class Ready(_Object):
    """Nothing that is sent from now on is missed."""

    event: Literal["ready"]
    lab: str
    source: str = Field(description="the node that the way begins at")
    destination: str
    flow: FlowFields
    path: list[str] = Field(description="the hops, in the order of the way there")


class StepFields(_Object):
    """One hop of a packet."""

    hop: str
    place: Literal["guest", "router", "host"]
    owner: str
    happened: HopEvent
    time_ns: int | None = Field(description="nanoseconds since the epoch, on the host's clock")
    state: Checksum | None
    metadata: Metadata | None
    field: str | None = Field(description="the checksum field, hexadecimal")
    pseudo_sum: str | None = Field(description="the value that would be partial")
    expected: str | None = Field(description="the value that would be valid")
    gso: str = Field(description="the virtio header's type, or merged; empty for one packet")
    gso_size: int
    segments: int | None = Field(description="how many it is to be cut into, where that is known")
    segmentation: str = Field(description="the same in words")
    length: int = Field(description="bytes of the frame, of all pieces together")
    pieces: int = Field(description="how many frames it was; 0 where it was not seen")
    reason: str = Field(description="the kernel's reason of a drop")
    notes: list[str]


class Packet(_Object):
    """One packet, hop by hop."""

    event: Literal["packet"]
    kind: str
    protocol: str
    source: str
    sport: int | None
    destination: str
    dport: int | None
    fate: Outcome
    reason: str
    remark: str
    where: str = Field(description="the place that harmed or lost it")
    steps: list[StepFields]


class PointFields(_Object):
    """What the observer of a hop saw, and what it missed."""

    hop: str
    frames: int
    missed: int | None = Field(description="frames the kernel dropped; null where nobody can tell")
    errors: int | None
    left_out: int = Field(description="frames beyond what is kept")
    complete: bool
    note: str


class TranslationFields(_Object):
    """A mapping of address translation."""

    what: Literal["source", "destination"]
    before: str
    after: str
    where: str
    there: int = Field(description="packets that it was applied to")
    back: int = Field(description="answers that had it undone")


class ComplaintFields(_Object):
    """What a router or host said of packets by ICMP."""

    model_config = ConfigDict(extra="allow")


class End(_Object):
    """What is known at the end."""

    event: Literal["end"]
    lab: str
    source: str
    destination: str
    flow: FlowFields
    path: list[str]
    well: bool | None = Field(description="all arrived unharmed; null where that cannot be told")
    partial: bool = Field(description="evidence is missing: what was not seen proves nothing")
    notes: list[str]
    said: list[str] = Field(description="what the program said that sent it")
    checksum_errors: dict[str, dict[str, int]]
    router_counters: dict[str, dict[str, int]]
    complaints: list[ComplaintFields]
    seen: dict[str, dict[str, int]] = Field(description="by hop, frames of each kind")
    points: list[PointFields]
    translations: list[TranslationFields]
    left_out: int = Field(description="packets that --filter or --where left out")


Line = Annotated[Ready | Packet | End, Field(discriminator="event")]
LINE: TypeAdapter[Ready | Packet | End] = TypeAdapter(Line)


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a line."""
    made = LINE.json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}
