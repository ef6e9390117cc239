"""What a router's program keeps while neighbours are asked for: within bounds, whoever sends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from labctl.routers import raw
from labctl.routers.tables import Key

MAC = b"\x52\x54\x00\x00\x00\x01"


class Known:
    """Tables in which nobody is known until it is said."""

    def __init__(self) -> None:
        self.macs: dict[int, bytes] = {}
        self.news: list[tuple[Key, bool]] = []

    def ask(self, _key: Key) -> None:
        """Nobody answers."""

    def mac(self, _key: Key) -> bytes:
        return MAC

    def changes(self) -> Iterator[tuple[Key, bool]]:
        news, self.news = self.news, []
        return iter(news)


@pytest.fixture
def router(monkeypatch: pytest.MonkeyPatch) -> raw.Router:
    """A router without a port, with room for ten frames of 100 bytes."""
    monkeypatch.setattr(raw, "MOST_WAITING", 1000)
    made = raw.Router.__new__(raw.Router)
    tables: Any = Known()
    ports: Any = {1: None}
    made.ports, made.counters, made.tables = ports, Counter(), tables
    made._waiting, made._held = {}, 0
    return made


def send(router: raw.Router, count: int) -> None:
    for number in range(count):
        router._wait((1, number.to_bytes(16, "big")), bytearray(100))


def waiting(router: raw.Router) -> int:
    return sum(len(queue) for _, queue in router._waiting.values())


def test_frames_for_many_neighbours_wait_within_one_bound(router: raw.Router) -> None:
    """A guest that sends to each address of a /64 would fill the host's memory."""
    send(router, 5000)
    assert waiting(router) == len(router._waiting) == 10
    assert router.counters["queue_full"] == 4990


def test_no_more_neighbours_are_asked_for_than_the_kernel_knows(
    router: raw.Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw, "MOST_ASKED", 3)
    send(router, 5)
    send(router, 5)
    assert len(router._waiting) == 3
    assert waiting(router) == 6
    assert router.counters["queue_full"] == 4


def test_what_waits_no_more_makes_room(router: raw.Router) -> None:
    send(router, 20)
    router._waiting = {key: (0.0, queue) for key, (_, queue) in router._waiting.items()}
    router.give_up()
    assert router.counters["unresolved"] == 10
    send(router, 20)
    tables: Any = router.tables
    tables.news = [(key, number % 2 == 0) for number, key in enumerate(list(router._waiting))]
    tables.news.append(((1, b"nobody waits for this one"), True))
    router.learn()
    assert (router.counters["unresolved"], router.counters["send_errors"]) == (15, 5)
    assert router._held == 0
