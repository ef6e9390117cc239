"""A record that an older labctl wrote is read, shown and drawn.

golden/router-hop-of-0.1.tar.xz is a run of router-hop from before networks had kinds, without the
consoles and with the captures of two of its routers.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from compare_records import main
from labctl.cli.main import cli
from labctl.topology.serialize import from_json

ARCHIVE = Path(__file__).parent / "golden" / "router-hop-of-0.1.tar.xz"
LOST = "router r1 (eth0 to eth1)"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    return folder


def call(run: Path, *words: str) -> str:
    told = CliRunner().invoke(cli, [*words], env={"LABCTL_RESULTS": str(run.parent)})
    assert told.exit_code == 0, told.output + repr(told.exception)
    return told.output


def test_it_is_listed_and_shown_with_its_verdict(run: Path) -> None:
    (listed,) = json.loads(call(run, "results", "--json"))
    assert (listed["id"], listed["verdict"]) == (run.name, "pass")
    shown = call(run, "results", "show", run.name)
    assert "raw/ipv4" in shown
    assert LOST in shown


def test_its_topology_is_what_it_was(run: Path) -> None:
    topology = from_json(json.loads((run / "topology.json").read_text()))
    environment = json.loads((run / "result.json").read_text())["environment"]
    assert topology.digest() == environment["topology_digest"]


def test_its_page_follows_the_packets_that_it_kept(run: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    call(run, "report", str(run), "-o", str(page))
    text = page.read_text()
    assert LOST in text
    assert text.count("metadata lost") > 1


def test_it_is_compared_with_a_newer_one(run: Path) -> None:
    assert main([str(run), str(run)]) == 0
