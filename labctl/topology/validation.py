"""From the tree to the shape: pydantic's judgement, told in labctl's words at the file's places.

Faulty values are left out and the rest is tried again, so that the rules on the whole topology
(`check`) still run over what is sound.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from labctl.errors import nearest, shown
from labctl.topology import schema
from labctl.topology.tree import Item, Loc, Report

_KEYS = "its keys are name, defaults, groups, networks, nodes, routers"
_Shape = TypeVar("_Shape", bound=BaseModel)


def shaped(root: Item, report: Report) -> schema.Topology | None:
    """Return the shape of what is sound in `root`; None where too little is.

    What is not goes into `report` and is marked dead in the tree.
    """
    return read_shape(root, report, schema.Topology, "a topology", _KEYS)


def read_shape(
    root: Item, report: Report, model: type[_Shape], what: str, keys: str
) -> _Shape | None:
    """Return the shape of what is sound in a file that is `what`, as `shaped` does."""
    if root.mapping is None:
        report.add((), f"{what} is a mapping, not {_kind(root)}", keys)
        return None
    for key, item in root.mapping.items():
        if key.startswith("x-"):  # the user's own, for anchors
            item.dead = True
    first = True
    while not root.dead:
        try:
            return model.model_validate(root.plain())
        except ValidationError as error:
            details = error.errors(include_url=False)
        faulty = []
        for detail in details:
            loc = detail["loc"]
            found = root.walk(loc)
            of_key = len(found) <= len(loc) and loc[-1] == "[key]"
            if of_key:
                loc = loc[:-1]
                found = root.walk(loc)
            # Of a missing key, the mapping that should hold it is the faulty item.
            faulty.append(found[-1])
            if first:  # later rounds fail only for what was left out
                _tell(detail, loc, found[-1], of_key, report, model)
        for item in faulty:
            item.dead = True
        first = False
    return None


def tell(detail: ErrorDetails, loc: Loc, report: Report) -> None:
    """Report what pydantic says of the value at `loc`."""
    _tell(detail, loc, report.root.walk(loc)[-1], False, report, schema.Topology)


def _kind(item: Item) -> str:
    if item.mapping is not None:
        return "a mapping"
    return "a list" if item.sequence is not None else shown(item.value)


def _tell(
    detail: ErrorDetails,
    loc: Loc,
    item: Item,
    of_key: bool,
    report: Report,
    model: type[BaseModel],
) -> None:
    last = loc[-1] if loc else ""
    match detail["type"]:
        case "labctl":
            report.add(loc, detail["msg"], detail["ctx"]["hint"], key=of_key)
        case "extra_forbidden":
            hint = nearest(str(last), _fields(loc[:-1], model))
            report.add(loc, f"unknown key {shown(last)}", hint, key=True)
        case "missing":
            report.add(loc, f"the key {shown(last)} is missing")
        case "model_type" | "dict_type":
            hint = "write {} for an empty one" if _kind(item) == "nothing" else ""
            report.add(loc, f"{_what(loc)} must be a mapping, not {_kind(item)}", hint)
        case "list_type":
            hint = "write [] for an empty one" if _kind(item) == "nothing" else ""
            report.add(loc, f"{_what(loc)} must be a list, not {_kind(item)}", hint)
        case "too_long":
            most = detail["ctx"]["max_length"]
            report.add(loc, f"{_what(loc)} is too long", f"at most {most} are possible")
        case "literal_error":
            choices = re.findall(r"'([^']+)'", str(detail["ctx"]["expected"]))
            hint = nearest(str(item.value), choices)
            report.add(loc, f"there is no {_what(loc)} {_kind(item)}", hint)
        case _:
            report.add(loc, f"{_what(loc)}: {detail['msg']}", key=of_key)


def _what(loc: Loc) -> str:
    """Return what a message calls the value at `loc`: its key, or the list it is in."""
    for at in range(len(loc) - 1, -1, -1):
        key = loc[at]
        if isinstance(key, str):
            return key if at == len(loc) - 1 else f"each of {key}"
    return "a topology"


def _fields(loc: Loc, model: type[BaseModel]) -> list[str]:
    """Return the keys that the mapping at `loc` may have."""
    known: Any = model
    for key in loc:
        if isinstance(known, type) and issubclass(known, BaseModel):
            known = known.model_fields[str(key)].annotation
        else:
            known = get_args(known)[-1]  # of a list, or of a dict
        parts = get_args(known)
        if type(None) in parts:  # of X | None
            known = next(part for part in parts if part is not type(None))
        if get_origin(known) is Annotated:  # of a name or a mapping, only the latter has keys
            either = get_args(get_args(known)[0])
            known = next((part for part in either if isinstance(part, type)), known)
    return list(known.model_fields)
