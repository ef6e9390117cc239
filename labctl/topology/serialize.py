"""A resolved topology as plain data and back, for records that outlive the file it came from."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter, ValidationError

from labctl.topology.model import Topology

_TOPOLOGY = TypeAdapter(Topology)


def to_json(topology: Topology) -> dict[str, Any]:
    """Return a topology as plain data, ready for `json.dumps`; the file it came from is left out.

    A path tells nothing on another machine; what was in the file is all there.
    """
    data: dict[str, Any] = _TOPOLOGY.dump_python(topology, mode="json", exclude={"source"})
    for node in data["nodes"].values():
        for key in ("kind", "role", "disk", "user_data", "user_data_file", "files", "exec", "login",
                    "console", "console_only", "tools"):  # fmt: skip
            if not node[key]:  # as in records from before a node could say it
                del node[key]
    for owner in (*data["nodes"].values(), *data["routers"].values()):
        for interface in owner["interfaces"]:
            told = {name: value for name, value in interface.pop("impairment").items() if value}
            if told:
                interface["impairment"] = told
    return data


def from_json(data: object) -> Topology:
    """Return the topology that `to_json` gave; raises `ValueError` where it is no such data."""
    if not isinstance(data, dict):
        raise ValueError("not a topology")
    try:
        return _TOPOLOGY.validate_python({**data, "source": None})
    except ValidationError as wrong:
        first = wrong.errors(include_url=False)[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
