"""A lab is found by what runs, whatever has become of its folder, and whoever asks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from live import LABCTL, Done, as_user, needs_users, place

from labctl.errors import UsageError
from labctl.lab import orphans, state
from labctl.sandbox import namespaces
from labctl.sandbox.namespaces import IDENTITY, Namespaces

pytestmark = pytest.mark.integration


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="lt", dir="/tmp", ignore_cleanup_errors=True) as root:
        monkeypatch.setenv("LABCTL_RUNTIME_DIR", root)
        folder = Path(root) / "labctl"
        folder.mkdir()
        yield folder


@pytest.fixture
def sandbox(runtime: Path) -> Iterator[Namespaces]:
    with state.creating(runtime / "one"):
        made = Namespaces.create(runtime / "one")
    (runtime / "one" / "something").touch()
    made.keep()
    yield made
    namespaces.end_process(made.identity, made.directory)


def labctl(*words: str, through: tuple[str, ...] = ()) -> Done:
    done = subprocess.run(
        [*through, LABCTL, *words], capture_output=True, text=True, timeout=60, check=False
    )
    return Done(done.returncode, done.stdout, done.stderr)


LOSSES: dict[str, Callable[[Path], object]] = {
    "the runtime folder": lambda runtime: shutil.rmtree(runtime.parent),
    "its own folder": lambda runtime: shutil.rmtree(runtime / "one"),
    "its identity": lambda runtime: (runtime / "one" / IDENTITY).unlink(),
    "the words of its identity": lambda runtime: (runtime / "one" / IDENTITY).write_text("{}"),
    "another identity": lambda runtime: (runtime / "one" / IDENTITY).write_text(
        json.dumps({"pid": os.getpid(), "mark": "another", "user": False})
    ),
}
"""What may go while a lab runs."""


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("words", [("down", "one"), ("down", "--all"), ("down",)])
def test_a_lab_that_has_lost_its_folder_is_shown_and_ended(
    loss: str, words: tuple[str, ...], runtime: Path, sandbox: Namespaces
) -> None:
    LOSSES[loss](runtime)
    (told,) = labctl("status", "--json").json()
    assert (told["name"], told["state"]) == ("one", "orphaned")
    assert told["started"].startswith("20")
    assert "one: orphaned" in labctl("status").stdout
    done = labctl(*words)
    assert done.status == 0
    assert done.stdout.startswith("lab one is down; it ran without its folder")
    assert not sandbox.identity.alive
    assert not (runtime / "one").exists()
    assert labctl("status", "--json").json() == []


def test_an_unmounted_runtime_folder_hides_no_lab(runtime: Path) -> None:
    """What systemd does to /run/user/UID at the end of a session."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=700", "labctl-test", runtime], check=True)
    mounted = True
    try:
        with state.creating(runtime / "one"):
            made = Namespaces.create(runtime / "one")
        made.keep()
        subprocess.run(["umount", "--lazy", str(runtime)], check=True)
        mounted = False
        assert [one.name for one in orphans.find()] == ["one"]
        assert labctl("down", "--all").stdout.startswith("lab one is down; ")
        assert not made.identity.alive
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(runtime)], check=True)


def test_a_lab_without_its_folder_keeps_its_name(runtime: Path, sandbox: Namespaces) -> None:
    shutil.rmtree(runtime / "one")
    with (
        pytest.raises(UsageError, match="lab one runs, but its folder has gone") as wrong,
        state.creating(runtime / "one"),
    ):
        pass
    assert "labctl down one" in wrong.value.hint
    with state.creating(runtime / "two"):
        pass
    assert sandbox.identity.alive
    for words in (["ssh", "-l", "one", "vm1"], ["exec", "vm1", "true"], ["logs", "vm1"]):
        told = labctl(*words)
        assert told.status == 2
        assert told.stderr.startswith("labctl: lab one is orphaned: it runs, but its folder")


def test_another_up_leaves_a_lab_whose_identity_is_lost(runtime: Path, sandbox: Namespaces) -> None:
    (runtime / "one" / IDENTITY).unlink()
    with state.creating(runtime / "two"):
        pass
    assert sandbox.identity.alive
    assert (runtime / "one" / "something").exists()


def test_a_lab_that_is_just_being_made_is_no_orphan(runtime: Path) -> None:
    with state.creating(runtime / "one"):
        made = Namespaces.create(runtime / "one")
        identity = runtime / "one" / IDENTITY
        identity.rename(runtime / "kept")  # the moment before it is written
        with subprocess.Popen([LABCTL, "status", "--json"], stdout=subprocess.PIPE) as asking:
            (runtime / "kept").rename(identity)
            out = asking.communicate(timeout=60)[0]
    assert [lab["state"] for lab in json.loads(out)] == ["coming up"]
    made.end()


def test_labs_of_another_runtime_folder_are_left_alone(
    runtime: Path, sandbox: Namespaces, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.rmtree(runtime / "one")
    monkeypatch.setenv("LABCTL_RUNTIME_DIR", str(tmp_path))
    assert labctl("status", "--json").json() == []
    assert labctl("down", "--all").stdout == "no lab is up\n"
    assert sandbox.identity.alive


def test_a_later_lab_of_the_same_folder_outlives_an_orphan(
    runtime: Path, sandbox: Namespaces
) -> None:
    (lost,) = _lose(runtime)
    later = Namespaces.create(runtime / "one")  # as an earlier labctl would
    later.keep()
    assert [lab["state"] for lab in labctl("status", "--json").json()] == ["coming up", "orphaned"]
    lost.end()
    assert not sandbox.identity.alive
    assert later.identity.alive
    assert orphans.find() == []
    later.end()


def _lose(runtime: Path) -> list[orphans.Orphan]:
    shutil.rmtree(runtime / "one")
    return orphans.find()


@pytest.mark.parametrize(
    "through",
    [("unshare", "--time", "--boottime", "1000000", "--monotonic", "1000000", "--fork", "--")],
)
def test_a_lab_is_the_same_in_another_time_namespace(
    through: tuple[str, ...], runtime: Path, sandbox: Namespaces
) -> None:
    (told,) = labctl("status", "--json", through=through).json()
    assert told["state"] == "coming up"
    assert labctl("down", "one", through=through).stdout == "lab one is down\n"
    assert not sandbox.identity.alive
    assert not (runtime / "one").exists()


def test_a_lab_of_another_process_namespace_is_not_told_to_be_down(
    runtime: Path, sandbox: Namespaces
) -> None:
    through = ("unshare", "--pid", "--fork", "--mount-proc", "--")
    told = labctl("down", "one", through=through)
    assert told.status == 3
    assert told.stderr.startswith("labctl: lab one runs, but its processes are not to be seen")
    assert sandbox.identity.alive
    assert (runtime / "one" / IDENTITY).exists()
    told = labctl("ssh", "-l", "one", "vm1", through=through)
    assert (told.status, sandbox.identity.alive) == (2, True)


def test_an_ordinary_user_finds_a_lab_after_the_end_of_the_session() -> None:
    needs_users()
    script = f"""
export LABCTL_RUNTIME_DIR= XDG_RUNTIME_DIR=$HOME/session
mkdir -m 700 $XDG_RUNTIME_DIR
{sys.executable} - <<END
from labctl.lab import state
from labctl.sandbox.namespaces import Namespaces
with state.creating(state.directory("one")):
    made = Namespaces.create(state.directory("one"))
made.keep()
END
rm -r $XDG_RUNTIME_DIR
{LABCTL} status --json
{LABCTL} down --all
{LABCTL} status --json
"""
    with place("off") as where:
        done = as_user(where, script)
    assert done.status == 0, done
    assert '"orphaned"' in done.stdout
    assert "lab one is down; it ran without its folder" in done.stdout
    assert done.stdout.endswith("[]\n")
