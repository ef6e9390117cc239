"""The catalogue: what its rows are expected to come to, its files, its pages, its verb."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from labctl.cli.main import cli
from labctl.diagnosis.verdict import Finding
from labctl.errors import UsageError
from labctl.experiments import load
from labctl.experiments.catalogue import rows, run
from labctl.experiments.catalogue.row import PREFIX, predict
from labctl.experiments.catalogue.rows import Row
from labctl.kinds import registry
from labctl.kinds.forwarders import SHIPPED as FORWARDERS
from labctl.kinds.links import SHIPPED as LINKS
from labctl.report import catalogue as pages
from labctl.results import catalogue as results
from labctl.results.catalogue import (
    Catalogue,
    Diagnosed,
    Element,
    PacketWay,
    Remedy,
    RowResult,
    Traffic,
)
from labctl.results.model import Verdict
from labctl.topology import from_mapping

BREAKING = {
    "raw",
    "raw-zeroed",
    "xdp-native",
    "packet-wire",
    "raw-then-namespace",
    "e1000e-raw",
    "tun-vnet-empty",
    "sum-then-raw",
    "ovs-userspace",
    "testpmd",
    "vxlan-copied",
    "ring-wire",
    "af-xdp",
    "namespace-end-raw",
    "namespaces-ovs",
    "ovs-then-tun",
    "dhcp-copied",
}


def row_result(name: str = "raw", verdict: Verdict = Verdict.PASS, **more: object) -> RowResult:
    made = RowResult(
        name=name,
        group="user space",
        title="a router <b>",
        outcome="breaks",
        expected="it is lost",
        path="vm1 - r1 - vm2",
        elements=(Element("r1", "raw", "loses", "packet_snd() | 1"),),
        sources=("https://example.org/1",),
        verdict=verdict,
        loses="r1",
        place="router r1 (eth0 to eth1)",
        traffic=(
            Traffic(
                4,
                {"ssh": "hangs"},
                (PacketWay("SYN", "partial", (("vm1:eth0", "partial, needs_csum"),)),),
                {"vm2": {"TcpInCsumErrors": 2}},
                {"vm2": ("TCP_CSUM",)},
            ),
        ),
        diagnosed=Diagnosed(
            "metadata lost",
            "Checksum metadata is lost.",
            "router r1 (eth0 to eth1)",
            "TCP_CSUM",
            (
                Remedy("r1 as raw-vnet", "kind: raw-vnet", "none", True, "connects", "router as x"),
                Remedy("tx off at the TAPs", "ethtool", "all", False, "hangs", "tx off at TAPs"),
            ),
        ),
        environment={"host_kernel": "6.1", "guest_kernels.vm1": "6.12"},
    )
    return dataclasses.replace(made, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("row", rows.ALL, ids=lambda row: row.name)
def test_what_a_row_is_expected_to_come_to_follows_from_its_kinds(row: Row) -> None:
    expected = predict(row)
    wanted = "control" if row.control else "breaks" if row.name in BREAKING else "works"
    assert expected.outcome == wanted
    assert expected.elements
    assert all(one.mechanism for one in expected.elements), "a kind says why"
    if wanted == "breaks":
        assert expected.place
        assert "none after it" in expected.words


def test_names_of_rows_are_files_names_and_there_is_one_of_each() -> None:
    assert len(set(rows.names())) == len(rows.ALL)
    # A lab is called after its row, and the paths of its sockets are short.
    assert all(re.fullmatch(r"[a-z0-9-]{1,18}", name) for name in rows.names())


def test_every_link_and_forwarder_is_in_a_row() -> None:
    told = {one.kind for row in rows.ALL for one in predict(row).elements}
    # Rows have routers of the lab itself; what is for guests alone has tests of its own.
    only_in_guests = {name for name in FORWARDERS if registry.forwarder(name).only_in_guests}
    assert told >= {*LINKS, *FORWARDERS} - {"veth"} - only_in_guests
    assert "veth" in told


def test_a_place_is_named_as_a_trace_names_it() -> None:
    assert predict(rows.find("raw")).place == "router r1 (eth0 to eth1)"
    assert predict(rows.find("xdp-native")).place.startswith("router r1 (")
    assert "lan-wire-p" in predict(rows.find("packet-wire")).place


def test_inside_a_router_that_packet_sockets_do_not_see_into_no_hop_is_expected() -> None:
    hops = [one.name for one in predict(rows.find("xdp-generic")).path.points]
    assert hops == ["vm1:eth0", "vm1-eth0", "r1-eth0", "r1-eth1", "vm2-eth0", "vm2:eth0"]


def test_controls_are_told_apart_from_lost_metadata() -> None:
    controls = [row.control for row in rows.ALL if row.control]
    assert len(controls) >= 4
    assert all(one.finding not in (Finding.LOST, Finding.HEALTHY) for one in controls)


def test_a_row_can_be_run_as_an_experiment_of_its_own() -> None:
    (found,) = load.find([f"{PREFIX}raw"])
    assert found.name == "catalogue-raw"
    assert found.load().routers["r1"].kind == "raw"
    with pytest.raises(UsageError, match="the catalogue has no row 'rwa'"):
        load.find([f"{PREFIX}rwa"])


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    made = row_result()
    results.write_row(tmp_path, made)
    assert results.read_row(tmp_path, "raw") == made
    assert results.read_rows(tmp_path, ["bridge", "raw"]).rows == (made,)
    path = results.write(tmp_path, Catalogue((made,)))
    assert json.loads(path.read_text())["rows"][0]["name"] == "raw"
    results.forget_row(tmp_path, "raw")
    assert results.read_row(tmp_path, "raw") is None
    results.forget_row(tmp_path, "raw")


@pytest.mark.parametrize("text", ["", "{", '{"name": 1}', "[" * 100])
def test_a_file_that_holds_no_row_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows/raw.json").write_text(text)
    assert results.read_row(tmp_path, "raw") is None


def kept(folder: Path, name: str, verdict: Verdict = Verdict.PASS, mark: str = "") -> None:
    row = rows.find(name)
    model = from_mapping(row.topology)
    key = mark or run.key(row, model, predict(row, model))
    results.write_row(folder, row_result(name, verdict, key=key))


def test_a_row_that_is_known_is_not_run_again(tmp_path: Path) -> None:
    kept(tmp_path, "raw")
    kept(tmp_path, "bridge", Verdict.SKIP)
    told = []
    wanted = [rows.find("raw"), rows.find("bridge")]
    found = run.run_all(wanted, tmp_path, tell=lambda row, _, ran: told.append((row.name, ran)))
    assert [one.name for one in found] == ["raw", "bridge"]
    assert sorted(told) == [("bridge", False), ("raw", False)]


@pytest.mark.parametrize(
    ("verdict", "mark"), [(Verdict.ERROR, ""), (Verdict.PASS, "another topology")]
)
def test_a_row_that_could_not_be_told_or_has_changed_is_unknown(
    tmp_path: Path, verdict: Verdict, mark: str
) -> None:
    kept(tmp_path, "raw", verdict, mark)
    assert run.known(rows.find("raw"), tmp_path) is None


def test_a_process_that_ends_without_a_result_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept(tmp_path, "raw", mark="old")
    monkeypatch.setattr(run, "_words", lambda *_: ["--version"])
    told: list[RowResult | None] = []
    found = run.run_all([rows.find("raw")], tmp_path, tell=lambda _row, one, _ran: told.append(one))
    assert found == []
    assert told == [None]


def test_the_page_shows_every_row_and_filters_without_scripts() -> None:
    other = row_result(
        "bridge", title="a bridge", outcome="works", loses="", place="", diagnosed=None
    )
    text = pages.render(Catalogue((row_result(), other)))
    assert "<script" not in text
    assert "a router &lt;b&gt;" in text
    assert 'id="loses-0"' in text
    assert "Who loses" in text
    assert "router as x (1)" in text
    assert "TcpInCsumErrors" in text
    assert text.count('<section class="row') == 2
    assert "Wrong places: 0" in text


def test_the_page_for_documentation_has_a_line_a_row() -> None:
    text = pages.render_markdown(Catalogue((row_result(), row_result("bridge"))))
    assert re.search(r"^\| \[raw\]\(#raw\) \| .* \| breaks \| raw \|  \| hangs \| ", text, re.M)
    assert "## bridge" in text
    assert "\n\n\n" not in text
    assert "host kernel 6.1" in text


def test_a_place_that_is_not_the_expected_one_is_counted() -> None:
    assert pages.wrong_places([row_result(place="router r2")]) == ["raw"]
    assert pages.wrong_places([row_result()]) == []
    assert dict(pages.places([row_result()])) == {"raw": {"right": 1, "another": 0, "none": 0}}
    assert pages.named(row_result(place="router r2")) == "another"
    lost = row_result().diagnosed
    assert lost
    silent = row_result(diagnosed=dataclasses.replace(lost, where=""))
    assert pages.named(silent) == "none"
    assert pages.wrong_places([silent]) == ["raw"]
    works: dict[str, Any] = {"place": "", "loses": "", "outcome": "works"}
    assert pages.named(row_result(**works)) == "another", "a path that works was accused"
    healthy = row_result(**works, diagnosed=Diagnosed("healthy", "Healthy.", "", ""))
    assert dict(pages.places([healthy])) == {"nowhere": {"right": 1, "another": 0, "none": 0}}
    assert dict(pages.confusion([row_result()]))["breaks"] == {"metadata lost": 1}


def test_the_verb_lists_rows_and_refuses_what_is_none() -> None:
    told = CliRunner().invoke(cli, ["catalogue", "list", "--json"])
    assert [one["name"] for one in json.loads(told.stdout)] == rows.names()
    with pytest.raises(UsageError, match="no row 'brigde'"):
        CliRunner().invoke(cli, ["catalogue", "run", "brigde"], catch_exceptions=False)


def test_the_verb_makes_the_pages_of_what_is_known(tmp_path: Path) -> None:
    kept(tmp_path, "raw")
    page = tmp_path / "page.md"
    words = ["catalogue", "run", "raw", "--output", str(tmp_path), "--markdown", str(page)]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0
    assert "## raw" in page.read_text()
    assert "<title>Catalogue of paths" in (tmp_path / results.PAGE).read_text()


def test_a_page_in_no_folder_is_told_before_a_row_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "run_all", None)
    words = ["catalogue", "run", "nat", "--markdown", str(tmp_path / "none/page.md")]
    with pytest.raises(UsageError, match=f"no folder {tmp_path}/none"):
        CliRunner().invoke(cli, words, catch_exceptions=False)
