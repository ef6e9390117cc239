"""A run as one file: out and in again, and what is refused of what somebody else may have made."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from labctl.errors import LabctlError, UsageError
from labctl.results import archive, store
from labctl.results.archive import bring_in, export
from report_records import record

pytestmark = pytest.mark.filterwarnings("ignore:Field type should not be:DeprecationWarning")
Members = list[tuple[tarfile.TarInfo, bytes]]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return record(tmp_path / "there")


@pytest.fixture
def file(tmp_path: Path, run: Path) -> Path:
    export(run, tmp_path / "run.tar")
    return tmp_path / "run.tar"


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_run_comes_in_as_it_went_out(tmp_path: Path, run: Path, file: Path) -> None:
    name, new = bring_in(file, tmp_path / "here")
    assert (name, new) == (run.name, True)
    assert files(tmp_path / "here" / name) == files(run)
    assert [one.name for one in (tmp_path / "here").iterdir()] == [name]
    assert store.load("last", tmp_path / "here") == store.load("last", tmp_path / "there")


def test_tar_itself_can_look_into_it(file: Path, run: Path) -> None:
    with tarfile.open(file) as opened:
        names = opened.getnames()
    assert names[0] == "labctl-run/manifest.json"
    assert {name.removeprefix("labctl-run/") for name in names[1:]} == set(files(run))


def test_twice_the_same_run_is_one_and_another_of_its_name_is_refused(
    tmp_path: Path, file: Path
) -> None:
    name, _ = bring_in(file, tmp_path / "here")
    assert bring_in(file, tmp_path / "here") == (name, False)
    result = tmp_path / "here" / name / "result.json"
    result.write_text(result.read_text() + " ")
    with pytest.raises(UsageError, match="another run is called"):
        bring_in(file, tmp_path / "here")
    assert result.read_text().endswith(" ")


def test_what_else_lies_in_a_runs_folder_is_not_sent_on(tmp_path: Path, run: Path) -> None:
    (run / "id_rsa").write_text("secret")
    (run / "console" / "vm9.log").symlink_to("/etc/passwd")
    (run / "report.html").write_text("made anew from the rest")
    os.mkfifo(run / "captures" / "x.pcapng")
    export(run, tmp_path / "run.tar")
    with tarfile.open(tmp_path / "run.tar") as opened:
        told = " ".join(opened.getnames())
    for name in ("id_rsa", "vm9", "report", "x.pcapng"):
        assert name not in told


def test_a_run_without_a_result_is_not_exported(tmp_path: Path, run: Path) -> None:
    (run / "result.json").unlink()
    with pytest.raises(LabctlError, match="no result"):
        export(run, tmp_path / "run.tar")
    assert not (tmp_path / "run.tar").exists()


# --- what somebody else may have made -------------------------------------------------------------


def members(file: Path) -> Members:
    with tarfile.open(file) as opened:
        found = []
        for one in opened.getmembers():
            data = opened.extractfile(one)
            assert data
            found.append((one, data.read()))
        return found


def put(file: Path, found: Iterable[tuple[tarfile.TarInfo, bytes]]) -> None:
    with tarfile.open(file, "w", format=tarfile.GNU_FORMAT) as opened:
        for one, data in found:
            one.size = len(data) if one.isreg() else 0
            opened.addfile(one, io.BytesIO(data) if one.isreg() else None)


def with_manifest(found: Members, change: Callable[[dict[str, Any]], Any]) -> Members:
    told = json.loads(found[0][1])
    change(told)
    return [(found[0][0], json.dumps(told).encode()), *found[1:]]


def also(found: Members, name: str, data: bytes = b"x", kind: bytes = tarfile.REGTYPE) -> Members:
    """With one more member, which the manifest has too."""
    one = tarfile.TarInfo(name if name.startswith("/") else f"labctl-run/{name}")
    one.type, one.linkname = kind, "/etc/passwd" if kind != tarfile.REGTYPE else ""
    about = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return [*with_manifest(found, lambda told: told["files"].update({name: about})), (one, data)]


def another_id(name: str) -> Callable[[Members], Members]:
    return lambda found: with_manifest(found, lambda told: told.update(id=name))


HOSTILE: dict[str, Callable[[Members], Members]] = {
    "a path that leads out": lambda found: also(found, "../x"),
    "an absolute path": lambda found: also(found, "/tmp/x"),
    "a path that leads out below captures": lambda found: also(found, "captures/../../x.pcapng"),
    "a file that no run has": lambda found: also(found, "captures/.bashrc"),
    "the marker of a run that goes on": lambda found: also(found, "running"),
    "a link": lambda found: also(found, "captures/l.pcapng", b"", tarfile.SYMTYPE),
    "a hard link": lambda found: also(found, "captures/l.pcapng", b"", tarfile.LNKTYPE),
    "a device": lambda found: also(found, "captures/l.pcapng", b"", tarfile.CHRTYPE),
    "a file twice": lambda found: [*found, found[-1]],
    "a file that was not announced": lambda found: [
        *found,
        also(found, "captures/y.pcapng")[-1],
    ],
    "a file less": lambda found: found[:-1],
    "other bytes": lambda found: [*found[:-1], (found[-1][0], found[-1][1][::-1])],
    "fewer bytes": lambda found: [*found[:-1], (found[-1][0], found[-1][1][:-1])],
    "no manifest": lambda found: found[1:],
    "a manifest that comes last": lambda found: [*found[1:], found[0]],
    "a manifest that is none": lambda found: [(found[0][0], b"[" * 5000), *found[1:]],
    "another format": lambda found: with_manifest(found, lambda told: told.update(format=2)),
    "more in the manifest": lambda found: with_manifest(found, lambda told: told.update(x=1)),
    "an id that is a path": another_id("../../20260101T000000.000Z-x-0000"),
    "an id that is none": another_id("evil"),
    "the id of another run": another_id("20260101T000000.000Z-x-0000"),
    "a size without end": lambda found: with_manifest(
        found, lambda told: told["files"]["result.json"].update(size=1 << 60)
    ),
    "nothing": lambda _: [],
}


@pytest.mark.parametrize("made", HOSTILE.values(), ids=HOSTILE)
def test_what_is_not_what_it_says_is_refused_and_leaves_nothing(
    tmp_path: Path, file: Path, made: Callable[[Members], Members]
) -> None:
    put(tmp_path / "evil.tar", made(members(file)))
    with pytest.raises(LabctlError, match="no exported run") as told:
        bring_in(tmp_path / "evil.tar", tmp_path / "here")
    assert len(told.value.message.splitlines()) == 1
    assert list((tmp_path / "here").iterdir()) == []
    put(tmp_path / "good.tar", members(file))
    assert bring_in(tmp_path / "good.tar", tmp_path / "here")[1]


def test_a_file_that_is_cut_anywhere_is_refused(tmp_path: Path, file: Path) -> None:
    whole = file.read_bytes()
    with tarfile.open(file) as opened:
        last = opened.getmembers()[-1]
    end = last.offset_data + last.size
    for size in (0, 1, 511, 512, 700, end // 2, end - 1):
        (tmp_path / "cut.tar").write_bytes(whole[:size])
        with pytest.raises(LabctlError, match="no exported run"):
            bring_in(tmp_path / "cut.tar", tmp_path / "here")
    assert list((tmp_path / "here").iterdir()) == []


def test_a_pipe_is_no_file_to_import(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(LabctlError, match="no file"):
        bring_in(tmp_path / "pipe", tmp_path / "here")


def test_what_a_killed_import_left_goes_with_the_next(tmp_path: Path, file: Path) -> None:
    from labctl.sandbox import owned

    (tmp_path / "here").mkdir()
    left = tmp_path / "here" / ".importing-left"
    owned.make(left)
    (left / "run").mkdir()
    name, _ = bring_in(file, tmp_path / "here")
    assert [one.name for one in (tmp_path / "here").iterdir()] == [name]


def test_more_than_is_bearable_is_refused(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "MOST_BYTES", 100)
    with pytest.raises(LabctlError, match="more than"):
        bring_in(file, tmp_path / "here")
