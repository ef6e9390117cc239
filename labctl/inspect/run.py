"""From a file to its report: reading and judging overlap, in memory that does not grow."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from labctl.inspect import pcap, pcapng
from labctl.inspect.batch import Batch, Windows
from labctl.inspect.report import Report
from labctl.inspect.source import HINT, Ending, FormatError, opened
from labctl.inspect.tally import Tally
from labctl.inspect.vector import Judged, judge_batch

WINDOW = 4 << 20
"""Bytes read and judged at once: large enough for arrays to pay off, small for caches."""
MTU = 1500


def inspect(path: Path | None, *, mtu: int = MTU, show: int = 10, window: int = WINDOW) -> Report:
    """Judge every frame of a capture; None reads standard input.

    `mtu`, in bytes, is for interfaces of which the file does not tell it: longer frames were
    merged. `show` is how many offenders of each state are kept. `window` is for tests.

    Raises `UsageError` for what cannot be read and `FormatError` for what is no capture. A file
    that is cut or damaged later on is judged up to there, and the report says so.
    """
    tally = Tally(mtu, show)
    ending = Ending(str(path or "standard input"))
    with opened(path, ending) as read_into:
        described, windows, batches = _batches(read_into, ending, window)
        with ThreadPoolExecutor(_workers()) as pool:
            waiting: deque[tuple[Batch, Future[Judged]]] = deque()

            def oldest() -> None:
                batch, judged = waiting.popleft()
                tally.add(batch, judged.result())
                windows.give_back(batch.window)

            interfaces = []
            for batch in batches:
                interfaces = batch.interfaces
                waiting.append((batch, pool.submit(judge_batch, batch, mtu)))
                if len(waiting) > _workers():
                    oldest()
            while waiting:
                oldest()
    return Report.of(ending.name, described, ending.note, interfaces, tally)


def walk(path: Path, *, mtu: int = MTU, window: int = WINDOW) -> Iterator[tuple[Batch, Judged]]:
    """Yield each batch with its judgement, one after the other; see `inspect`."""
    ending = Ending(str(path))
    with opened(path, ending) as read_into:
        _, windows, batches = _batches(read_into, ending, window)
        for batch in batches:
            yield batch, judge_batch(batch, mtu)
            windows.give_back(batch.window)


def _workers() -> int:
    # Array arithmetic leaves the interpreter lock, the walk over records does not: two are enough
    # to keep both busy, and more would only hold more windows.
    return min(2, len(os.sched_getaffinity(0)))


def _batches(
    read_into: Callable[[memoryview], int], ending: Ending, size: int
) -> tuple[str, Windows, Iterator[Batch]]:
    windows = Windows(read_into, size)
    magic = windows.window[: min(4, windows.end)].tobytes()
    if magic in pcap.MAGICS:
        return pcap.describe(magic), windows, pcap.read(windows, ending)
    if magic == pcapng.MAGIC:
        return "pcapng", windows, pcapng.read(windows, ending)
    if ending.note:
        raise FormatError(f"{ending.name} holds nothing: {ending.note}", HINT)
    if not magic:
        raise FormatError(f"{ending.name} is empty", HINT)
    raise FormatError(f"{ending.name} is no capture file: it starts with {magic.hex(' ')}", HINT)
