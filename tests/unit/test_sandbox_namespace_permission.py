"""Why a host lets nobody make namespaces: one cause, one way to mend it."""

from __future__ import annotations

import os
import pwd
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from labctl.sandbox import namespace_permission

DENIED = "unshare: unshare failed: Operation not permitted"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host that allows all, to the user eve; its /etc and /proc are folders here."""
    (tmp_path / "self").mkdir()
    status(tmp_path, NoNewPrivs="0", Seccomp="0")
    for name in ("subuid", "subgid"):
        (tmp_path / name).write_text("ann:100000:65536\neve:165536:65536\n")
    monkeypatch.setattr(namespace_permission, "ETC", tmp_path)
    monkeypatch.setattr(namespace_permission, "PROC", tmp_path)
    monkeypatch.setattr(namespace_permission, "SYS", tmp_path / "sysfs")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    monkeypatch.setattr(os, "getgid", lambda: 1000)
    monkeypatch.setattr(pwd, "getpwuid", lambda _: SimpleNamespace(pw_name="eve", pw_gid=1000))
    monkeypatch.setattr(shutil, "which", lambda *_, **__: "/usr/bin/newuidmap")
    return tmp_path


def status(host: Path, **fields: str) -> None:
    (host / "self/status").write_text(
        "".join(f"{key}:\t{value}\n" for key, value in fields.items())
    )


def fix(host: Path, name: str, value: str) -> None:
    path = host / "sys" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{value}\n")


@pytest.mark.parametrize(
    ("name", "good", "bad", "better"),
    [
        ("user/max_user_namespaces", "15000", "0", "user.max_user_namespaces=10000"),
        ("user/max_net_namespaces", "15000", "0", "user.max_net_namespaces=10000"),
        ("kernel/unprivileged_userns_clone", "1", "0", "kernel.unprivileged_userns_clone=1"),
        (
            "kernel/apparmor_restrict_unprivileged_userns", "0", "1",
            "kernel.apparmor_restrict_unprivileged_userns=0",
        ),
    ],
)  # fmt: skip
def test_a_setting_that_forbids_is_named_with_what_it_should_be(
    host: Path, name: str, good: str, bad: str, better: str
) -> None:
    fix(host, name, good)
    assert "sysctl" not in namespace_permission.hint(DENIED)
    fix(host, name, bad)
    assert f"sysctl -w {better} " in namespace_permission.hint(DENIED)


@pytest.mark.parametrize(
    "said",
    [
        "unshare: write failed /proc/self/uid_map: Operation not permitted",
        "unshare: cannot change root filesystem propagation: Permission denied",
        "mount: /run: permission denied.",
        "bringing lo up: Operation not permitted",
    ],
)
def test_where_apparmor_lets_a_namespace_be_made_and_nothing_be_done_in_it_it_is_named(
    host: Path, said: str
) -> None:
    fix(host, "kernel/apparmor_restrict_unprivileged_userns", "1")
    assert "apparmor_restrict_unprivileged_userns=0" in namespace_permission.hint(said)


@pytest.mark.parametrize(
    ("enabled", "said", "named"),
    [
        ("Y", "unshare: unshare failed: Permission denied", True),
        ("N", "unshare: unshare failed: Permission denied", False),
        ("Y", DENIED, False),
    ],
)
def test_an_apparmor_profile_that_denies_it_is_told_by_its_errno(
    host: Path, enabled: str, said: str, named: bool
) -> None:
    parameters = host / "sysfs/module/apparmor/parameters"
    parameters.mkdir(parents=True)
    (parameters / "enabled").write_text(f"{enabled}\n")
    assert ("AppArmor profile" in namespace_permission.hint(said)) is named


@pytest.mark.parametrize(
    ("said", "fields", "remedy"),
    [
        (DENIED, {"Seccomp": "2"}, "seccomp=unconfined"),
        ("newuidmap: write to uid_map failed: Operation not permitted", {}, "--reinstall uidmap"),
        ("unshare: mount /proc failed: Operation not permitted", {}, "systempaths=unconfined"),
        (DENIED, {}, "dmesg"),
    ],
)  # fmt: skip
def test_what_a_sandbox_forbids_is_told_by_what_was_said(
    host: Path, said: str, fields: dict[str, str], remedy: str
) -> None:
    status(host, **fields)
    assert remedy in namespace_permission.hint(said)


def test_root_is_told_what_a_container_must_grant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert "CAP_SYS_ADMIN" in namespace_permission.hint(DENIED)


@pytest.mark.parametrize(
    ("subuid", "subgid", "words"),
    [
        ("ann:100000:65536", "ann:300000:100", [
            "--add-subuids 300100-365635 --add-subgids 300100-365635", "subuid and "]),
        ("eve:100000:65536", "", ["usermod --add-subgids 165536-231071 eve", "/etc/subgid give"]),
        ("", "1000:100000:65536", ["usermod --add-subuids 165536-231071 eve"]),
        (None, None, ["--add-subuids 100000-165535 --add-subgids 100000-165535 eve"]),
        ("eve:100000:0", "eve:x:65536\nnonsense", ["--add-subuids 100000-165535 --add-subgids"]),
    ],
)  # fmt: skip
def test_who_has_no_range_of_ids_is_given_one_that_nobody_has(
    host: Path, subuid: str | None, subgid: str | None, words: list[str]
) -> None:
    assert namespace_permission.no_ids() is None
    for name, text in (("subuid", subuid), ("subgid", subgid)):
        if text is None:
            (host / name).unlink()
        else:
            (host / name).write_text(text)
    lacking = namespace_permission.no_ids()
    assert lacking
    for word in words:
        assert word in f"{lacking.message}: {lacking.hint}"


@pytest.mark.usefixtures("host")
def test_a_program_that_gives_ids_is_asked_for_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    lacking = namespace_permission.no_ids()
    assert lacking
    assert "apt-get install uidmap" in lacking.hint


@pytest.mark.usefixtures("host")
def test_a_user_without_a_name_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_: int) -> None:
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    lacking = namespace_permission.no_ids()
    assert lacking
    assert "does not know user 1000" in lacking.message


def test_where_newuidmap_would_refuse_it_is_not_asked(
    host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status(host, NoNewPrivs="1")
    lacking = namespace_permission.no_ids()
    assert lacking
    assert "no_new_privs" in lacking.message
    monkeypatch.setattr(os, "getgid", lambda: 106)
    lacking = namespace_permission.no_ids()
    assert lacking
    assert "newgrp" in lacking.hint
