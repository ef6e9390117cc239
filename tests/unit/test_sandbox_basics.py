"""Deadlines, the gate to programs, and where labctl keeps things."""

from __future__ import annotations

import errno
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from labctl.errors import DeadlineError, ExitCode, GuestError, HostError, LabctlError, UsageError
from labctl.images import recipe_paths
from labctl.sandbox import namespaces, paths
from labctl.sandbox.deadline import Deadline
from labctl.sandbox.process import CommandError, environment, last_lines, run
from labctl.sandbox.remote import error_of, failure


def python(code: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", code]


def soon() -> Deadline:
    return Deadline(20, "a test")


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [LabctlError, UsageError, HostError, GuestError, DeadlineError])
def test_every_error_keeps_message_hint_and_detail_on_its_way(
    kind: type[LabctlError],
) -> None:
    copy = error_of(failure(kind("what", "do", "lines")))
    assert type(copy) is kind
    assert (str(copy), copy.hint, copy.detail) == ("what", "do", "lines")


def test_only_wrong_input_exits_as_usage() -> None:
    assert UsageError("").exit_code is ExitCode.USAGE
    assert {HostError("").exit_code, GuestError("").exit_code} == {ExitCode.ERROR}


def test_no_two_endings_share_an_exit_code() -> None:
    assert len({int(code) for code in ExitCode}) == len(ExitCode)


# --- deadlines ----------------------------------------------------------------------------------


def test_a_deadline_that_passed_names_its_stage_and_why() -> None:
    over = Deadline(0, "booting vm1")
    assert over.passed
    assert over.left == 0.0
    with pytest.raises(DeadlineError, match="booting vm1 took longer than 0 s: no answer") as told:
        over.check("no answer", "wait longer")
    assert told.value.hint == "wait longer"


def test_a_deadline_ahead_lets_pass() -> None:
    ahead = Deadline(1000, "booting vm1")
    ahead.check()
    ahead.pause(0.0)
    assert 0 < ahead.left <= 1000


def test_a_pause_ends_with_its_deadline() -> None:
    with pytest.raises(DeadlineError):
        Deadline(0.01, "waiting").pause(1000)


# --- programs -----------------------------------------------------------------------------------


def test_a_program_gets_its_input_and_a_small_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_PRELOAD", "/nonexistent.so")
    monkeypatch.setenv("HOME", "/some/where")
    code = "import os,sys; print(sys.stdin.read(), sorted(os.environ), os.environ['EXTRA'])"
    result = run(python(code), deadline=soon(), stdin=b"in", env={"EXTRA": "more"})
    assert result.ok
    assert result.stdout.startswith("in [")
    assert "LD_PRELOAD" not in result.stdout
    assert result.stdout.rstrip().endswith("more")
    assert environment()["HOME"] == "/some/where"


def test_a_failing_program_is_told_ready_to_paste_with_its_last_words() -> None:
    code = "import sys; print('one\\n\\ntwo\\nthree\\nfour', file=sys.stderr); sys.exit(7)"
    with pytest.raises(CommandError, match=r"-c 'import sys.* exited with 7: two / three / four"):
        run(python(code), deadline=soon())
    assert run(python(code), deadline=soon(), check=False).status == 7


def test_standard_output_serves_where_nothing_was_said_on_standard_error() -> None:
    with pytest.raises(CommandError, match="exited with 1: only this"):
        run(python("print('only this'); raise SystemExit(1)"), deadline=soon())


def test_a_missing_program_names_the_package_that_has_it() -> None:
    with pytest.raises(HostError, match="no-such-program is not installed") as told:
        run(["no-such-program"], deadline=soon(), package="some-package")
    assert told.value.hint == "install it: apt-get install some-package"
    with pytest.raises(HostError) as told:
        run(["no-such-program"], deadline=soon())
    assert "doctor" in told.value.hint


def test_a_program_that_does_not_end_is_killed(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    code = f"echo $$ > {mark}; echo last words; exec sleep 1000"
    with pytest.raises(DeadlineError, match=r"a stage took longer than 1 s: .*last words"):
        run(["sh", "-c", code], deadline=Deadline(1, "a stage"))
    with pytest.raises(ProcessLookupError):
        os.kill(int(mark.read_text()), 0)


def test_output_that_is_no_text_is_no_fault() -> None:
    result = run(python("import os; os.write(1, b'\\xff\\xfe')"), deadline=soon())
    assert result.stdout == "\ufffd\ufffd"


def test_last_words_leave_empty_lines_out() -> None:
    assert last_lines("a\n\n b \n\n") == "a / b"
    assert last_lines("") == ""


# --- places -------------------------------------------------------------------------------------


def test_the_runtime_folder_is_made_private_to_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABCTL_RUNTIME_DIR", str(tmp_path / "a" / "b"))
    folder = paths.runtime()
    assert folder == tmp_path / "a" / "b" / "labctl"
    assert folder.stat().st_mode & 0o777 == 0o711
    assert paths.runtime() == folder


def test_a_runtime_folder_that_cannot_be_made_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("LABCTL_RUNTIME_DIR", str(tmp_path / "file"))
    with pytest.raises(HostError, match="cannot be made") as told:
        paths.runtime()
    assert "LABCTL_RUNTIME_DIR" in told.value.hint


def test_a_link_in_place_of_the_runtime_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "labctl").symlink_to(tmp_path / "elsewhere")
    monkeypatch.setenv("LABCTL_RUNTIME_DIR", str(tmp_path))
    with pytest.raises(HostError, match="not a folder of yours"):
        paths.runtime()


def test_relative_xdg_folders_are_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert paths.cache() == tmp_path / ".cache" / "labctl"
    assert paths.state() == Path("/state/labctl")


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nowhere)
    for variable, place in (
        ("XDG_CACHE_HOME", paths.cache),
        ("XDG_STATE_HOME", paths.state),
        ("XDG_CONFIG_HOME", recipe_paths.folders),
    ):
        monkeypatch.delenv(variable, raising=False)
        with pytest.raises(HostError, match="no home folder") as told:
            place()
        assert f"HOME or {variable}" in told.value.hint


# --- a sandbox that does not come to life ---------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "logged", "message", "hint"),
    [
        ("refused: mount: /run: permission denied.", "", "namespaces: mount: /run", "root|sub|run"),
        ("", "unshare: unshare failed: Operation not permitted\n", "namespaces: unshare", ""),
        ("failed: 28 /run/labctl/x", "", r"^/run/labctl/x: No space left", "free some space"),
        ("failed: 19 /run/labctl/x", "", "cannot be made: .*No such device", "doctor"),
        ("", "ImportError: no such module\n", "first process .* ended: ImportError", "doctor"),
    ],
)
def test_only_a_refusal_of_namespaces_is_told_as_one(
    tmp_path: Path, said: str, logged: str, message: str, hint: str
) -> None:
    log = tmp_path / "init.log"
    log.write_text(logged)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        if said:
            theirs.send(said.encode())
        else:
            theirs.close()
        with pytest.raises(HostError) as told:
            namespaces._wait_ready(ours, log, os.getpid())
    assert re.search(message, told.value.message)
    assert re.search(hint, told.value.hint)


def test_words_lost_in_a_full_folder_are_told_as_a_full_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "init.log"
    log.touch()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.close()
        with pytest.raises(HostError, match="No space left") as told:
            namespaces._wait_ready(ours, log, os.getpid())
    assert "free some space" in told.value.hint


def test_the_end_of_unshare_is_enough_where_its_child_holds_the_lifeline(tmp_path: Path) -> None:
    log = tmp_path / "init.log"
    log.write_text("unshare: unshare failed: No space left on device\n")
    ours, theirs = socket.socketpair()
    said = pytest.raises(HostError, match="No space left on device")
    with ours, theirs, subprocess.Popen(["true"]) as ended, said:
        namespaces._wait_ready(ours, log, ended.pid)
