"""A router of a running lab: how its kind comes and goes, and what its program may tell."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest

from labctl.errors import HostError, LabctlError, UsageError
from labctl.kinds import registry
from labctl.kinds.base import Effect, ForwarderKind, RunningRouter
from labctl.lab.router import Router, _counters
from labctl.sandbox.base import ExecutionContext
from labctl.topology import model


def test_the_counters_of_a_program_are_read() -> None:
    assert _counters('{"counters": {"forwarded": 3, "no_route": 0}}', "r1") == {
        "forwarded": 3,
        "no_route": 0,
    }


@pytest.mark.parametrize(
    "line",
    [
        "",
        "hello",
        "[]",
        "7",
        "null",
        "[[1]]",
        "{}",
        '{"counters": []}',
        '{"counters": {"forwarded": "3"}}',
        '{"counters": {"forwarded": null}}',
        '{"counters": {"forwarded": 1e400}}',
        "[" * 100_000,
        "\x1b[2J\udc80",
    ],
)
def test_what_is_no_counters_is_an_error_that_names_the_router(line: str) -> None:
    with pytest.raises(HostError, match="the router program of r1 told no counters") as wrong:
        _counters(line, "r1")
    assert len(str(wrong.value)) < 300


class Somewhere:
    """A place that notes what is done in it, where one program runs until it is killed."""

    python = ("python3",)

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.done: list[str] = []
        self.running: dict[int, str] = {}

    def call(self, function: Callable[..., Any], *args: object) -> None:
        if function.__name__ == "kill":
            self.running.pop(cast("int", args[0]))
        self.done.append(f"{function.__name__} {args[1]}")

    def runs(self, pid: int, words: str) -> bool:
        return words in self.running.get(pid, "")


class Failing(ForwarderKind):
    name = "failing"
    summary = "it never comes up"
    effect = Effect.KEEPS
    counters: ClassVar[Mapping[str, str]] = {}
    stopped = 0

    def start(self, router: RunningRouter) -> None:
        router.set_kernel_forwarding(True)
        raise HostError("it has not worked")

    def stop(self, router: RunningRouter) -> None:  # noqa: ARG002
        self.stopped += 1
        raise LabctlError("nor this")

    def count(self, router: RunningRouter) -> dict[str, int]:
        return router.kernel_counters()


MODEL = model.Router("r1", "failing", (), ())


def made(tmp_path: Path, of: model.Router = MODEL) -> tuple[Router, Somewhere]:
    where = Somewhere(tmp_path)
    return Router(cast("ExecutionContext", where), tmp_path, of), where


def test_a_kind_that_does_not_start_leaves_nothing_that_forwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    router, where = made(tmp_path)
    kind = Failing()
    monkeypatch.setattr(registry, "forwarder", lambda _name: kind)
    with pytest.raises(HostError, match="it has not worked"):
        router.set_kind("failing")
    assert kind.stopped == 1
    assert where.done[-2:] == ["set_forwarding True", "set_forwarding False"]
    assert router.kind is None
    assert not router.forwards()
    assert router.counters() == {}


def test_what_there_is_not_takes_nothing_away(tmp_path: Path) -> None:
    router, where = made(tmp_path)
    router.set_kind("namespace")
    where.done.clear()
    with pytest.raises(UsageError, match="no router kind 'failing'"):
        router.set_kind("failing")
    assert where.done == []
    assert router.kind == "namespace"


@pytest.mark.parametrize("noted", ["7 somebody.program", "8"])
def test_a_program_is_ended_without_its_kind(tmp_path: Path, noted: str) -> None:
    router, where = made(tmp_path)
    (tmp_path / "routers/r1.kind").write_text("gone")
    (tmp_path / "routers/r1.pid").write_text(noted)
    where.running = {7: "python3 -m somebody.program", 8: "python3 -m labctl.routers.raw"}
    assert router.kind == "gone"
    router.stop()
    assert router.kind is None
    assert len(where.running) == 1
    assert int(noted.split()[0]) not in where.running
    assert not (tmp_path / "routers/r1.pid").exists()


def test_a_program_that_is_not_ours_is_refused_in_a_dom0(tmp_path: Path) -> None:
    router, where = made(tmp_path, dataclasses.replace(MODEL, host="xen1"))
    with pytest.raises(HostError, match=r"somebody\.program is not in dom0 of xen1"):
        router.start_program("somebody.program")
    assert where.done == []
