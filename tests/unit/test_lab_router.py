"""What a router's program tells may come from a dom0, where anything may have written it."""

from __future__ import annotations

import pytest

from labctl.errors import HostError
from labctl.lab.router import _counters


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
