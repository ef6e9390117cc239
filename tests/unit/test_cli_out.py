"""What is printed: nothing of it acts on a terminal, whoever wrote it and whatever prints it."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from rich.table import Table
from rich.text import Text

from labctl.cli import options, out
from labctl.cli.console import Page
from labctl.cli.out import CleanStream, Styled, say
from labctl.errors import ExitCode, GuestError

PACKAGE = Path(__file__).resolve().parents[2] / "labctl"
EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e\udc80"
SHOWN = r"\x1b]0;owned\x07\x1b[2J\x9b31m\u202e\udc80"


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


Terminal = Callable[[], io.StringIO]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Gives standard output as the command line has it, once a test is under way."""

    def begin() -> io.StringIO:
        raw = Tty()
        monkeypatch.setattr(sys, "stdout", raw)
        monkeypatch.setattr(sys, "stderr", io.StringIO())
        out.install()
        return raw

    return begin


def test_whatever_prints_prints_clean_text(terminal: Terminal) -> None:
    raw = terminal()
    click.echo(EVIL)
    print(EVIL)
    sys.stdout.writelines([EVIL, "\n"])
    say(EVIL)
    assert raw.getvalue() == f"{SHOWN}\n" * 4


def test_styles_are_ours_and_the_text_within_is_clean() -> None:
    shown = Styled(EVIL, fg="red", bold=True).shown()
    assert SHOWN in shown
    assert re.sub(r"\x1b\[[0-9;]*m", "", shown) == SHOWN


def test_a_clean_stream_has_no_way_round_it() -> None:
    stream = CleanStream(io.TextIOWrapper(io.BytesIO(), "utf-8"))
    assert not hasattr(stream, "buffer")
    assert stream.encoding == "utf-8"
    with pytest.raises(TypeError):
        stream.write(b"bytes")  # type: ignore[arg-type]


def test_tables_are_clean_and_keep_their_styles(terminal: Terminal) -> None:
    raw = terminal()
    page = Page(force_terminal=True, width=200, color_system="standard")
    table = Table(title=Text(EVIL))
    table.add_column("what")
    table.add_row(Text(EVIL, style="red"))
    page.print(table)
    text = raw.getvalue()
    assert "\x1b[31m" in text
    assert r"\x1b]0;owned" in text
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert all(one == "\n" or one.isprintable() for one in plain)


def test_a_table_of_words_takes_no_markup_and_shows_all_of_it(terminal: Terminal) -> None:
    raw = terminal()
    options.print_table(
        ["a"], [["[bold]x[/bold]"], [EVIL]], title="[red]y[/red] [link=file:///z]z[/link]"
    )
    assert "[bold]x[/bold]" in raw.getvalue()
    assert SHOWN in raw.getvalue()
    assert "[red]y[/red]" in raw.getvalue()


def test_json_is_made_safe_by_its_own_escapes(terminal: Terminal) -> None:
    raw = terminal()
    options.print_json({EVIL: ["ü", EVIL]})
    text = raw.getvalue()
    assert json.loads(text) == {EVIL: ["ü", EVIL]}
    assert "ü" in text
    assert all(one == "\n" or one.isprintable() for one in text)


def test_an_error_is_clean_from_the_start() -> None:
    error = GuestError(f"vm1 said {EVIL}", EVIL, f"a\n{EVIL}")
    assert error.message == str(error) == f"vm1 said {SHOWN}"
    assert (error.hint, error.detail) == (SHOWN, f"a\n{SHOWN}")


@pytest.mark.parametrize("as_json", [False, True])
def test_the_command_says_clean_errors(tmp_path: Path, as_json: bool) -> None:
    file = tmp_path / "x.yaml"
    file.write_text('"\\e[2J\\x9b": 1\nnodes: {"v\\e]0;m": {}}\n')
    options = [sys.executable, "-m", "labctl.cli.main", "validate", str(file)]
    done = subprocess.run(
        [*options, "--json"] if as_json else options, capture_output=True, check=False
    )
    assert done.returncode == ExitCode.USAGE
    text = (done.stdout + done.stderr).decode()
    assert r"\x1b[2J" in text or r"\u001b[2J" in text or r"\\x1b[2J" in text
    assert all(one == "\n" or one.isprintable() for one in text)


def test_nothing_prints_beside_the_one_way_out() -> None:
    """Consoles are clean ones, styles stand apart from texts, and bytes go out in two places."""
    allowed = {
        r"\bConsole\(": {"cli/console.py"},
        r"click\.(style|secho)\(": {"cli/out.py"},
        r"sys\.(__stdout__|__stderr__)|std(out|err)\.buffer|os\.write\(sys": {
            "cli/terminal.py",  # a console on the user's terminal
            "kinds/observers/observe.py",  # no part of the command: a program of its own
        },
    }
    for pattern, places in allowed.items():
        found = {
            str(path.relative_to(PACKAGE))
            for path in PACKAGE.rglob("*.py")
            if re.search(rf"(?<!class Clean){pattern}", path.read_text())
        }
        assert found <= places, pattern
