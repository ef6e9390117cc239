"""Progress as plain lines and on a screen."""

from __future__ import annotations

import io
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from rich.console import Console

from labctl.cli import options
from labctl.cli.display import Lines, display, paused
from labctl.cli.screen import Screen
from labctl.events import Event

EVENTS = [
    Event("boot", "vm1", "start", time=100.0),
    Event("boot", "vm1", "progress", "kernel", 0.5, time=101.0),
    Event("boot", "vm1", "done", "ready in 2.0 s", time=102.0),
    Event("network", "lab", "start", time=102.0),
    Event("network", "lab", "done", time=105.0),
    Event("check", "raw/ipv4", "progress", "fail: ssh: [bold]works[/bold]", time=106.0),
    Event("check", "raw/ipv4", "progress", "odd detail without a verdict", time=106.0),
    Event("arm", "raw/ipv4", "failed", "fail", time=107.0),
    Event("image", "micro", "done", "never started", time=107.0),
]


def test_work_goes_on_where_its_progress_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        with Lines() as show:
            for event in EVENTS:
                show(event)
        with suppress(OSError):
            full.close()


def test_lines_show_what_starts_ends_and_is_checked(capsys: pytest.CaptureFixture[str]) -> None:
    with Lines() as show:
        for event in EVENTS:
            show(event)
    out, err = capsys.readouterr()
    assert out == ""
    lines = [line.split(None, 1)[1] for line in err.splitlines()]
    assert len(lines) == len(EVENTS) - 1  # progress without words for a reader is left out
    assert lines[0].split() == ["boot", "vm1", "…"]
    assert lines[1].split() == ["boot", "vm1", "ok", "ready", "in", "2.0", "s"]
    assert lines[4].endswith("fail: ssh: [bold]works[/bold]")
    assert "FAILED" in lines[6]


def test_what_a_long_boot_is_at_is_told_now_and_then_and_clean(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("labctl.cli.display.time.monotonic", lambda: clock[0])
    with Lines() as show:
        show(Event("boot", "vm1", "start"))
        for clock[0] in range(5, 75, 5):
            show(Event("boot", "vm1", "progress", f"it says: \x1b[2Jline {clock[0]}"))
        show(Event("image", "x", "progress", "words"))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[-1] for line in lines] == ["…", "30", "60"]
    assert "\x1b" not in "".join(lines)


def screen(monkeypatch: pytest.MonkeyPatch) -> tuple[Screen, io.StringIO]:
    text = io.StringIO()
    monkeypatch.setenv("TERM", "xterm")
    console = Console(file=text, force_terminal=True, width=100, color_system=None)
    monkeypatch.setattr("labctl.cli.screen.CleanConsole", lambda **_: console)
    return Screen(), text


def test_the_screen_leaves_what_is_over_as_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    shown, text = screen(monkeypatch)
    with shown:
        for event in EVENTS:
            shown(event)
        assert "boot" not in "".join(str(key) for key in shown._running)
    seen = text.getvalue()
    assert "✓ boot vm1  ready in 2.0 s" in seen
    assert "✓ network lab  3.0 s" in seen
    assert "fail  ssh: [bold]works[/bold]" in seen  # nothing in an event is taken for markup
    assert "✗ arm raw/ipv4  fail" in seen


def test_the_screen_draws_what_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    shown, text = screen(monkeypatch)
    with shown:
        shown(EVENTS[0])
        shown(EVENTS[1])
        shown._live.refresh()
    assert "vm1" in text.getvalue()
    assert " 50%" in text.getvalue()


def test_the_screen_takes_events_from_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    shown, text = screen(monkeypatch)

    def boot(name: str) -> None:
        for state in ("start", "progress", "done"):
            shown(Event("boot", name, state))

    with shown:
        threads = [threading.Thread(target=boot, args=(f"vm{i}",)) for i in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert all(f"boot vm{i} " in text.getvalue() for i in range(20))


def test_the_display_fits_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(display(), Lines)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert isinstance(display(), Screen)
    for term in ("dumb", "unknown", ""):
        monkeypatch.setenv("TERM", term)
        assert isinstance(display(), Lines)


def test_a_table_in_a_pipe_keeps_long_words_and_takes_nothing_for_markup(
    capsys: pytest.CaptureFixture[str],
) -> None:
    long = "x" * 150
    options.print_table(["one", "two"], [[long, "[red]pass[/red]"], ["pass", ""]], "title")
    out = capsys.readouterr().out
    assert long in out
    assert "[red]pass[/red]" in out
    assert out.splitlines()[0].strip() == "title"


def test_a_screen_that_pauses_draws_nothing_meanwhile_and_goes_on() -> None:
    show = Screen()
    with show:
        show(EVENTS[0])
        with paused(show):
            assert not show._live.is_started
        assert show._live.is_started
        show(EVENTS[2])
    assert not show._live.is_started
