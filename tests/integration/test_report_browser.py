"""The report in a real browser: nothing loaded, no overflow, keyboard, dark, print."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Browser, browser

from labctl.report import gather, page
from labctl.results import ArmResult, Check, Recorder, Verdict, load
from labctl.results.recorder import TOPOLOGY
from report_records import XEN, chain_record, classify, record, xen_record

pytestmark = pytest.mark.integration

TAB, SPACE, RIGHT = ("Tab", 9), (" ", 32), ("ArrowRight", 39)
LONG = "a-word-without-any-place-to-break" * 8


def write(directory: Path) -> Path:
    file = directory / "report.html"
    run = load(directory.name, directory.parent)
    file.write_text(page.render(gather.from_record(directory, run)), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as found:
        yield found


@pytest.fixture(autouse=True)
def plain_screen(chromium: Browser) -> None:
    chromium.media()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(record(tmp_path_factory.mktemp("results")))


@pytest.fixture(scope="module")
def wild(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Long words, markup and a failure everywhere."""
    with Recorder.create("wild", tmp_path_factory.mktemp("results")) as recorder:
        text = f"<script>document.title = 'owned'</script>{LONG}"
        check = Check(text, Verdict.FAIL, text, text, (text,), hop=text)
        arms = [ArmResult.judge(text, text, [check])]
        recorder.finish(classify(recorder, arms, story=LONG, notes=[text]))
    return write(recorder.path)


def overflow(chromium: Browser) -> Any:
    return chromium.run(
        """(() => {
          const page = document.documentElement;
          const within = (one) => one.closest('pre, svg, .skip, .stack thead, .defs');
          const out = [...document.querySelectorAll('body *')].filter((one) =>
            one.getBoundingClientRect().right > page.clientWidth + 1 && !within(one));
          const told = out.map((one) => one.outerHTML.slice(0, 90));
          return [page.scrollWidth - page.clientWidth, told];
        })()"""
    )


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_nothing_is_wider_than_the_screen(chromium: Browser, report: Path, width: int) -> None:
    chromium.open(report, width)
    chromium.run("document.querySelectorAll('details').forEach((one) => { one.open = true })")
    assert overflow(chromium) == [0, []]


@pytest.fixture(scope="module", params=XEN)
def xen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(xen_record(tmp_path_factory.mktemp("results"), request.param))


@pytest.mark.parametrize("width", [390, 1280])
def test_a_xen_host_and_all_that_is_in_it_fit_the_screen(
    chromium: Browser, xen: Path, width: int
) -> None:
    chromium.open(xen, width)
    chromium.run("document.querySelectorAll('details').forEach((one) => { one.open = true })")
    assert overflow(chromium) == [0, []]
    cut = chromium.run(
        """[...document.querySelectorAll('figure svg')]
           .filter((one) => one.getClientRects().length)
           .flatMap((one) => [...one.querySelectorAll('text, rect, use')].filter((part) => {
             const all = one.getBoundingClientRect(), box = part.getBoundingClientRect();
             return box.left < all.left - 1 || box.right > all.right + 1
               || box.top < all.top - 1 || box.bottom > all.bottom + 1 }))
           .map((one) => one.outerHTML.slice(0, 120))"""
    )
    assert cut == []
    over = chromium.run(
        """[...document.querySelectorAll('figure .box.network')]
           .filter((one) => one.getClientRects().length)
           .filter((one) => one.querySelector('.kind').getBBox().width
             > one.querySelector('rect').getBBox().width - 16).length"""
    )
    assert over == 0  # what it is fits between the round ends


@pytest.mark.parametrize("width", [390, 1280])
def test_words_without_an_end_do_not_widen_it(chromium: Browser, wild: Path, width: int) -> None:
    chromium.open(wild, width)
    chromium.run("document.querySelectorAll('details').forEach((one) => { one.open = true })")
    assert overflow(chromium) == [0, []]


def test_markup_in_a_record_does_nothing(chromium: Browser, wild: Path) -> None:
    chromium.open(wild)
    assert "owned" not in chromium.run("document.title")
    assert chromium.run("document.scripts.length") == 0


def test_only_the_file_itself_is_asked_for_and_nothing_is_complained_of(
    chromium: Browser, report: Path
) -> None:
    chromium.open(report)
    assert chromium.requests() == [report.resolve().as_uri()]
    told = [e for e in chromium.events if e.get("method") in ("Log.entryAdded",)]
    assert told == []


def shown(chromium: Browser) -> list[str]:
    found: list[str] = chromium.run(
        """[...document.querySelectorAll('.figures > figure')]
           .filter((one) => one.getClientRects().length)
           .map((one) => one.querySelector('figcaption b').textContent)"""
    )
    return found


def test_arms_are_chosen_by_the_keyboard_alone(chromium: Browser, report: Path) -> None:
    chromium.open(report)
    assert shown(chromium) == ["raw/ipv4"]
    for _ in range(30):
        chromium.press(*TAB)
        if chromium.run("document.activeElement.type") == "radio":
            break
    assert chromium.run("document.activeElement.checked")
    ring = "getComputedStyle(document.querySelector('.tabs > [for=a1]')).outlineStyle"
    assert chromium.run(ring) == "solid"
    chromium.press(*RIGHT)
    assert shown(chromium) == ["raw-vnet/ipv4"]


def test_the_tab_key_goes_through_the_page_from_top_to_bottom(
    chromium: Browser, report: Path
) -> None:
    chromium.open(report)
    seen: list[int] = []
    words: list[str] = []
    for _ in range(60):
        chromium.press(*TAB)
        at = chromium.run(
            """(() => { const one = document.activeElement;
              if (one === document.body) return null;
              const all = [...document.querySelectorAll('*')];
              return [all.indexOf(one), one.tagName]; })()"""
        )
        if at is None:
            break
        seen.append(at[0])
        words.append(at[1])
    assert seen == sorted(seen)
    assert {"A", "INPUT", "SUMMARY", "PRE"} <= set(words)


def test_details_open_by_the_keyboard(chromium: Browser, report: Path) -> None:
    chromium.open(report)
    chromium.run("document.querySelector('#checks ~ details > summary').focus()")
    chromium.press(*SPACE)
    assert chromium.run("document.querySelector('#checks ~ details').open")


CONTRAST = """(() => {
  const channel = (v) => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = (c) => { const [r, g, b] = c.match(/[\\d.]+/g).map(Number);
    return .2126 * channel(r) + .7152 * channel(g) + .0722 * channel(b); };
  const ground = (one) => { for (; one; one = one.parentElement) {
      const c = getComputedStyle(one).backgroundColor;
      if (!/, 0\\)$|transparent/.test(c)) return c; } return 'rgb(255, 255, 255)'; };
  const poor = new Set();
  for (const one of document.querySelectorAll('body *')) {
    const own = [...one.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || one.closest('symbol') || !one.getClientRects().length) continue;
    const style = getComputedStyle(one), svg = one.closest('svg');
    const [a, b] = [light(svg ? style.fill : style.color), light(ground(one))];
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) poor.add(`${one.tagName}.${one.getAttribute('class')} ${ratio.toFixed(2)}`);
  }
  for (const name of ['flag', 'lost', 'valid', 'bad', 'absent']) {
    const sign = document.createElement('i');
    sign.style.cssText = `color: var(--ink); background: var(--${name})`;
    document.body.append(sign);
    const s = getComputedStyle(sign), [a, b] = [light(s.color), light(s.backgroundColor)];
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) poor.add(`sign ${name} ${ratio.toFixed(2)}`);
    sign.remove();
  }
  return [...poor];
})()"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_in_light_and_dark(
    chromium: Browser, report: Path, scheme: str
) -> None:
    """WCAG 2.2, success criterion 1.4.3: a ratio of at least 4.5 to 1."""
    chromium.media(prefers_color_scheme=scheme)
    chromium.open(report)
    chromium.run("document.querySelectorAll('details').forEach((one) => { one.open = true })")
    ground = chromium.run("getComputedStyle(document.body).backgroundColor")
    brightness = sum(int(number) for number in re.findall(r"\d+", ground))
    assert (brightness < 200) is (scheme == "dark")
    assert chromium.run(CONTRAST) == []


def test_a_phone_gets_the_tall_drawing_and_a_desk_the_wide_one(
    chromium: Browser, report: Path
) -> None:
    visible = """[...document.querySelectorAll('svg.map')]
        .filter((one) => one.getClientRects().length).map((one) => one.getAttribute('class'))"""
    chromium.open(report, 390)
    assert chromium.run(visible) == ["map tall"]
    chromium.open(report, 1280)
    assert chromium.run(visible) == ["map wide"]


def test_signs_in_the_drawing_have_a_size(chromium: Browser, report: Path) -> None:
    chromium.open(report)
    sizes = chromium.run(
        """[...document.querySelectorAll('.f1 svg.wide use')]
           .map((one) => one.getBoundingClientRect()).map((box) => box.width * box.height)"""
    )
    assert len(sizes) == 8
    assert min(sizes) > 100


def test_it_prints_without_what_only_a_screen_can_use(chromium: Browser, report: Path) -> None:
    chromium.open(report)
    assert chromium.pdf().startswith(b"%PDF")
    chromium.media("print", prefers_color_scheme="dark")
    ground = chromium.run("getComputedStyle(document.body).backgroundColor")
    assert ground == "rgb(255, 255, 255)"
    for part in ("nav", ".tabs"):
        assert chromium.run(f"getComputedStyle(document.querySelector('{part}')).display") == "none"
    assert shown(chromium) == ["raw/ipv4"]
    assert chromium.run(CONTRAST) == []


def test_images_have_names_for_those_who_do_not_see_them(chromium: Browser, report: Path) -> None:
    chromium.open(report)
    nameless = chromium.run(
        """[...document.querySelectorAll('[role=img]')].filter((one) =>
             !(one.getAttribute('aria-label')
               || document.getElementById(one.getAttribute('aria-labelledby'))?.textContent.trim()))
           .length"""
    )
    assert nameless == 0
    assert chromium.run("document.querySelectorAll('[role=img]').length") > 50


CJK = "数据库服务器的网络连接用于测试"
CHAINS = {
    "long": (("database-server-01", "web-frontend-production-02"), 1, "x" * 30, "copies"),
    "short": (("a", "b"), 2, "", "c"),
    "cjk": (("db", "www"), 2, CJK, CJK),
    "endless": (("a" * 55, "b-" * 25 + "b"), 1, "", "copies"),
}
OVERLAPS = """(() => {
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), parts = [];
  while (walker.nextNode()) {
    const node = walker.currentNode;
    if (!node.textContent.trim() || node.parentElement.closest('.skip, symbol, title')) continue;
    if (!node.parentElement.checkVisibility()) continue;  // in what is folded
    const range = document.createRange();
    range.selectNodeContents(node);
    for (const box of range.getClientRects())
      if (box.width > 1 && box.height > 1) parts.push([box, node]);
  }
  const found = [];
  parts.forEach(([one, node], at) => parts.slice(at + 1).forEach(([other, beside]) => {
    const wide = Math.min(one.right, other.right) - Math.max(one.left, other.left);
    const high = Math.min(one.bottom, other.bottom) - Math.max(one.top, other.top);
    if (node !== beside && wide > 1 && high > 2)
      found.push([node.textContent.trim().slice(0, 50), beside.textContent.trim().slice(0, 50)]);
  }));
  return found;
})()"""
BEYOND = """[...document.querySelectorAll('svg.map')].filter((one) => one.getClientRects().length)
  .flatMap((one) => { const all = one.getBoundingClientRect();
    return [...one.querySelectorAll('text, .box rect')].filter((part) => {
      const box = part.getBoundingClientRect();
      return box.left < all.left - 1 || box.right > all.right + 1
        || box.top < all.top - 1 || box.bottom > all.bottom + 1; }); })
  .map((one) => one.textContent || one.outerHTML)"""


@pytest.fixture(scope="module")
def chains(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {
        name: write(chain_record(tmp_path_factory.mktemp(name), *what))
        for name, what in CHAINS.items()
    }


@pytest.mark.parametrize("name", CHAINS)
def test_no_two_texts_overlap_and_nothing_is_cut_off(
    chromium: Browser, chains: dict[str, Path], name: str
) -> None:
    screens = [(width, scheme) for width in (360, 768, 1280) for scheme in ("light", "dark")]
    for width, scheme in screens:
        chromium.media(prefers_color_scheme=scheme)
        chromium.open(chains[name], width)
        chromium.run("document.querySelectorAll('details').forEach((one) => { one.open = true })")
        assert chromium.run(OVERLAPS) == [], (width, scheme)
        assert chromium.run(BEYOND) == [], (width, scheme)
        assert overflow(chromium) == [0, []], (width, scheme)
    chromium.media("print")
    chromium.open(chains[name], 688)  # what A4 leaves between its margins
    assert chromium.run(OVERLAPS) == []
    assert chromium.run(BEYOND) == []
    assert overflow(chromium) == [0, []]


def test_what_measures_overlaps_sees_one(chromium: Browser, report: Path) -> None:
    chromium.open(report)
    assert chromium.run(OVERLAPS) == []
    chromium.run("document.querySelector('h1').style.cssText = 'position: relative; top: 3em'")
    assert chromium.run(OVERLAPS) != []


def test_a_failing_run_leads_with_where_the_metadata_was_lost(
    chromium: Browser, chains: dict[str, Path]
) -> None:
    chromium.open(chains["long"])
    headline = chromium.run("document.querySelector('h1').textContent")
    lost = "The metadata was lost in router database-server-01-gw1 (eth0 to eth1). Not as expected"
    assert headline.startswith(lost)
    kinds = chromium.run(
        "[...document.querySelectorAll('svg.wide .box.router .kind')].map((one) => one.textContent)"
    )
    assert set(kinds) == {"router, raw-synthesised"}


def test_labels_of_the_topology_fit_into_its_drawing(chromium: Browser, tmp_path: Path) -> None:
    directory = record(tmp_path, versions=(4,))
    data = json.loads((directory / TOPOLOGY).read_text())
    for kind in ("nodes", "networks", "routers"):
        for thing in data[kind].values():
            thing["labels"] = {"role": "x" * 64, "rack": "W" * 30}
    (directory / TOPOLOGY).write_text(json.dumps(data))
    chromium.open(write(directory), 390)
    assert overflow(chromium) == [0, []]
    wide = chromium.run(
        """[...document.querySelectorAll('.f0 svg.tall .label')].filter((one) => {
             const text = one.getBBox();
             const box = one.parentElement.querySelector('rect').getBBox();
             return text.width > box.width + 40 || text.x < 0 }).length"""
    )
    assert wide == 0
