"""What every verb prints with --json, against a schema: nothing less, and nothing unsaid."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from live import Place, place

pytestmark = pytest.mark.integration

LAB = """\
name: shapes
networks: {lan: {subnets: [10.0.1.0/24]}, far: {subnets: [10.0.2.0/24]}}
nodes:
  a[1-2]:
    kind: namespace
    interfaces: [{network: lan, addresses: [10.0.1.1/24]}]
    routes: [{to: default, via: 10.0.1.254}]
  b:
    kind: namespace
    interfaces: [{network: far, addresses: [10.0.2.1/24]}]
    routes: [{to: default, via: 10.0.2.254}]
routers:
  r1:
    interfaces:
      - {network: lan, addresses: [10.0.1.254/24]}
      - {network: far, addresses: [10.0.2.254/24]}
"""
TEXT: dict[str, Any] = {"type": "string"}
NUMBER: dict[str, Any] = {"type": "number"}
FLAG: dict[str, Any] = {"type": "boolean"}
ANY: dict[str, Any] = {}


def each(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": item}


def by_name(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": item}


def has(maybe: dict[str, Any] | None = None, /, **keys: dict[str, Any]) -> dict[str, Any]:
    """An object with these keys, those that there may be, and no other."""
    return {
        "type": "object",
        "properties": {name.rstrip("_"): what for name, what in {**keys, **(maybe or {})}.items()},
        "required": [name.rstrip("_") for name in keys],
        "additionalProperties": False,
    }


IMPAIRMENT = by_name(TEXT)
INTERFACE = has(
    name=TEXT, network=TEXT, segment=TEXT, mac=TEXT, mtu=NUMBER, kind=TEXT, outer=TEXT,
    addresses=each(TEXT),
)  # fmt: skip
PART = has(
    {
        "start": TEXT, "links": by_name(TEXT), "links_down": each(TEXT),
        "interfaces": each(INTERFACE),
    },
    name=TEXT, is_=TEXT, state=TEXT, image=TEXT, addresses=TEXT,
)  # fmt: skip
STATUS = {
    "name": TEXT, "state": TEXT, "directory": TEXT, "topology": TEXT, "accel": TEXT,
    "started": TEXT, "published": each(has(listens=TEXT, node=TEXT, port=NUMBER)),
    "parts": each(PART),
}  # fmt: skip
LINK = has(name=TEXT, network=TEXT, other_end=TEXT, state=TEXT, impairment=IMPAIRMENT)
ELEMENT = has(
    name=TEXT, what=TEXT, kind=TEXT, host=TEXT, details=each(TEXT), state=TEXT,
)  # fmt: skip
NODES = has(lab=TEXT, nodes=each(has(name=TEXT, state=TEXT, changed=FLAG)))
SAVE = has(
    name=TEXT, lab=TEXT, saved=TEXT, guests=each(TEXT), size=NUMBER, notes=each(TEXT), path=TEXT
)
ERROR = has(error=TEXT, hint=TEXT, detail=TEXT)
OK = [
    ("status --json", each(has(**STATUS))),
    ("link --json", has(lab=TEXT, links=each(LINK))),
    ("link b:eth0 down --json", has(lab=TEXT, links=each(LINK))),
    ("link b:eth0 up --json", has(lab=TEXT, links=each(LINK))),
    ("stop a2 --json", NODES),
    ("start a2 --json", NODES),
    ("restart a2 --json", NODES),
    ("publish --json", has(lab=TEXT, published=each(has(listens=TEXT, node=TEXT, port=NUMBER)))),
    (
        "graph --json",
        has(
            name=TEXT, owners=each(ELEMENT), networks=each(ELEMENT),
            links=each(has(
                owner=TEXT, name=TEXT, network=TEXT, segment=TEXT, addresses=each(TEXT), what=TEXT,
            )),
        ),
    ),
    (
        "up shapes.yaml --dry-run --json",
        has(
            lab=TEXT, changed=FLAG,
            plan=has(removed=by_name(each(TEXT)), added=by_name(each(TEXT)),
                     networks=ANY, nodes=ANY, routers=ANY, impaired=ANY),
        ),
    ),
    ("save one --json", SAVE),
    ("saves --json", each(SAVE)),
    ("saves list --json", each(SAVE)),
    ("results --json", each(ANY)),
    ("image list --json", each(ANY)),
    ("validate shapes.yaml --json", ANY),
    ("report --lab shapes --json", has(lab=TEXT, path=TEXT)),
    ("down --json", has(down=each(TEXT))),
    ("restore one --json", has(**STATUS, seconds=NUMBER)),
    ("saves rm one --json", has(removed=each(TEXT))),
]  # fmt: skip
WRONG = ["restore none --json", "stop nobody --json", "link x:y down --json", "save a%b --json"]


@pytest.fixture(scope="module")
def here(pytestconfig: pytest.Config) -> Iterator[Place]:
    with place(pytestconfig.getoption("--accel")) as where:
        where.env["XDG_STATE_HOME"] = str(where.root / "state")
        (where.root / "state").mkdir(mode=0o700)
        where.write("shapes.yaml", LAB)
        yield where


def test_the_json_of_every_verb_on_a_lab_is_as_its_schema_says(here: Place) -> None:
    first = ("up shapes.yaml --json", has(**STATUS, seconds=NUMBER, timings=by_name(NUMBER)))
    wrong = []
    for line, schema in [first, *OK, *((line, ERROR) for line in WRONG)]:
        done = here.run(*line.split())
        assert done.status in ((2, 3) if schema is ERROR else (0,)), f"labctl {line}: {done}"
        found = jsonschema.Draft202012Validator(schema).iter_errors(done.json())
        wrong += [f"labctl {line}: {one.message} at {one.json_path}" for one in found]
    assert wrong == []
