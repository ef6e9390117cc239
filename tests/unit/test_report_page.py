"""The page of a run: what it says, that it loads nothing, and that records are not believed."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import report_records
from labctl.capture import pcapng
from labctl.capture.session import Evidence
from labctl.report import finding, gather, page
from labctl.results import ArmResult, Check, Recorder, Verdict, load
from labctl.results.recorder import TOPOLOGY, capture_name
from labctl.topology import find
from labctl.topology import load as load_topology
from labctl.topology.graph import find_path
from labctl.topology.points import ObservationPoint
from labctl.tracing.follow import follow
from labctl.tracing.packet_trace import PacketTrace
from report_records import FLAG, LOST, VALID, XEN, arm, record, xen_record

EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)>\" ' & </title></style>"
VOID = {"meta", "input", "br", "img", "link"}


def page_of(directory: Path) -> str:
    return page.render(gather.from_record(directory, load(directory.name, directory.parent)))


def recorded(root: Path, arms: list[ArmResult], **rest: Any) -> Path:
    with Recorder.create("mine", root) as recorder:
        recorder.finish(report_records.classify(recorder, arms, **rest))
    return recorder.path


def text_of(html: str) -> str:
    body = re.sub(r"<style>.*?</style>", "", html, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", body).split())


class Checker(HTMLParser):
    """Notes elements, ids and references, and complains about wrong nesting."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.handlers: list[str] = []
        self.feed(text)
        self.close()
        assert not self.stack

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.stack.append(tag)
        for name, value in attrs:
            value = value or ""
            if name == "id":
                self.ids.append(value)
            elif name in ("for", "aria-labelledby"):
                self.targets += value.split()
            elif name == "href" and value.startswith("#"):
                self.targets.append(value[1:])
            elif name in ("src", "srcset", "href", "action", "data", "poster", "xlink:href"):
                self.loads.append(value)
            elif name.startswith("on"):
                self.handlers.append(name)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.stack.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.stack, tag
        assert self.stack.pop() == tag


def test_the_page_names_the_culprit_first(tmp_path: Path) -> None:
    html = page_of(record(tmp_path))
    headline = re.search(r"<h1>(.*?)</h1>", html)
    assert headline
    assert headline[1] == "SSH hangs with raw: the metadata was lost in router r1 (eth0 to eth1)."
    assert "works with namespace" in text_of(html)


def test_two_packet_traces_whose_only_difference_is_the_flag_stand_side_by_side(
    tmp_path: Path,
) -> None:
    text = text_of(page_of(record(tmp_path)))
    assert "Two packets, and the flag is all that differs" in text
    assert "In both the field is partial at all 8 hops" in text
    assert "from r1:eth1 to the end" in text
    assert "router r1 (eth0 to eth1) ✗ metadata lost here ✓ passed on" in text


def test_the_field_stands_beside_both_sums(tmp_path: Path) -> None:
    text = text_of(page_of(record(tmp_path)))
    assert re.search(r"field 0x[0-9a-f]{4} = pseudo-header ≠ full 0x[0-9a-f]{4}", text)


def test_every_hop_is_drawn_for_every_arm_with_its_state(tmp_path: Path) -> None:
    html = page_of(record(tmp_path))
    figures = re.findall(r'<figure class="f\d[^"]*">.*?</figure>', html, flags=re.DOTALL)
    assert len(figures) == 8
    for figure in figures:
        for shape in ("wide", "tall"):
            svg = re.search(rf'<svg class="map {shape}".*?</svg>', figure, flags=re.DOTALL)
            assert svg
            for hop in report_records.HOPS:
                assert f"</tspan> {hop}</text>" in svg[0]
    raw = figures[1]
    assert raw.count('href="#g-lost"') == raw.count('href="#g-flag"') == 8  # four hops, two shapes
    assert raw.count("flag lost</text>") == 2
    assert "lost" not in re.sub(r"<figcaption>.*?</figcaption>", "", figures[2], flags=re.DOTALL)


def test_the_broken_arm_is_the_one_shown_first(tmp_path: Path) -> None:
    html = page_of(record(tmp_path))
    assert re.findall(r'id="(a\d)" class="pick" checked', html) == ["a1"]


def test_the_page_is_well_formed_and_loads_nothing(tmp_path: Path) -> None:
    html = page_of(record(tmp_path))
    found = Checker(html)
    assert found.loads == []
    assert "script" not in found.tags
    assert len(found.ids) == len(set(found.ids))
    assert set(found.targets) <= set(found.ids)
    assert not re.search(r"https?://|url\(|@import", html)
    assert "default-src 'none'" in html


def test_text_from_a_record_is_text_and_nothing_else(tmp_path: Path) -> None:
    check = Check(EVIL, Verdict.FAIL, EVIL, EVIL, (EVIL,), hop=EVIL)
    arms = [ArmResult.judge(EVIL, EVIL, [check])]
    directory = recorded(tmp_path, arms, story=EVIL, notes=[EVIL])
    (directory / "console" / "vm1.log").write_text(f"\x1b[31m{EVIL}\x00\x07\n")
    found = Checker(page_of(directory))
    assert not {"script", "img"} & set(found.tags)
    assert found.handlers == []
    assert "\x00" not in page_of(directory)
    assert "[31m" not in page_of(directory)


def test_labels_of_the_topology_are_shown_and_are_text(tmp_path: Path) -> None:
    directory = record(tmp_path)
    data = json.loads((directory / TOPOLOGY).read_text())
    data["nodes"]["vm1"]["labels"] = {"role": "client"}
    data["networks"]["left"]["labels"] = {"note": "<script>alert(1)</script>"}
    data["nodes"]["vm1"]["interfaces"][0]["labels"] = {"speed": "fast"}
    (directory / TOPOLOGY).write_text(json.dumps(data))
    html = page_of(directory)
    assert "role: client" in html
    assert "speed: fast" in html
    assert "script" not in Checker(html).tags


def test_a_failing_arm_is_open_and_a_passing_one_closed(tmp_path: Path) -> None:
    bad = ArmResult.judge("bad", "", [Check("ssh", Verdict.FAIL, "works", "hangs: why", ("line",))])
    html = page_of(recorded(tmp_path, [arm("good", works=True), bad]))
    checks = html[html.index('id="checks"') :]
    assert re.findall(r"<details( open)?>\s*<summary>.*?<b>(\w+)</b>", checks) == [
        ("", "good"),
        (" open", "bad"),
    ]
    assert '<details class="evidence" open>' in checks
    assert "Not as expected in bad: ssh was “hangs: why”, not “works”." in html


@pytest.mark.parametrize(
    ("verdict", "told"),
    [
        (Verdict.ERROR, "It could not be told: the guest died."),
        (Verdict.SKIP, "Not tried: the guest died."),
    ],
)
def test_a_run_without_an_answer_says_so(tmp_path: Path, verdict: Verdict, told: str) -> None:
    arms = [ArmResult.judge("lab", "", [Check("lab", verdict, "", "the guest died")])]
    html = page_of(recorded(tmp_path, arms))
    assert f"<h1>{told}</h1>" in html
    assert "<figure" not in html
    Checker(html)


def test_a_run_that_checked_nothing_still_has_a_page(tmp_path: Path) -> None:
    html = page_of(recorded(tmp_path, [], partial=True))
    assert "stopped before everything was tried" in html
    assert "Nothing was tried." in html
    Checker(html)


def test_a_record_without_topology_is_drawn_by_its_path(tmp_path: Path) -> None:
    html = page_of(record(tmp_path, topology=False))
    assert html.count('href="#g-lost"') >= 16
    assert ">bridge</text>" in html
    assert "lost in router r1 (eth0 to eth1)" in html


@pytest.mark.parametrize("damage", [b"no pcapng at all", b""])
def test_a_damaged_capture_costs_its_packet_traces_only(tmp_path: Path, damage: bytes) -> None:
    directory = record(tmp_path)
    (directory / "captures" / capture_name("raw/ipv4")).write_bytes(damage)
    text = text_of(page_of(directory))
    assert "its capture" in text
    assert "SSH hangs with raw: the metadata was lost in router r1" in text  # ipv6 still tells


@pytest.mark.parametrize("damage", ["{", "[]", '{"name": "x"}', '{"name": 3, "nodes": {}}'])
def test_a_damaged_topology_costs_the_drawing_of_it_only(tmp_path: Path, damage: str) -> None:
    directory = record(tmp_path)
    (directory / TOPOLOGY).write_text(damage)
    assert ">bridge</text>" in page_of(directory)


def test_a_topology_that_does_not_fit_the_capture_draws_what_it_can(tmp_path: Path) -> None:
    directory = record(tmp_path)
    data = json.loads((directory / TOPOLOGY).read_text())
    data["routers"] = {}
    (directory / TOPOLOGY).write_text(json.dumps(data))
    Checker(page_of(directory))


def test_a_capture_that_was_cut_says_where(tmp_path: Path) -> None:
    directory = record(tmp_path)
    states = [FLAG] * 4 + [LOST] * 3 + [None]
    file = directory / "captures" / capture_name("raw/ipv4")
    pcapng.write(file, report_records.seen(states, cut="vm2:eth0"))
    html = page_of(directory)
    assert "the capture is not complete at vm2:eth0" in html
    assert "cannot be told" in html


def test_a_bridge_that_breaks_nothing_is_compared_with_its_control(tmp_path: Path) -> None:
    directory = recorded(tmp_path, [arm("ipv4", works=True), arm("raw tx-off", works=True)])
    for name, state in (("ipv4", FLAG), ("raw tx-off", VALID)):
        file = directory / "captures" / capture_name(name)
        pcapng.write(file, report_records.seen([state] * 8))
    text = text_of(page_of(directory))
    assert "SSH works in all 2 arms" in text
    assert "On the left the checksum is left unfinished on all 8 hops." in text
    assert "What every hop saw" in text


def test_what_an_arm_changed_of_the_offloads_comes_first(tmp_path: Path) -> None:
    text = text_of(page_of(record(tmp_path)))
    assert "raw tx-off/ipv4, raw tx-off/ipv6 vm1/eth0, guest off: tx-checksumming" in text
    assert (
        "tx-lockless" not in text.split("Everything that was on and off")[0].split("read back")[1]
    )


def test_the_command_to_run_it_again_is_there(tmp_path: Path) -> None:
    directory = record(tmp_path)
    text = text_of(page_of(directory))
    assert "labctl experiment router-hop" in text
    assert f"labctl results diff {directory.name} last" in text


def packet_traces(
    states: Sequence[str | None],
) -> tuple[list[PacketTrace], tuple[ObservationPoint, ...]]:
    path = find_path(load_topology(find("router-hop.yaml")), "vm1", "vm2").points
    return follow(Evidence(tuple(report_records.seen(states))), path, lambda _packet: True), path


def test_packet_traces_without_a_record_have_a_page_too() -> None:
    found, path = packet_traces([FLAG] * 4 + [LOST] * 4)
    html = page.render_packet_traces(
        "trace <b>", "lost & found", found * 2, path, notes=["<i>note"]
    )
    Checker(html)
    assert "<h1>lost &amp; found</h1>" in html
    assert "trace &lt;b&gt;" in html
    text = text_of(html)
    assert "SYN (2 of them)" in text
    assert "✗ metadata lost here" in text
    assert "needs_csum" in text


def test_a_page_of_a_trace_says_when_where_and_by_which_command() -> None:
    found, path = packet_traces([FLAG] * 4 + [LOST] * 4)
    html = page.render_packet_traces(
        "TCP to port 22", "lost", found, path, topology=load_topology(find("router-hop.yaml")),
        lab="pair", routers={"r1": "raw"}, command="labctl trace vm1 vm2 --html a&b.html",
    )  # fmt: skip
    Checker(html)
    text = text_of(html)
    assert "lab pair TCP to port 22 2023-11-14 22:13:20 UTC" in text
    assert "labctl trace vm1 vm2 --html a&amp;b.html" in text
    assert "22:13:20.000010 UTC" in text
    assert "+0.050 ms" in text
    assert "router, raw" in text


def test_a_failing_run_leads_with_where_the_metadata_was_lost(tmp_path: Path) -> None:
    html = page_of(report_records.chain_record(tmp_path, ("database-server-01", "b"), 1))
    lost = "The metadata was lost in router database-server-01-gw1 (eth0 to eth1). "
    assert f"<h1>{lost}Not as expected in copies: ssh was “hangs”, not “works”.</h1>" in html
    assert "router, raw-synthesised" in html


def test_no_packet_traces_are_a_page_that_says_so() -> None:
    html = page.render_packet_traces("trace", "nothing came", [], ())
    Checker(html)
    assert "No packet was seen." in html


@pytest.mark.parametrize(
    ("count", "bad", "told"),
    [
        (0, 0, "No packet of the flow was seen."),
        (1, 0, "The packet arrived."),
        (3, 0, "All 3 packets arrived."),
        (
            1,
            1,
            "The packet did not get through: the metadata was lost in router r1 (eth0 to eth1).",
        ),
        (3, 3, "None of 3 packets got through: the metadata was lost in router r1 (eth0 to eth1)."),
        (3, 1, "1 of 3 packets did not get through: the metadata was lost in router r1"),
    ],
)
def test_a_trace_is_told_in_one_sentence(count: int, bad: int, told: str) -> None:
    found, _ = packet_traces([FLAG] * 4 + [LOST] * 4)
    assert finding.traced(count, found * bad).startswith(told)


def test_a_packet_that_was_not_seen_again_is_said_to_be_so() -> None:
    found, _ = packet_traces([FLAG] * 4 + [None] * 4)
    assert "was not seen again in router r1 (eth0 to eth1)" in finding.traced(1, found)


@pytest.mark.parametrize("name", XEN)
def test_a_run_on_a_xen_host_is_drawn_in_its_frame(tmp_path: Path, name: str) -> None:
    html = page_of(xen_record(tmp_path, name))
    Checker(html)
    figures = re.findall(r'<figure class="f\d+[^"]*">.*?</figure>', html, flags=re.DOTALL)
    assert len(figures) == 2 * len(XEN[name])
    for figure in figures:
        assert figure.count('<g class="frame">') == 2  # wide and tall
        assert "xen1 (Xen host)" in text_of(figure)
        assert "dom0 bridge" in figure
    assert "vif of vm1 in dom0" in text_of(html)


def test_a_router_in_dom0_is_the_culprit_and_is_named(tmp_path: Path) -> None:
    text = text_of(page_of(xen_record(tmp_path, "xen-router-hop.yaml")))
    assert "SSH hangs with raw: the metadata was lost in router r1 (eth0 to eth1)." in text
    assert "vm1:eth0 is inside vm1, vm1-eth0 its vif in dom0." in text
    assert "router in dom0 ✗ flag lost" in text
    assert "veth of r1 in dom0" in text
    assert "host's end" not in text


def test_an_uplink_is_told_on_both_sides_of_the_border(tmp_path: Path) -> None:
    text = text_of(page_of(xen_record(tmp_path, "xen-uplink.yaml")))
    assert "xen1:eth0 is the uplink in dom0, xen1-eth0 its TAP outside." in text
    assert "3 xen1:eth0 uplink in dom0" in text
    assert "4 xen1-eth0 TAP of the uplink" in text
    assert "On the right it is finished on the way, between xen1:eth0 and xen1-eth0." in text


def test_offloads_of_a_xen_lab_have_their_names_there(tmp_path: Path) -> None:
    text = text_of(page_of(xen_record(tmp_path, "xen-uplink.yaml")))
    table = text.split("Everything that was on and off")[1]
    for where in ("vm1/eth0, guest", "vm1/eth0, vif", "xen1/eth0, dom0", "xen1/eth0, tap"):
        assert where in table
    assert ", device" not in table  # nothing was told of it


def test_a_headline_counts_arms_where_they_are_too_many_to_name(tmp_path: Path) -> None:
    names = [f"way{number}" for number in range(5)]
    directory = recorded(tmp_path, [arm(name, works=True) for name in names])
    for name, state in zip(names, [FLAG] * 4 + [VALID], strict=True):
        file = directory / "captures" / capture_name(name)
        pcapng.write(file, report_records.seen([state] * 8))
    text = text_of(page_of(directory))
    assert "SSH works in all 5 arms. In 4 of them no checksum is finished on the way" in text


SKIPPED = Check("drop reason", Verdict.SKIP, "TCP_CSUM", "this kernel gives none")


def test_a_pass_tells_how_many_checks_were_skipped(tmp_path: Path) -> None:
    seen = Check("count", Verdict.PASS, "1", "1")
    text = text_of(page_of(recorded(tmp_path, [ArmResult.judge("a", "", [seen, SKIPPED])])))
    assert "every check that was made came out as it says, 1 was skipped." in text
    assert "As expected: the one check that was made came out right." in text
    text = text_of(page_of(recorded(tmp_path, [ArmResult.judge("a", "", [seen])])))
    assert "every check came out as it says." in text


def test_a_run_that_was_given_up_gives_the_reason_and_not_that_of_a_single_check(
    tmp_path: Path,
) -> None:
    seen = Check("count", Verdict.PASS, "1", "1")
    raised = Check("experiment", Verdict.SKIP, "to be tried", "no such NIC here")
    arms = [
        ArmResult.judge("a", "", [seen, SKIPPED]),
        ArmResult.judge("skipped", "", [raised]),
    ]
    text = text_of(page_of(recorded(tmp_path, arms, given_up=True)))
    assert "Not tried: no such NIC here." in text
    assert "It was not tried to its end." in text


def test_a_capture_that_several_arms_of_an_older_record_wrote_to_speaks_for_none(
    tmp_path: Path,
) -> None:
    arms = [arm("raw/ipv4", works=False), arm("raw ipv4", works=True), arm("own/ipv4", works=True)]
    directory = recorded(tmp_path, arms)
    for name in ("raw/ipv4", "own/ipv4"):
        pcapng.write(directory / "captures" / capture_name(name), report_records.seen([FLAG] * 8))
    found = gather.from_record(directory, load(directory.name, directory.parent)).arms
    assert [bool(one.packet_traces) for one in found] == [False, False, True]
    assert "another arm wrote to the same capture" in text_of(page_of(directory))


def rewritten(folder: Path, **fields: Any) -> Path:
    """The record of a folder, with fields of its result replaced."""
    file = folder / "result.json"
    file.write_text(json.dumps({**json.loads(file.read_bytes()), **fields}))
    return folder


def rendered(folder: Path) -> str:
    return page.render(gather.from_record(folder, load(folder.name, folder.parent)))


def test_what_html_cannot_hold_is_spelled_out(tmp_path: Path) -> None:
    folder = record(tmp_path, versions=(4,))
    topology = json.loads((folder / TOPOLOGY).read_bytes())
    topology["nodes"]["vm1"]["labels"] = {"role": "a\0b"}
    (folder / TOPOLOGY).write_text(json.dumps(topology))
    environment = {"images": {"micro": "\ud800"}, "offloads": {"\x9b": {"guest": {"<b>": True}}}}
    text = rendered(rewritten(folder, story="x", hypothesis="\x1b[31mred", environment=environment))
    text.encode()
    assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", text)
    for told in (r"\x1b[31mred", r"a\x00b", r"\ud800", r"\x9b", "&lt;b&gt;"):
        assert told in text


@pytest.mark.parametrize("name", ["a\0b", "x" * 300])
def test_an_arm_whose_name_no_file_can_have_costs_its_packet_traces_only(
    tmp_path: Path, name: str
) -> None:
    folder = record(tmp_path, versions=(4,))
    arms = json.loads((folder / "result.json").read_bytes())["arms"]
    for count in (1, 2):  # the second of one name would share the first one's capture
        for one in arms[:count]:
            one["name"] = name
        assert "its capture cannot be read" in rendered(rewritten(folder, arms=arms))


def test_of_a_large_lab_what_is_near_the_path_is_drawn(tmp_path: Path) -> None:
    folder = record(tmp_path, versions=(4,))
    topology = json.loads((folder / TOPOLOGY).read_bytes())
    for number in range(500):
        name = f"other{number}"
        network = {**topology["networks"]["left"], "name": f"n{number}", "bridge": f"n{number}"}
        topology["networks"][f"n{number}"] = network
        topology["nodes"][name] = {**topology["nodes"]["vm1"], "name": name}
    (folder / TOPOLOGY).write_text(json.dumps(topology))
    text = rendered(folder)
    assert "nodes, routers and networks farther from it are not drawn" in text
    figure = text[text.index("<svg") :]
    assert all(f">{name}<" in figure for name in ("vm1", "vm2", "r1", "left", "right"))
