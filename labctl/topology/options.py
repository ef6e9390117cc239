"""What a topology says to a kind: `options:`, checked by the dataclass that the kind has for it."""

from __future__ import annotations

import dataclasses
import typing
from functools import cache
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from labctl.errors import nearest, shown
from labctl.kinds.base import Kind, Option
from labctl.topology.tree import Loc, Report
from labctl.topology.validation import tell


def read(
    kind: Kind, given: dict[str, Any], loc: Loc, report: Report
) -> tuple[dict[str, Option], Any]:
    """Return what was given with types checked, and the kind's object made of it.

    That is None where something is wrong, which goes into `report`; `loc` is where `options` is,
    or would be.
    """
    declared: Any = kind.options
    known = _model(declared)
    try:
        checked: dict[str, Option] = known.model_validate(given).model_dump(exclude_unset=True)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            key = str(detail["loc"][0])
            if detail["type"] == "extra_forbidden":
                has = f"{kind.name} has {', '.join(known.model_fields) or 'none'}"
                near = nearest(key, known.model_fields) if known.model_fields else ""
                hint = near if near.startswith("did") else has
                report.add((*loc, key), f"unknown option {shown(key)}", hint, key=True)
            elif detail["type"] == "missing":
                what = f"the kind {kind.name} needs the option {shown(key)}"
                report.add(loc, what, known.model_fields[key].description or "")
            else:
                tell(detail, (*loc, key), report)
        return {}, None
    try:
        return checked, kind.options(**checked)
    except ValueError as wrong:
        report.add(loc, f"the options of {kind.name}: {wrong}")
        return {}, None


def schema(kind: Kind) -> dict[str, Any]:
    """Return the JSON Schema of a kind's options."""
    declared: Any = kind.options
    made = _model(declared).model_json_schema()
    return {key: made[key] for key in ("properties", "required") if made.get(key)} | {
        "additionalProperties": False
    }


@cache
def _model(options: Any) -> type[BaseModel]:
    """Return a pydantic model of a dataclass: kinds themselves need the standard library only."""
    types = typing.get_type_hints(options)
    fields: dict[str, Any] = {}
    for one in dataclasses.fields(options):
        needed = one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING
        default = ... if needed else one.default
        if not needed and one.default is dataclasses.MISSING:
            assert one.default_factory is not dataclasses.MISSING
            default = one.default_factory()
        help_ = one.metadata.get("help")
        fields[one.name] = (types[one.name], Field(default, description=help_))
    return create_model(
        options.__name__, __config__=ConfigDict(extra="forbid", strict=True), **fields
    )
