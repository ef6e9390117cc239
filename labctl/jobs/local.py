"""The engine of this machine: a process a job, as many at once as there is room for."""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from pathlib import Path

from labctl.jobs.child import Child
from labctl.jobs.model import Ended, How, Job, News, Place

HERE = "here"


def cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0))


class Local:
    """Processes on this machine."""

    def __init__(self, place: Place, folder: Callable[[Job], Path]) -> None:
        """Run jobs at `place`; `folder` returns a new folder for what a job writes."""
        self._place = place
        self._folder = folder
        self._children: list[Child] = []
        self._ended: list[Ended] = []
        self._stopped = False

    def start(self, job: Job, place: str) -> None:
        """See `Engine`."""
        if self._stopped:
            return
        try:
            self._children.append(Child(job, place, self._folder(job)))
        except OSError as error:
            self._ended.append(Ended(job, place, How.CRASHED, f"cannot be started: {error}"))

    def wait(self, seconds: float) -> News:
        """See `Engine`."""
        if self._children and not self._ended:
            poll = select.poll()
            for child in self._children:
                poll.register(child.handle, select.POLLIN)
            soonest = min(seconds, *(child.left for child in self._children))
            poll.poll(int(soonest * 1000))
        found, self._ended = self._ended, []
        for child in list(self._children):
            if ended := child.look():
                self._children.remove(child)
                found.append(ended)
        return News(tuple(found), {self._place.name: self._place}, final=True)

    def stop(self) -> None:
        """See `Engine`."""
        self._stopped = True
        for child in self._children:
            child.tell_to_end()
        while self._children:
            self._children[0].finish()
            self._children.pop(0)
