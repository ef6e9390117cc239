"""What a YAML file may be, and what it may try."""

from __future__ import annotations

from pathlib import Path

import pytest

from labctl.topology import TopologyError, load, loads
from labctl.topology import text as reading


def problem(text: str) -> str:
    with pytest.raises(TopologyError) as caught:
        loads(text, "t.yaml")
    return str(caught.value)


def file_problem(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises(TopologyError) as caught:
        load(path)
    return str(caught.value).removeprefix(f"{path}:")


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n"])
def test_an_empty_file_is_refused(text: str) -> None:
    assert "the file is empty" in problem(text)


@pytest.mark.parametrize(
    ("text", "kind"), [("- a\n", "a list"), ("hello\n", "'hello'"), ("---\n", "nothing")]
)
def test_what_is_no_mapping_is_refused(text: str, kind: str) -> None:
    assert f": a topology is a mapping, not {kind} (its keys are" in problem(text)


def test_a_tab_is_told_as_such() -> None:
    assert (
        problem("nodes:\n\tvm1: {}\n") == "t.yaml:2:1: a tab indents this line (YAML wants spaces)"
    )


def test_broken_yaml_is_told_with_its_place() -> None:
    assert problem("nodes:\n  vm1: [\n").startswith("t.yaml:3:1: this is not YAML: ")
    assert problem("nodes: *x\n").startswith("t.yaml:1:8: this is not YAML: ")


def test_a_second_document_is_refused() -> None:
    assert problem("nodes: {a: {}}\n---\nnodes: {}\n").startswith("t.yaml:2:1: a second document")


def test_binary_is_refused_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "t.yaml"
    assert file_problem(file, b"a: 1\nb: \x00\n") == "2:4: this is not text: it holds U+0000"
    assert file_problem(file, b"\x7fELF\x02\x01") == "1:1: this is not text: it holds U+007F"
    assert file_problem(file, b"name: x\n# caf\xe9\n") == "2:6: this is not UTF-8 text"
    assert file_problem(file, "name: x".encode("utf-16")) == "1:1: this is not UTF-8 text"


def test_a_byte_order_mark_is_forgiven(tmp_path: Path) -> None:
    file = tmp_path / "t.yaml"
    file.write_bytes(b"\xef\xbb\xbfnodes: {a: {}}\n")
    assert load(file).name == "t"


def test_a_huge_file_is_refused(tmp_path: Path) -> None:
    told = file_problem(tmp_path / "t.yaml", b"#" * (1 << 20) + b"\n")
    assert told == "1:1: the file is larger than 1 MiB"


def test_deep_nesting_is_refused() -> None:
    assert problem("[" * 100_000) == "t.yaml:1:33: this is nested more than 32 deep"


def test_an_alias_bomb_is_refused_before_it_expands() -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    for level in range(1, 10):
        inside = ", ".join([f"*a{level - 1}"] * 10)
        bomb += f"a{level}: &a{level} [{inside}]\n"
    assert "this expands to more than 20000 values" in problem(bomb)


def test_a_chain_of_aliases_is_as_deep_as_it_expands() -> None:
    chain = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 60))
    assert "nested more than 32 deep" in problem(chain)


def test_many_aliases_are_refused() -> None:
    assert "more than 1000 aliases" in problem(f"a: &a 1\nb: [{', '.join(['*a'] * 1001)}]\n")


def test_an_alias_of_what_it_is_in_is_refused() -> None:
    assert "refers to it again" in problem("nodes: &n {a: *n}\n")
    assert "refers to it again" in problem("nodes: &n\n  <<: *n\n")


@pytest.mark.parametrize(
    "value", ["!!python/object/apply:os.system [x]", "!thing {}", "!!set {a}", "!!binary aGk="]
)
def test_tags_that_make_objects_are_refused(value: str) -> None:
    assert "has no place here (leave it out)" in problem(f"nodes: {{a: {value}}}\n")


def test_anchors_and_merges_work_and_own_keys_win() -> None:
    text = (
        "x-nic: &nic {network: lan, mtu: 1400, model: e1000}\n"
        "networks: {lan: {}}\n"
        "nodes:\n"
        "  a: {interfaces: [{<<: *nic, mtu: 1300}, *nic]}\n"
    )
    first, second = loads(text, "t").nodes["a"].interfaces
    assert (first.mtu, first.model, second.mtu) == (1300, "e1000", 1400)


def test_an_earlier_mapping_of_a_merged_list_wins() -> None:
    text = "nodes:\n  a: {<<: [{vcpus: 2}, {vcpus: 3, memory: 256}]}\n"
    node = loads(text, "t").nodes["a"]
    assert (node.vcpus, node.memory) == (2, 256)


def test_a_mac_without_quotes_is_no_sexagesimal_number() -> None:
    # YAML 1.1 reads 52:54:00:12:34:56 as a number of base 60
    text = "networks: {lan: {}}\nnodes: {a: {interfaces: [{network: lan, mac: 52:54:00:12:34:56}]}}"
    assert loads(text, "t").nodes["a"].interfaces[0].mac == "52:54:00:12:34:56"


@pytest.mark.parametrize(
    ("word", "value"),
    [("on", True), ("yes", True), ("true", True), ("off", False), ("No", False), ("'off'", False)],
)
def test_offloads_are_on_or_off(word: str, value: bool) -> None:
    node = f"{{interfaces: [{{network: l}}], offload: {{tap: {{tx: {word}}}}}}}"
    text = f"networks: {{l: }}\nnodes: {{a: {node}}}\n"
    assert loads(text, "t").nodes["a"].interfaces[0].offload.tap == {"tx-checksumming": value}


def test_a_network_of_no_properties_needs_no_braces() -> None:
    assert loads("networks:\n  lan:\nnodes: {a: {}}\n", "t").networks["lan"].mtu == 1500


@pytest.mark.parametrize(
    "value",
    [
        "1" * 300_000 + "x",
        "1." * 150_000 + "x",
        "." + "1" * 300_000 + "x",
        "1e" + "1" * 300_000 + "-",
    ],
    ids=["digits", "dots", "fraction", "exponent"],
)
def test_a_long_number_that_is_none_is_text_at_once(value: str) -> None:
    """Found to take 38 s for 50,000 digits: the pattern tried each place for each place."""
    assert "the key 'nodes' is missing" in problem(f"a: {value}\n")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1), ("-1.5", -1.5), (".5", 0.5), ("1.", 1.0), ("1e3", 1000.0), ("+2.5E-1", 0.25),
        ("1.e3", "1.e3"), (".", "."), ("1.5.5", "1.5.5"), ("-1-", "-1-"),
        ("1e", "1e"), ("-.", "-."),
    ],
)  # fmt: skip
def test_numbers_are_read_as_they_were(text: str, value: object) -> None:
    root, problems = reading.read(f"a: {text}\n", "t.yaml")
    assert not problems
    assert root is not None
    assert root.mapping is not None
    assert root.mapping["a"].value == value


def test_a_file_of_many_values_is_refused_before_it_is_put_together() -> None:
    told = problem("nodes: [" + "a," * 500_000 + "]\n")
    assert "t.yaml:1:" in told
    assert "more than 20000 values" in told
