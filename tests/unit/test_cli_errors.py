"""What the command line makes of errors: an exit code, what is wrong, and what to do."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from cli_words import Labctl, raising

from labctl.cli import main
from labctl.errors import ExitCode, GuestError, HostError, LabctlError, UsageError
from labctl.lab import state

pytest_plugins = ["cli_words"]
pytestmark = pytest.mark.usefixtures("runtime")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("it is wrong", "do right"), ExitCode.USAGE),
        (HostError("it is wrong", "do right"), ExitCode.ERROR),
        (GuestError("it is wrong", "do right"), ExitCode.ERROR),
    ],
)
def test_an_error_is_one_line_and_a_hint(
    labctl: Labctl, monkeypatch: pytest.MonkeyPatch, error: LabctlError, code: int
) -> None:
    monkeypatch.setattr(state, "known", raising(error))
    told = labctl("status")
    assert (told.code, told.out, told.err) == (code, "", "labctl: it is wrong\n  do right\n")


def test_details_follow_the_hint(labctl: Labctl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "known", raising(GuestError("died", "see", "    kernel panic")))
    assert labctl("status").err == "labctl: died\n  see\n    kernel panic\n"


def test_errors_are_json_where_json_was_asked_for(
    labctl: Labctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "known", raising(HostError("it is wrong", "do right")))
    told = labctl("status", "--json")
    assert told.code == ExitCode.ERROR
    assert json.loads(told.out) == {"error": "it is wrong", "hint": "do right", "detail": ""}
    assert told.err == ""


@pytest.mark.parametrize(
    "fault", [KeyError("x"), OSError(22, "odd"), PermissionError(1, "no"), ZeroDivisionError()]
)
def test_a_fault_of_labctl_is_an_error_in_one_line_and_no_verdict(
    labctl: Labctl, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    monkeypatch.setattr(state, "known", raising(fault))
    told = labctl("status")
    assert told.code == ExitCode.ERROR
    assert "Traceback" not in told.err
    assert told.err.startswith(f"labctl: {type(fault).__name__}")
    assert "LABCTL_DEBUG=1" in told.err


@pytest.mark.parametrize(
    ("fault", "said", "remedy"),
    [
        (OSError(errno.ENOSPC, "No space left", "/here/x"), "/here/x: No space left", "free some"),
        (OSError(errno.ENOSPC, "No space left"), "a file (", "free some"),
        (OSError(errno.EDQUOT, "Quota exceeded", "/here/x"), "/here/x: Quota", "quota"),
        (OSError(errno.EROFS, "Read-only", "/here/x"), "/here/x: Read-only", "XDG_CACHE_HOME"),
        (PermissionError(errno.EACCES, "Denied", b"/here/x"), "/here/x: Denied", "XDG_CACHE_HOME"),
        (NotADirectoryError(errno.ENOTDIR, "Not a", "/here/x"), "/here/x: Not a", "another path"),
    ],
)
def test_what_the_host_refuses_is_no_fault_of_labctl(
    labctl: Labctl, monkeypatch: pytest.MonkeyPatch, fault: OSError, said: str, remedy: str
) -> None:
    monkeypatch.setattr(state, "known", raising(fault))
    told = labctl("status")
    assert told.code == ExitCode.ERROR
    what, do = told.err.splitlines()
    assert what.startswith(f"labctl: {said}")
    assert remedy in do
    assert "fault of labctl" not in told.err


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["experiments"], ExitCode.ERROR),
        (["experiments", "--json"], ExitCode.ERROR),
        (["schema"], ExitCode.ERROR),
        (["--help"], ExitCode.ERROR),
        (["up", "no-such-topology", "--json"], ExitCode.USAGE),
    ],
)
def test_an_output_that_is_full_is_told_and_no_verdict(
    words: list[str], code: int, unbuffered: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "labctl.cli.main", *words],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60,
        )  # fmt: skip
    assert done.returncode == code
    assert "fault of labctl" not in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith(
        "labctl: the output: No space left" if code == ExitCode.ERROR else "labctl: there is no"
    )


def test_an_error_that_nobody_can_be_told_has_its_code_all_the_same() -> None:
    with Path("/dev/full").open("w") as full:
        for words in (["up"], ["up", "no-such-topology"]):
            done = subprocess.run(
                [sys.executable, "-m", "labctl.cli.main", *words],
                stdout=full, stderr=full, check=False, timeout=60,
            )  # fmt: skip
            assert done.returncode == ExitCode.USAGE


def test_debugging_shows_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABCTL_DEBUG", "1")
    monkeypatch.setattr(sys, "argv", ["labctl", "status"])
    for fault in (KeyError("x"), HostError("it is wrong")):
        monkeypatch.setattr(state, "known", raising(fault))
        with pytest.raises(type(fault)):
            main.main()


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), click.Abort()])
def test_an_interrupt_has_its_own_code(
    labctl: Labctl, monkeypatch: pytest.MonkeyPatch, stop: BaseException
) -> None:
    monkeypatch.setattr(state, "known", raising(stop))
    told = labctl("status")
    assert told.code == ExitCode.INTERRUPTED
    assert "Traceback" not in told.err


def test_a_broken_connection_is_not_a_reader_that_left(
    labctl: Labctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "known", raising(BrokenPipeError(32, "Broken pipe")))
    monkeypatch.setattr(main, "_reader_gone", lambda: False)
    assert labctl("status").code == ExitCode.ERROR


@pytest.mark.parametrize(
    "words", [["experiments"], ["experiments", "--json"], ["schema"], ["--help"], ["--version"]]
)
def test_a_reader_that_left_is_no_verdict_and_no_traceback(words: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "labctl.cli.main", *words],
            stdout=write, stderr=subprocess.PIPE, text=True, check=False, timeout=60,
        )  # fmt: skip
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (ExitCode.READER_GONE, "")
