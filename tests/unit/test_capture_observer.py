"""The observer's own bounds, without a socket."""

from __future__ import annotations

from pathlib import Path

import pytest

from labctl.kinds.observers.observe import RECEIVE_BUFFER, receive_buffer


@pytest.mark.parametrize(
    ("meminfo", "bytes_"),
    [
        ("MemTotal: 94804 kB\nMemFree: 30636 kB\nMemAvailable: 43568 kB\n", 43568 * 128),
        ("MemAvailable: 16000000 kB\n", RECEIVE_BUFFER),
        ("MemTotal: 94804 kB\n", RECEIVE_BUFFER),
    ],
    ids=["small guest", "large host", "kernel before 3.14"],
)
def test_the_receive_buffer_is_a_share_of_what_memory_is_free(
    tmp_path: Path, meminfo: str, bytes_: int
) -> None:
    file = tmp_path / "meminfo"
    file.write_text(meminfo)
    assert receive_buffer(str(file)) == bytes_
