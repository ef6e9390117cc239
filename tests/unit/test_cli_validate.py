"""What `validate` tells of images and places, and what else was in the way of a first file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_words import Labctl

from labctl import backends, topology
from labctl.errors import UsageError
from labctl.events import silent

pytest_plugins = ["cli_words"]
pytestmark = pytest.mark.usefixtures("runtime")

FILE = """\
name: pair
networks: {{lan: {{subnets: [10.0.1.0/24]}}}}
defaults: {{{defaults}}}
nodes:
  a: {{interfaces: [{{network: lan, addresses: [10.0.1.1/24]}}]}}
  b:
    {node}
    interfaces: [{{network: lan, addresses: [10.0.1.2/24]{nic}}}]
"""


def told(
    labctl: Labctl, folder: Path, node: str = "vcpus: 1", nic: str = "", defaults: str = ""
) -> tuple[int, list[dict[str, object]]]:
    file = folder / "pair.yaml"
    file.write_text(FILE.format(node=node, nic=nic, defaults=defaults))
    done = labctl("validate", "--json", str(file))
    return done.code, json.loads(done.out)


def test_a_sound_file_is_valid(labctl: Labctl, tmp_path: Path) -> None:
    code, (one,) = told(labctl, tmp_path)
    assert (code, one["valid"]) == (0, True)
    code, _ = told(labctl, tmp_path, "image: micro-generic\n    memory: 160", ", model: e1000")
    assert code == 0


@pytest.mark.parametrize(
    ("how", "place", "where", "message", "hint"),
    [
        ({"node": "image: micrp"}, (7, 12), "nodes.b.image", "no image micrp", "mean micro?"),
        ({"node": "image: tools-of-mine"}, (7, 12), "nodes.b.image", "no image", "known: debian"),
        ({"defaults": "image: fedora"}, (3, 19), "defaults.image", "no image fedora", "known:"),
        ({"nic": ", model: e1000"}, (8, 66), "nodes.b.interfaces[0].model", "no driver", "generic"),
        ({"node": "memory: 100"}, (7, 13), "nodes.b.memory", "needs 128", "memory: 128"),
        ({"node": "memroy: 100"}, (7, 5), "nodes.b.memroy", "unknown key", "mean memory?"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(
    how: dict[str, str], place: tuple[int, int], where: str, message: str, hint: str,
    labctl: Labctl, tmp_path: Path,
) -> None:  # fmt: skip
    code, found = told(labctl, tmp_path, **how)
    assert code == 2
    one = found[0]
    assert ((one["line"], one["column"]), one["where"]) == (place, where)
    assert message in str(one["message"])
    assert hint in str(one["hint"])
    assert str(one["problem"]).startswith(f"{tmp_path}/pair.yaml:{place[0]}:{place[1]}: ")


def test_a_file_that_is_not_there_has_no_place(labctl: Labctl) -> None:
    (one,) = json.loads(labctl("validate", "--json", "nosuch.yaml").out)
    assert (one["line"], one["column"], one["where"]) == (0, 0, "")
    assert one["hint"]


@pytest.mark.parametrize(("name", "hint"), [("5", "'5'"), ("on", "'on'"), ("1.5", "'1.5'")])
def test_a_name_that_yaml_takes_for_something_else_is_quoted_in_the_hint(
    name: str, hint: str, labctl: Labctl, tmp_path: Path
) -> None:
    file = tmp_path / "pair.yaml"
    file.write_text(FILE.format(node="vcpus: 1", nic="", defaults="").replace("pair", name, 1))
    assert f"the topology's name must be text, not {name} (put it in quotes: {hint})" in (
        labctl("validate", str(file)).err
    )


@pytest.mark.parametrize("uri", ["foo://", "foo", "qemu+ssh://elsewhere/system", "lxc:///"])
def test_a_hypervisor_that_is_none_is_told_as_that(uri: str) -> None:
    with pytest.raises(UsageError, match="is no libvirt that labctl knows") as wrong:
        backends.of(uri).check(topology.load(topology.find_shipped("bridged.yaml")), silent)
    assert "qemu:///system" in wrong.value.hint


def test_an_experiment_beside_its_file_is_told_how_to_be_named(
    labctl: Labctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("")
    done = labctl("experiment", "mine")
    assert done.code == 2
    assert done.err.splitlines()[-1] == "  name the file: labctl experiment mine.py"
    assert "did you mean" in labctl("experiment", "bridgd").err
