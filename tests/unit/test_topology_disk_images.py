"""A disk image in a topology: what may be written, what is told of what may not, and its lock."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labctl.errors import UsageError
from labctl.sandbox import codec
from labctl.topology import Topology, TopologyError, from_mapping, image_lock, load, loads
from labctl.topology.disk_image import DiskImage, told_format
from labctl.topology.schema import json_schema
from labctl.topology.serialize import from_json, to_json

DIGEST = hashlib.sha256(b"").hexdigest()
URL = "https://images.example/x/disk.qcow2"


def one(image: str, more: str = "") -> Topology:
    return loads(f"nodes:\n  vm1:\n    image: {image}\n{more}", "t.yaml")


def disk(image: str) -> DiskImage | None:
    return one(image).nodes["vm1"].disk


def test_a_name_is_a_recipe_and_a_mapping_a_disk_image() -> None:
    assert one("micro").nodes["vm1"].disk is None
    node = one(f"{{url: {URL}}}").nodes["vm1"]
    assert node.disk == DiskImage("qcow2", "bios", URL)
    assert node.image == ""


def test_all_that_can_be_said(tmp_path: Path) -> None:
    (tmp_path / "a.img").touch()
    image = {"file": "a.img", "sha256": DIGEST.upper(), "format": "raw", "firmware": "uefi"}
    topology = from_mapping({"nodes": {"vm1": {"image": image}}}, base=tmp_path)
    expected = DiskImage("raw", "uefi", file=tmp_path / "a.img", sha256=DIGEST)
    assert topology.nodes["vm1"].disk == expected


@pytest.mark.parametrize(
    ("source", "form"),
    [
        ("https://x/a.qcow2", "qcow2"),
        ("https://x/a.QCOW2.xz?token=1.raw#f", "qcow2"),
        ("https://x/b%2Fa.raw.zst", "raw"),
        ("/x/a.vmdk.gz", "vmdk"),
        ("a.vhdx", "vhdx"),
        ("a.img", None),
        ("a.xz", None),
        ("https://x/download?name=a.raw", None),
    ],
)
def test_a_format_is_told_by_the_name(source: str, form: str | None) -> None:
    assert told_format(source) == form


@pytest.mark.parametrize(
    ("image", "told"),
    [
        ("{}", "3:12: this image has neither a url nor a file (write one of them)"),
        (f"{{url: {URL}, file: a.raw}}", "3:12: this image has both a url and a file"),
        (f"{{url: {URL}, sha: 1}}", "3:55: unknown key 'sha' (did you mean sha256?)"),
        (f"{{url: {URL}, sha256: abc}}", "3:63: 'abc' is not a SHA-256 (write its 64 hex"),
        (f"{{url: {URL}, sha256: 12}}", "3:63: sha256 must be text"),
        (f"{{url: {URL}, format: qcow}}", "3:63: there is no format 'qcow' (did you mean qcow2?)"),
        (f"{{url: {URL}, firmware: efi}}", "there is no firmware 'efi' (did you mean uefi?)"),
        ("{url: https://x/a.img}", "3:12: the name 'a.img' does not tell the image's format"),
        ("{url: ftp://x/a.raw}", "3:18: 'ftp://x/a.raw' is not a URL"),
        ("{url: 'https:///a.raw'}", "is not a URL"),
        ("{url: 'https://x:0x1/a.raw'}", "is not a URL"),
        ("{url: 'https://[::1/a.raw'}", "is not a URL"),
        ("{url: 'https://x/ä.raw'}", "is not a URL (write other characters than ASCII's as %XX)"),
        ("{url: 'https://u:p@x/a.raw'}", "names a user or a password"),
        ("{url: [1]}", "url must be text"),
        (f"{{url: https://x/{'a' * 2000}.raw}}", "a URL has at most 2000 characters, not"),
        ("{file: nothing.raw}", "3:19: there is no file 'nothing.raw' (looked for"),
        ("{file: ''}", "a path cannot be empty"),
        ("[micro]", "the image's name must be text such as micro, not a list"),
        ("7", "the image's name must be text, not 7 (put it in quotes: '7')"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(image: str, told: str) -> None:
    with pytest.raises(TopologyError) as caught:
        one(image)
    assert str(caught.value).startswith("t.yaml:3:")
    assert told in str(caught.value)


def test_it_can_be_inherited_and_undone() -> None:
    defaults = f"defaults: {{image: {{url: {URL}, firmware: uefi}}}}\n"
    nodes = loads(f"{defaults}nodes: {{a: {{}}, b: {{image: micro}}}}", "t.yaml").nodes
    assert nodes["a"].disk == DiskImage("qcow2", "uefi", URL)
    assert (nodes["b"].disk, nodes["b"].image) == (None, "micro")


def test_a_record_holds_it_and_others_are_as_they_were() -> None:
    topology = one(f"{{url: {URL}, sha256: {DIGEST}}}")
    plain = json.loads(json.dumps(to_json(topology)))
    assert plain["nodes"]["vm1"]["disk"]["sha256"] == DIGEST
    assert from_json(plain) == topology
    assert codec.loads(codec.dumps(topology, Topology), Topology) == topology
    assert "disk" not in to_json(one("micro"))["nodes"]["vm1"]
    assert "disk" not in json.dumps(to_json(one("micro")))


def test_the_digest_of_a_topology_goes_by_what_is_booted_not_by_where_it_lies() -> None:
    pinned = one(f"{{url: {URL}, sha256: {DIGEST}}}").digest()
    assert one(f"{{url: https://mirror/a.qcow2, sha256: {DIGEST}}}").digest() == pinned
    assert one(f"{{url: {URL}, sha256: {DIGEST[::-1]}}}").digest() != pinned
    assert one(f"{{url: {URL}, sha256: {DIGEST}, firmware: uefi}}").digest() != pinned
    assert one(f"{{url: {URL}}}").digest() != one(f"{{url: {URL}.xz}}").digest()


def test_editors_know_it() -> None:
    validator = jsonschema.Draft202012Validator(json_schema())

    def is_valid(image: object) -> bool:
        return bool(validator.is_valid({"nodes": {"vm1": {"image": image}}}))

    assert is_valid("micro")
    assert is_valid({"url": URL, "sha256": DIGEST, "format": "raw", "firmware": "uefi"})
    assert is_valid({"file": "a.raw"})
    refused: list[object] = [
        {},
        [],
        {"url": URL, "file": "a"},
        {"url": "ftp://x"},
        {"url": URL, "sha256": "1"},
    ]
    assert not any(is_valid(one) for one in refused)


scalars = st.none() | st.booleans() | st.integers() | st.text(max_size=30)
words = st.sampled_from(
    [URL, "a.raw", "qcow2", "bios", DIGEST, "https://", "//x", "http://x:y/a.raw"]
)
keys = st.sampled_from(["url", "file", "sha256", "format", "firmware"]) | st.text(max_size=6)


@given(st.dictionaries(keys, scalars | words | st.lists(scalars, max_size=2), max_size=5))
def test_any_mapping_is_an_image_or_a_problem(image: dict[str, object]) -> None:
    try:
        topology = from_mapping({"nodes": {"vm1": {"image": image}}})
    except TopologyError:
        return
    found = topology.nodes["vm1"].disk
    assert found
    assert bool(found.url) != bool(found.file)
    assert from_json(json.loads(json.dumps(to_json(topology)))) == topology


# --- the lock ------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "lab.yaml"
    path.write_text(f"nodes: {{vm1: {{image: {{url: {URL}}}}}, vm2: {{}}}}\n")
    return path


def lock(file: Path, text: str) -> None:
    file.with_suffix(".lock").write_text(text)


def sha256(file: Path) -> str:
    found = load(file).nodes["vm1"].disk
    assert found
    return found.sha256


def test_a_lock_beside_it_says_the_digest(file: Path) -> None:
    assert sha256(file) == ""
    lock(file, image_lock.written(file, {URL: DIGEST, "https://x/other.raw": DIGEST[::-1]}))
    assert sha256(file) == DIGEST
    lock(file, image_lock.written(file, {}))
    assert sha256(file) == ""


def test_what_the_topology_says_itself_counts(file: Path) -> None:
    lock(file, image_lock.written(file, {URL: DIGEST}))
    file.write_text(f"nodes: {{vm1: {{image: {{url: {URL}, sha256: {DIGEST[::-1]}}}}}}}\n")
    assert sha256(file) == DIGEST[::-1]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("images: 5\n", r"lab\.lock:1:9: 'images': .*list"),
        ("images:\n- url: ftp://x\n  sha256: abc\n", r"lab\.lock:2:8: 'url': .*is not a URL"),
        (
            "images:\n- url: ftp://x\n  sha256: abc\n",
            r"lab\.lock:3:11: 'sha256': 'abc' is not a SHA",
        ),
        (f"images:\n- url: {URL}\n", r"lab\.lock:2:3: 'sha256': Field required"),
        ("imgs: []\n", r"lab\.lock:1:1: "),
        ("- 1\n", r"lab\.lock:1:1: 'the lock'"),
        ("", r"lab\.lock:1:1: the file is empty"),
        ("a: [\n", r"lab\.lock:\d+:\d+: "),
    ],
)
def test_a_wrong_lock_is_told_with_its_place(file: Path, text: str, told: str) -> None:
    lock(file, text)
    with pytest.raises(TopologyError, match=told):
        load(file)


def test_a_lock_that_cannot_be_read_is_told(file: Path) -> None:
    file.with_suffix(".lock").mkdir()
    with pytest.raises(UsageError, match=r"cannot read .*lab\.lock: Is a directory"):
        load(file)
    file.with_suffix(".lock").rmdir()
    file.with_suffix(".lock").write_bytes(b"images: []\n\xff")
    with pytest.raises(TopologyError, match=r"lab\.lock:2:1: this is not UTF-8 text"):
        load(file)


def test_a_topology_that_needs_no_lock_does_not_read_one(file: Path) -> None:
    lock(file, "nonsense")
    file.write_text("nodes: {vm1: {}}\n")
    assert load(file).nodes["vm1"].disk is None
