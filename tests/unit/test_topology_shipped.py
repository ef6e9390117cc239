"""The shipped topologies, the lookup by name, and the JSON Schema."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from labctl.errors import HostError, UsageError
from labctl.shipped import folder
from labctl.topology import TopologyError, find, from_mapping, json_schema, load, shipped

FILES = shipped()


def test_the_promised_topologies_are_shipped() -> None:
    names = {path.stem for path in FILES}
    assert names >= {"bridged", "router-hop", "dual-stack", "three-networks"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_shipped_topology_is_sound_and_helps_editors(path: Path) -> None:
    topology = load(path)
    assert topology.name == path.stem
    lines = path.read_text().splitlines()
    assert lines[0] == "# yaml-language-server: $schema=schema.json"
    jsonschema.Draft202012Validator(json_schema()).validate(yaml.safe_load(path.read_text()))


def test_the_addresses_of_the_first_stories_are_as_documented() -> None:
    hop = load(find("router-hop"))
    ends = [hop.nodes["vm1"].interfaces[0], hop.nodes["vm2"].interfaces[0]]
    assert [[str(a) for a in end.addresses] for end in ends] == [
        ["10.0.1.1/24", "fd00:1::1/64"],
        ["10.0.2.2/24", "fd00:2::2/64"],
    ]
    assert hop.routers["r1"].kind == "namespace"
    bridged = load(find("bridged"))
    assert {i.network for n in bridged.nodes.values() for i in n.interfaces} == {"lan"}


def test_the_committed_schema_is_that_of_the_model() -> None:
    committed = json.loads((folder("topologies") / "schema.json").read_text())
    assert committed == json_schema(), "run: labctl schema > topologies/schema.json"


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())


def every_property(part: Any) -> Iterator[tuple[str, Any]]:
    for definition in [part, *part.get("$defs", {}).values()]:
        yield from definition.get("properties", {}).items()


def test_every_property_of_the_schema_is_described() -> None:
    found = list(every_property(json_schema()))
    assert len(found) > 30
    assert [name for name, made in found if not made.get("description")] == []


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"nodes": {}},
        {"nodes": {"VM": {}}},
        {"nodes": {"a": {"memroy": 1}}},
        {"nodes": {"a": {"memory": 95}}},
        {"nodes": {"a": {"interfaces": [{}]}}},
        {"nodes": {"a": {"offload": {"guest": {"txx": False}}}}},
        {"nodes": {"a": {}}, "networks": {"sixteen-letters-": {}}},
        {"nodes": {"a": {}}, "networks": {"lan": {"subnets": ["10.0.0.0"]}}},
        {"nodes": {"a": {}}, "networks": {"lan": {"subnets": ["10.0.0.0/255.255.255.0"]}}},
        {"nodes": {"a": {}}, "networks": {"lan": {"addresses": ["10.0.0.1/255.255.255.0"]}}},
        {"nodes": {"a": {"routes": [{"to": "10.0.0.0/0.0.0.255", "via": "10.0.1.1"}]}}},
        {"nodes": {"a": {}}, "routers": {"r": {"interfaces": [{"network": "x"}]}}},
    ],
    ids=str,
)
def test_the_schema_refuses_what_labctl_refuses(wrong: dict[str, Any]) -> None:
    validator = jsonschema.Draft202012Validator(json_schema())
    assert not validator.is_valid(wrong)
    with pytest.raises(TopologyError):
        from_mapping(wrong)


@pytest.mark.parametrize("memory", [256, "256", " 256 ", "256M", "1 gib", "1024MB"])
def test_the_schema_takes_memory_as_labctl_does(memory: int | str) -> None:
    written = {"nodes": {"a": {"memory": memory}}}
    from_mapping(written)
    jsonschema.Draft202012Validator(json_schema()).validate(written)


def test_the_schema_takes_what_labctl_takes() -> None:
    right = {
        "x-mine": [1],
        "name": "lab",
        "networks": {"lan": None, "wan": {"mtu": 9000, "stp": True}},
        "nodes": {"a": {"memory": "1G", "offload": {"tap": {"tx": "off", "sg": True}}}},
    }
    jsonschema.Draft202012Validator(json_schema()).validate(right)


def test_a_name_is_looked_for_here_then_among_the_shipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find("bridged") == find("bridged.yaml") == folder("topologies") / "bridged.yaml"
    mine = tmp_path / "bridged.yaml"
    mine.write_text("nodes: {a: {}}\n")
    assert find("bridged").samefile(mine)
    assert find("bridged.yaml").samefile(mine)
    assert find(str(mine)) == mine


@pytest.mark.parametrize("name", ["bridged", "bridged.yaml"])
def test_a_file_that_somebody_else_left_here_is_not_taken_for_a_shipped_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The working directory may be /tmp."""
    (tmp_path / "bridged.yaml").write_text("name: theirs\n")
    (tmp_path / "own.yaml").write_text("name: theirs\n")
    monkeypatch.chdir(tmp_path)
    assert find(name) == Path("bridged.yaml")
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    look = Path.lstat

    def lstat(path: Path) -> os.stat_result:
        seen = list(look(path))
        seen[stat.ST_UID] = 12345
        return os.stat_result(seen)

    monkeypatch.setattr(Path, "lstat", lstat)
    assert find(name) == Path("bridged.yaml")  # their folder, in which this user works
    tmp_path.chmod(0o1777)
    assert find(name) == folder("topologies") / "bridged.yaml"
    assert find("./bridged.yaml") == Path("bridged.yaml")
    assert find("own") == Path("own.yaml")


def test_a_folder_of_a_shipped_name_is_not_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bridged").mkdir()
    assert find("bridged") == folder("topologies") / "bridged.yaml"


@pytest.mark.parametrize("kind", ["folder", "pipe", "loop"])
def test_what_is_there_but_no_file_is_found_for_reading_to_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    thing = tmp_path / "thing"
    match kind:
        case "folder":
            thing.mkdir()
        case "pipe":
            os.mkfifo(thing)
        case "loop":
            thing.symlink_to(thing)
    assert find("thing") == Path("thing")
    with pytest.raises(UsageError, match=r"is not a file|symbolic links"):
        load(find("thing"))


@pytest.mark.parametrize("name", ["routerhop", "sub/none.yaml", "", "x" * 5000, "a\0b"])
def test_an_unknown_name_is_told_the_shipped_ones(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        find(name)
    assert f"shipped: {', '.join(path.stem for path in FILES)}" in caught.value.hint
    if name == "routerhop":
        assert caught.value.hint.startswith("did you mean router-hop?")


def test_shipped_files_are_found_in_a_checkout_and_in_a_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "labctl"
    package.mkdir()
    monkeypatch.setattr("labctl.shipped._PACKAGE", package)
    with pytest.raises(HostError, match="has no images"):
        folder("images")
    (tmp_path / "images").mkdir()
    assert folder("images") == tmp_path / "images"
    (package / "_shipped" / "images").mkdir(parents=True)
    assert folder("images") == package / "_shipped" / "images"
