"""Started with less than usual: closed descriptors, limits, other encodings, an early Ctrl-C."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from labctl.errors import ExitCode
from labctl.results import store

LABCTL = [sys.executable, "-m", "labctl"]
ID = "20260101T000000.000Z-x-abcd"


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LABCTL_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("LABCTL_RESULTS", str(tmp_path / "results"))
    return tmp_path


def shell(line: str, **env: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["bash", "-c", line, "bash", *LABCTL],
        capture_output=True, env={**os.environ, **env}, check=False, timeout=120,
    )  # fmt: skip


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("experiments", ExitCode.OK),
        ("status --json", ExitCode.OK),
        ("--help", ExitCode.OK),
        ("up no-such-topology", ExitCode.USAGE),
    ],
)
def test_what_is_closed_is_not_missed(closed: str, words: str, code: int) -> None:
    done = shell(f'"$@" {words} {closed}')
    assert done.returncode == code
    assert b"Traceback" not in done.stderr
    if "2>&-" not in closed and code == ExitCode.OK:
        assert done.stderr == b""


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_an_output_in_another_encoding_loses_no_more_than_it_must(encoding: str) -> None:
    for words in ("explain router-hop", "experiments", "up no-süch"):
        done = shell(f'"$@" {words}', PYTHONIOENCODING=encoding)
        assert done.returncode == (ExitCode.USAGE if words.startswith("up") else ExitCode.OK)
        assert b"Traceback" not in done.stderr
    told = shell('"$@" explain router-hop --json', PYTHONIOENCODING=encoding).stdout
    plain = shell('"$@" explain router-hop --json').stdout
    assert json.loads(told.decode(encoding)) == json.loads(plain)


@pytest.mark.parametrize("locale", ["C", "no_SUCH.locale"])
def test_files_are_utf8_in_every_locale(locale: str, tmp_path: Path) -> None:
    file = tmp_path / "täst.yaml"
    file.write_text(
        "# ü → ✓\nname: täst\nnetworks: {lan: {}}\nnodes: {vm1: {interfaces: [{network: lan}]}}\n",
        encoding="utf-8",
    )
    env = {"LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = shell(f'"$@" validate {file}', **env)
    plain = shell(f'"$@" validate {file}')
    assert done.returncode == plain.returncode
    assert b"Traceback" not in done.stderr
    assert b"fault of labctl" not in done.stderr


@pytest.mark.parametrize("module", ["click", "labctl.cli.verbs"])
def test_ctrl_c_while_labctl_is_imported_is_no_traceback(module: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        # A shell starts what it puts into the background with it ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == {module!r}:\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
    )
    done = subprocess.run(
        [*LABCTL, "status"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True,
        check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == ExitCode.INTERRUPTED
    assert done.stderr.splitlines() == [
        "labctl: interrupted; nothing that this command had brought up stays"
    ]


LIMITS: dict[str, tuple[int, list[int]]] = {
    "open files": (resource.RLIMIT_NOFILE, [3, 5, 8, 20]),
    "memory": (resource.RLIMIT_AS, [20 << 20, 32 << 20, 48 << 20]),
    "file size": (resource.RLIMIT_FSIZE, [0, 100]),
}


@pytest.mark.parametrize("what", LIMITS)
@pytest.mark.parametrize("words", [["status"], ["validate", "bridged.yaml"]], ids=lambda w: w[0])
def test_limits_are_told_or_enough(what: str, words: list[str]) -> None:
    number, values = LIMITS[what]
    for value in values:
        done = limited(number, value, words)
        if done.returncode == ExitCode.OK:
            continue
        error = done.stderr.decode()
        assert done.returncode == ExitCode.ERROR, (value, error)
        assert "Traceback" not in error, (value, error)
        assert error.startswith("labctl: "), (value, error)
        assert "fault of labctl" not in error, (value, error)


def limited(number: int, value: int, words: list[str]) -> subprocess.CompletedProcess[bytes]:
    """Run `labctl` under a limit from where its own code begins: Python is not ours to mend.

    Its hashlib logs a traceback where there is no memory for a library, and goes on.
    """
    script = (
        "import hashlib, resource, signal, sys\n"
        "from labctl.__main__ import main\n"
        "sys.argv = ['labctl', *sys.argv[1:]]\n"
        f"resource.setrlimit({number}, ({value}, {value}))\n"
        "main()\n"
    )
    return subprocess.run(
        [sys.executable, "-c", script, *words], capture_output=True, check=False, timeout=120
    )


ODD: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a folder": Path.mkdir,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to itself": lambda path: path.symlink_to(path),
}


@pytest.mark.parametrize("name", ["result.json", "running"])
@pytest.mark.parametrize("odd", ODD)
def test_what_is_no_file_in_a_record_hangs_nobody(name: str, odd: str, places: Path) -> None:
    folder = places / "results" / ID
    folder.mkdir(parents=True)
    ODD[odd](folder / name)
    (found,) = store.list_runs(places / "results")
    assert found.verdict is None
    assert found.state in (store.RunState.UNREADABLE, store.RunState.INTERRUPTED)
